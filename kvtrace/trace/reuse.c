/* Reuse distances by a Fenwick tree over the order of touches: see reuse.py. */
#include "core.h"

#define FIRST (-1)

struct kv_reuse {
	int64_t *last;      /* of each key: its place in the order, or −1 */
	int64_t keys;
	int64_t *tree;      /* of places + 1; entry 0 isn't used */
	int64_t places;
	int64_t now;        /* the next place */
	int64_t followed;   /* keys that have a place */
};

KV_SIZE(reuse, struct kv_reuse)

static void add(struct kv_reuse *reuse, int64_t place, int64_t value)
{
	for (int64_t at = place + 1; at <= reuse->places; at += at & -at)
		reuse->tree[at] += value;
}

static int64_t up_to(const struct kv_reuse *reuse, int64_t place)
{
	int64_t total = 0;

	for (int64_t at = place + 1; at > 0; at &= at - 1)
		total += reuse->tree[at];
	return total;
}

/* Touch keys from `begin` on until the order is full, or a key isn't one; return where it stopped. */
KV_EXPORT int64_t kv_reuse_touch(struct kv_reuse *reuse, const int64_t *numbers, const bool *gone,
				 int64_t begin, int64_t count, int64_t *out)
{
	for (int64_t i = begin; i < count; i++) {
		int64_t number = numbers[i], before;

		if (reuse->now == reuse->places || number < 0 || number >= reuse->keys)
			return i;
		before = reuse->last[number];
		out[i] = FIRST;
		if (before >= 0) {
			out[i] = reuse->followed - up_to(reuse, before);
			add(reuse, before, -1);
			reuse->followed--;
		}
		reuse->last[number] = -1;
		if (!gone[i]) {
			reuse->last[number] = reuse->now;
			add(reuse, reuse->now, 1);
			reuse->now++;
			reuse->followed++;
		}
	}
	return count;
}
