/* The check, from the times of ops, that order was kept; see violations.py. */
#include "histogram.h"
#include "../../kvtrace/placement/rows.h"

/* Of one key on one tier: when all earlier ops, and all writes and deletes, are done; the last evict
 * write, 1 + its place in the trace, and when it is done. */
struct tier_state {
	int64_t all_done;
	int64_t alone_done;
	int64_t evict_row;
	int64_t evict_done;
};

struct place_state {
	int64_t all_done;
	int64_t write_done;
};

/* Columns of ops; Ran of violations.py. */
struct kv_ran {
	const int32_t *index; /* of the key, or the place */
	const int64_t *number;
	const uint8_t *tier;
	const uint8_t *op;
	const uint8_t *phase;
	const int64_t *submit;
	const int64_t *complete;
	int64_t count;
};

KV_SIZE(tier_state, struct tier_state)
KV_SIZE(place_state, struct place_state)
KV_SIZE(ran, struct kv_ran)

/* When the latest evict write of a key on a slower tier is done; 0 without one. */
static int64_t evict_done_below(const struct tier_state *key, int tier)
{
	int64_t latest = 0, done = 0;

	for (int below = tier + 1; below < KV_TIERS; below++) {
		if (key[below].evict_row > latest) {
			latest = key[below].evict_row;
			done = key[below].evict_done;
		}
	}
	return done;
}

/* How many rules between the ops of one key an op breaks: on its tier, and across tiers.
 *
 * When the last transferring read of a key is done stands in the field `evict_done` of tier 0, which
 * no evict write can have: nothing is above it. */
static int check_key(struct tier_state *key, const struct kv_ran *ran, int64_t row)
{
	int tier = ran->tier[row], what = ran->op[row], phase = ran->phase[row];
	int64_t submit = ran->submit[row], complete = ran->complete[row];
	struct tier_state *mine = &key[tier];
	int broken = submit < (what == KV_ROW_READ ? mine->alone_done : mine->all_done);

	if (what == KV_ROW_WRITE) {
		broken += submit < key[0].evict_done;
		if (phase == KV_EVICT && tier > 0) {
			mine->evict_row = ran->number[row] + 1;
			mine->evict_done = complete;
		}
	} else if (what == KV_ROW_DELETE) {
		broken += submit < evict_done_below(key, tier);
	} else if (phase == KV_EVICT || phase == KV_PROMOTE) {
		key[0].evict_done = complete;
	}
	mine->all_done = kv_larger(mine->all_done, complete);
	if (what != KV_ROW_READ)
		mine->alone_done = kv_larger(mine->alone_done, complete);
	return broken;
}

KV_EXPORT int64_t kv_check_keys(const struct kv_ran *ran, struct tier_state (*keys)[KV_TIERS])
{
	int64_t violations = 0;

	for (int64_t row = 0; row < ran->count; row++)
		violations += check_key(keys[ran->index[row]], ran, row);
	return violations;
}

/* Count I/O that begins before what must be over at its extent: all for a write. */
KV_EXPORT int64_t kv_check_places(const struct kv_ran *ran, struct place_state *places)
{
	int64_t violations = 0;

	for (int64_t row = 0; row < ran->count; row++) {
		struct place_state *mine = &places[ran->index[row]];
		bool write = ran->op[row] == KV_ROW_WRITE;

		violations += ran->submit[row] < (write ? mine->all_done : mine->write_done);
		mine->all_done = kv_larger(mine->all_done, ran->complete[row]);
		if (write)
			mine->write_done = kv_larger(mine->write_done, ran->complete[row]);
	}
	return violations;
}
