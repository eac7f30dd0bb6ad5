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

static uint64_t moved_bytes(const struct lane *lane)
{
	return (uint64_t)__atomic_load_n(&lane->run->completed_bytes[lane->index],
					 __ATOMIC_RELAXED);
}

/* A turn begins and ends with a completion: of a slow device, few of which fall into one, those at
 * its ends would decide else. */
static bool turn_ends(struct lane *lane, int64_t now)
{
	struct polling *polling = &lane->polling;
	if (now < polling->until_ns)
		return false;
	uint64_t moved = moved_bytes(lane);
	if (!polling->ending) {
		polling->ending = true;
		polling->seen_bytes = moved;
		return false;
	}
	polling->ending = moved == polling->seen_bytes;
	return !polling->ending;
}

static void next_turn(struct lane *lane, int64_t now)
{
	struct polling *polling = &lane->polling;
	if (polling->turn == TURNS) {
		polling->on = polling->gained[1] * 100 > polling->gained[0] * GAIN_PERCENT;
		polling->turn = 0;
		polling->until_ns = now + KEEP_NS;
		polling->gained[0] = polling->gained[1] = 0;
		return;
	}
	polling->on = polling->turn % 2 == 0;
	polling->turn++;
	polling->until_ns = now + TURN_NS;
	polling->since_ns = now;
	polling->since_bytes = moved_bytes(lane);
}

bool polling_pays(struct lane *lane, int64_t now)
{
	struct polling *polling = &lane->polling;
	if (!lane->run->spin_adapts)
		return true;
	if (turn_ends(lane, now)) {
		if (polling->turn) {
			uint64_t bytes = moved_bytes(lane) - polling->since_bytes;
			polling->gained[polling->on] += bytes * 1000000 / (uint64_t)(now - polling->since_ns);
		}
		next_turn(lane, now);
	}
	return polling->on;
}
