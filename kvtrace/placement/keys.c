#include "keys.h"

/* Fill in the index of each of `wanted`; return how many keys there are then. */
KV_EXPORT int64_t kv_keys_add(uint64_t *entries, int64_t mask, uint64_t *known, int64_t count,
			      const uint64_t *wanted, int64_t wanted_count, int32_t *indices)
{
	struct kv_keys keys = kv_keys_of(entries, mask, known, count);

	for (int64_t at = 0; at < wanted_count; at++) {
		if (at + KV_KEYS_AHEAD < wanted_count)
			kv_keys_prefetch(&keys, wanted[at + KV_KEYS_AHEAD]);
		indices[at] = (int32_t)kv_find_or_add(&keys, wanted[at]);
	}
	return keys.count;
}

/* Enter keys that aren't in the table yet. */
KV_EXPORT void kv_keys_fill(uint64_t *entries, int64_t mask, uint64_t *known, int64_t count)
{
	struct kv_keys keys = kv_keys_of(entries, mask, known, count);

	for (int64_t index = 0; index < count; index++)
		kv_insert(&keys.table, index);
}
