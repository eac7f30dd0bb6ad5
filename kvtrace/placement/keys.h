/* Keys and their indices, in order of first appearance; the table holds the keys themselves. */
#ifndef KV_KEYS_H
#define KV_KEYS_H

#include "../native/hashmap.h"

/* How far ahead of a row its key's entry is asked for. */
#define KV_KEYS_AHEAD 12

struct kv_keys {
	struct kv_table table;
	uint64_t *keys;
	int64_t count;
};

static inline struct kv_keys kv_keys_of(uint64_t *entries, int64_t mask, uint64_t *keys, int64_t count)
{
	struct kv_table table = {entries, (uint64_t)mask, (const char *)keys, sizeof *keys};

	return (struct kv_keys){table, keys, count};
}

KV_PREFETCHING void kv_keys_prefetch(const struct kv_keys *keys, uint64_t key)
{
	__builtin_prefetch(kv_first_entry(&keys->table, (int64_t)key));
}

/* The index of a key, which gets the next one if it is new; there is room for it. */
static inline int64_t kv_find_or_add(struct kv_keys *keys, uint64_t key)
{
	int64_t index = kv_find(&keys->table, (int64_t)key);

	if (index == KV_MISSING) {
		index = keys->count++;
		keys->keys[index] = key;
		kv_insert(&keys->table, index);
	}
	return index;
}

#endif
