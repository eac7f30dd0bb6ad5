/* Objects that tools follow through a trace: see diff.py, live.py, profile_keys.py and
 * profile_tier.py. Each loop returns false if there isn't room for all its rows.
 */
#include "hashmap.h"
#include "../trace/cell.h"

static int64_t most(int64_t one, int64_t other)
{
	return one > other ? one : other;
}

/* Give each key a number; a deleted key's number is given away again. */
KV_EXPORT bool kv_number(struct kv_pool *pool, const uint8_t *op, const int64_t *key, int64_t count,
			 int64_t *out)
{
	if (!kv_has_room(pool, count))
		return false;
	for (int64_t i = 0; i < count; i++) {
		int64_t slot = kv_find(&pool->table, key[i]);

		if (slot == KV_MISSING)
			slot = kv_take(pool, key[i]);
		out[i] = slot;
		if (op[i] == KV_OP_DELETE)
			kv_give_back(pool, slot);
	}
	return true;
}

struct live {
	int64_t key;
	int64_t size;
	int64_t known;   /* the kept rows have asked for it: whether they met it there is decided */
};

/* Follow objects. `sizes` gets an object's where a kept row is the first to ask, not writing it. */
KV_EXPORT bool kv_live(struct kv_pool *pool, const uint8_t *op, const int64_t *key,
		       const int64_t *end, const bool *kept, int64_t count, int64_t *sizes)
{
	if (!kv_has_room(pool, count))
		return false;
	for (int64_t i = 0; i < count; i++) {
		int64_t slot = op[i] == KV_OP_LOOKUP ? KV_MISSING : kv_find(&pool->table, key[i]);
		struct live *object = slot == KV_MISSING ? NULL : kv_slot(pool, slot);

		if (op[i] == KV_OP_LOOKUP)
			continue;
		if (kept[i] && op[i] != KV_OP_WRITE && !(object && object->known))
			sizes[i] = object ? object->size : end[i];
		if (op[i] == KV_OP_DELETE) {
			if (object)
				kv_give_back(pool, slot);
			continue;
		}
		if (!object) {
			object = kv_slot(pool, kv_take(pool, key[i]));
			object->size = object->known = 0;
		}
		object->size = most(object->size, end[i]);
		object->known |= kept[i];
	}
	return true;
}

struct touched {
	int64_t key;
	int64_t size;
	int64_t slice;   /* in which it was touched first */
};

struct kv_touches {
	struct kv_pool *pool;
	int64_t *fresh;    /* of each slice: bytes touched first in it */
	int64_t slices;
	int64_t added;     /* objects that the last call met first */
};

/* Touch objects; `numbers` gets the slot of each. */
KV_EXPORT bool kv_touch_objects(struct kv_touches *touches, const int64_t *key, const int64_t *end,
			const int64_t *at, int64_t count, int64_t *numbers)
{
	struct kv_pool *pool = touches->pool;

	if (!kv_has_room(pool, count))
		return false;
	touches->added = 0;
	for (int64_t i = 0; i < count; i++) {
		int64_t slot = kv_find(&pool->table, key[i]), grows;
		struct touched *object;

		if (at[i] < 0 || at[i] >= touches->slices)
			return false;
		if (slot == KV_MISSING) {
			slot = kv_take(pool, key[i]);
			object = kv_slot(pool, slot);
			object->size = 0;
			object->slice = at[i];
			touches->added++;
		}
		object = kv_slot(pool, slot);
		grows = most(0, end[i] - object->size);
		object->size += grows;
		touches->fresh[at[i]] += grows;
		numbers[i] = slot;
	}
	return true;
}

struct resting {
	int64_t key;
	int64_t size;
	int64_t last_ns;   /* −1: never touched */
};

struct most_and_last {
	int64_t most;
	int64_t last;
};

struct kv_tier {
	struct kv_pool *pool;
	struct most_and_last *bins;   /* bytes held in each slice of time, and at its end */
	int64_t slices;
	int64_t held;
	int64_t derived;              /* objects that are read before any write */
	int64_t peak;
};

struct kv_tier_rows {
	const uint8_t *op;
	const int64_t *key;
	const int64_t *end;
	const int64_t *time;
	const int64_t *at;     /* slice of time */
	int64_t *numbers;      /* gets each object's slot */
	int64_t *waits;        /* gets the time since it was touched last, or −1 */
};

KV_SIZE(touches, struct kv_touches)
KV_SIZE(tier, struct kv_tier)

/* Take objects, of which none is there, that are held before the first row. */
KV_EXPORT bool kv_tier_reside(struct kv_tier *tier, const int64_t *key, const int64_t *size,
			      int64_t count)
{
	if (!kv_has_room(tier->pool, count))
		return false;
	for (int64_t i = 0; i < count; i++) {
		struct resting *object = kv_slot(tier->pool, kv_take(tier->pool, key[i]));

		object->size = size[i];
		object->last_ns = -1;
		tier->held += size[i];
	}
	tier->peak = most(tier->peak, tier->held);
	return true;
}

static int64_t resting_slot(struct kv_tier *tier, uint8_t op, int64_t key, int64_t end)
{
	int64_t slot = kv_find(&tier->pool->table, key);
	struct resting *object;

	if (slot != KV_MISSING)
		return slot;
	slot = kv_take(tier->pool, key);
	object = kv_slot(tier->pool, slot);
	object->size = op == KV_OP_READ ? end : 0;
	object->last_ns = -1;
	tier->held += object->size;
	tier->derived += op == KV_OP_READ;
	return slot;
}

static void follow(struct kv_tier *tier, const struct kv_tier_rows *rows, int64_t i)
{
	int64_t slot = resting_slot(tier, rows->op[i], rows->key[i], rows->end[i]);
	struct resting *object = kv_slot(tier->pool, slot);
	struct most_and_last *bin = &tier->bins[rows->at[i]];

	rows->numbers[i] = slot;
	rows->waits[i] = object->last_ns >= 0 ? rows->time[i] - object->last_ns : -1;
	object->last_ns = rows->time[i];
	if (rows->op[i] == KV_OP_WRITE) {
		tier->held += most(0, rows->end[i] - object->size);
		object->size = most(rows->end[i], object->size);
	} else if (rows->op[i] == KV_OP_DELETE) {
		tier->held -= object->size;
		kv_give_back(tier->pool, slot);
	}
	tier->peak = most(tier->peak, tier->held);
	bin->most = most(bin->most, tier->held);
	bin->last = tier->held;
}

KV_EXPORT bool kv_tier_follow(struct kv_tier *tier, const struct kv_tier_rows *rows, int64_t count)
{
	if (!kv_has_room(tier->pool, count))
		return false;
	for (int64_t i = 0; i < count; i++) {
		if (rows->at[i] < 0 || rows->at[i] >= tier->slices)
			return false;
		follow(tier, rows, i);
	}
	return true;
}
