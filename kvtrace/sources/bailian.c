/* Sessions of chats and their parents: see bailian.py. */
#include "core.h"

#define UNSEEN (-1)

struct kv_chats {
	int64_t *session;    /* of each chat, or UNSEEN */
	int64_t chats;
	int64_t sessions;    /* given away so far */
	int64_t orphans;     /* chats whose parent is unseen, of the last call */
	int64_t again;       /* the first row whose chat was seen before, of the last call, or −1 */
};

KV_SIZE(chats, struct kv_chats)

/* Fill in the session of each (chat, parent) up to one that was seen before; return false at a chat
 * that there isn't. */
KV_EXPORT bool kv_chats_follow(struct kv_chats *chats, const int64_t *pairs, const bool *roots,
			       int64_t count, int64_t *out)
{
	int64_t *session = chats->session;

	chats->orphans = 0;
	chats->again = -1;
	for (int64_t i = 0; i < count; i++) {
		int64_t chat = pairs[2 * i], parent = pairs[2 * i + 1];

		if (chat < 0 || chat >= chats->chats || parent < 0 || parent >= chats->chats)
			return false;
		if (session[chat] != UNSEEN) {
			chats->again = i;
			return true;
		}
		if (!roots[i] && session[parent] != UNSEEN) {
			session[chat] = session[parent];
		} else {
			chats->orphans += !roots[i];
			session[chat] = chats->sessions++;
		}
		out[i] = session[chat];
	}
	return true;
}
