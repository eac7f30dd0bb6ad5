/* Tables for callers in Python: see hashmap.py. Of a table `entries` there are mask + 1. */
#include "hashmap.h"

static struct kv_table table_of(uint64_t *entries, int64_t mask, const int64_t *ids)
{
	return (struct kv_table){entries, (uint64_t)mask, (const char *)ids, sizeof *ids};
}

/* Enter all entries of a table of `count` entries into an empty one. */
KV_EXPORT void kv_table_copy(const uint64_t *from, int64_t count, uint64_t *to, int64_t mask)
{
	for (int64_t i = 0; i < count; i++) {
		if (from[i]) {
			uint64_t at = from[i] >> 32 & (uint64_t)mask;

			while (to[at])
				at = (at + 1) & (uint64_t)mask;
			to[at] = from[i];
		}
	}
}

/* The slot of each id, or KV_MISSING. */
KV_EXPORT void kv_interned(uint64_t *entries, int64_t mask, const int64_t *slots,
			   const int64_t *ids, int64_t count, int64_t *out)
{
	struct kv_table table = table_of(entries, mask, slots);

	for (int64_t i = 0; i < count; i++)
		out[i] = kv_find(&table, ids[i]);
}

/* Number ids densely in order of first appearance; return how many are known then. */
KV_EXPORT int64_t kv_intern(uint64_t *entries, int64_t mask, int64_t *slots, int64_t known,
			    const int64_t *ids, int64_t count, int64_t *out)
{
	struct kv_table table = table_of(entries, mask, slots);

	for (int64_t i = 0; i < count; i++) {
		out[i] = kv_find(&table, ids[i]);
		if (out[i] == KV_MISSING) {
			slots[known] = ids[i];
			kv_insert(&table, known);
			out[i] = known++;
		}
	}
	return known;
}

KV_SIZE(pool, struct kv_pool)

/* The slot of each id, or KV_MISSING. */
KV_EXPORT void kv_pool_find(const struct kv_pool *pool, const int64_t *ids, int64_t count,
			    int64_t *out)
{
	for (int64_t i = 0; i < count; i++)
		out[i] = kv_find(&pool->table, ids[i]);
}

/* Enter ids, of which none is there, each in a slot of its own. Return false without room. */
KV_EXPORT bool kv_pool_take(struct kv_pool *pool, const int64_t *ids, int64_t count, int64_t *out)
{
	if (!kv_has_room(pool, count))
		return false;
	for (int64_t i = 0; i < count; i++)
		out[i] = kv_take(pool, ids[i]);
	return true;
}

/* Take out slots, which are in use. */
KV_EXPORT void kv_pool_give_back(struct kv_pool *pool, const int64_t *slots, int64_t count)
{
	for (int64_t i = 0; i < count; i++)
		kv_give_back(pool, slots[i]);
}
