/* Whether a lane polls for completions before it blocks, where that is for the lane to find out.
 *
 * Polling answers a device sooner, unless the device's own work needs this CPU: a loop device copies
 * in kernel threads. Which it is can't be told from the device, so both ways are tried, in turns of a
 * few milliseconds, and the one that moves more bytes is kept for a while. */
#include "loop.h"

#define TURN_NS 4000000LL
#define TURNS 6u /* of a trial, polling and not in turns */
#define KEEP_NS 500000000LL
/* Polling burns CPU, so it has to gain this much. */
#define GAIN_PERCENT 102u

/* A turn begins and ends with a completion: of a slow device, few of which fall into one, those at
 * its ends would decide else. */
static bool turn_ends(struct kv_polling *polling, int64_t now_ns, uint64_t moved_bytes)
{
	if (now_ns < polling->until_ns)
		return false;
	if (!polling->ending) {
		polling->ending = true;
		polling->seen_bytes = moved_bytes;
		return false;
	}
	polling->ending = moved_bytes == polling->seen_bytes;
	return !polling->ending;
}

static void next_turn(struct kv_polling *polling, int64_t now_ns, uint64_t moved_bytes)
{
	if (polling->turn == TURNS) {
		polling->on = polling->gained[1] * 100 > polling->gained[0] * GAIN_PERCENT;
		polling->turn = 0;
		polling->until_ns = now_ns + KEEP_NS;
		polling->gained[0] = polling->gained[1] = 0;
		return;
	}
	polling->on = polling->turn % 2 == 0;
	polling->turn++;
	polling->until_ns = now_ns + TURN_NS;
	polling->since_ns = now_ns;
	polling->since_bytes = moved_bytes;
}

bool kv_polling_pays(struct kv_polling *polling, int64_t now_ns, uint64_t moved_bytes)
{
	if (turn_ends(polling, now_ns, moved_bytes)) {
		if (polling->turn) {
			uint64_t bytes = moved_bytes - polling->since_bytes;
			uint64_t took_ns = (uint64_t)(now_ns - polling->since_ns);
			polling->gained[polling->on] += bytes * 1000000 / took_ns;
		}
		next_turn(polling, now_ns, moved_bytes);
	}
	return polling->on;
}

bool polling_pays(struct lane *lane, int64_t now_ns)
{
	if (!lane->run->spin_adapts)
		return true;
	const int64_t *moved = &lane->run->completed_bytes[lane->index];
	return kv_polling_pays(&lane->polling, now_ns,
			       (uint64_t)__atomic_load_n(moved, __ATOMIC_RELAXED));
}
