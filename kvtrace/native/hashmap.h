/* An open-addressing table from 64-bit identities to slots.
 *
 * An entry is the upper half of an identity's hash above slot + 1 (0: empty); the identities lie
 * with the caller, at the start of each of its slots, and are looked at only where the hashes
 * agree. Linear probing, backward-shift deletion; its owner keeps at most half of it full.
 */
#ifndef KV_HASHMAP_H
#define KV_HASHMAP_H

#include "core.h"

struct kv_table {
	uint64_t *entries;
	uint64_t mask;        /* a power of two entries, less one */
	const char *slots;    /* the caller's: an identity, then what is the caller's own */
	size_t slot_bytes;
};

/* The finalizer of MurmurHash3 (public domain), of which the upper half is taken. */
static inline uint32_t kv_hash(int64_t ident)
{
	uint64_t mixed = (uint64_t)ident;

	mixed ^= mixed >> 33;
	mixed *= 0xFF51AFD7ED558CCDull;
	mixed ^= mixed >> 33;
	mixed *= 0xC4CEB9FE1A85EC53ull;
	mixed ^= mixed >> 33;
	return (uint32_t)(mixed >> 32);
}

static inline int64_t kv_ident(const struct kv_table *table, int64_t slot)
{
	int64_t ident;

	memcpy(&ident, table->slots + (size_t)slot * table->slot_bytes, sizeof ident);
	return ident;
}

/* The entry at which the search for `ident` begins. */
static inline const uint64_t *kv_first_entry(const struct kv_table *table, int64_t ident)
{
	return &table->entries[kv_hash(ident) & table->mask];
}

/* The slot of `ident`, or KV_MISSING. */
static inline int64_t kv_find(const struct kv_table *table, int64_t ident)
{
	uint32_t wanted = kv_hash(ident);

	for (uint64_t at = wanted & table->mask; table->entries[at]; at = (at + 1) & table->mask) {
		uint64_t entry = table->entries[at];

		if (entry >> 32 == wanted) {
			int64_t slot = (int64_t)(uint32_t)entry - 1;

			if (kv_ident(table, slot) == ident)
				return slot;
		}
	}
	return KV_MISSING;
}

/* Enter `slot`, whose identity is set and isn't in the table. */
static inline void kv_insert(struct kv_table *table, int64_t slot)
{
	uint32_t hash = kv_hash(kv_ident(table, slot));
	uint64_t at = hash & table->mask;

	while (table->entries[at])
		at = (at + 1) & table->mask;
	table->entries[at] = (uint64_t)hash << 32 | (uint32_t)(slot + 1);
}

/* Take out `slot`, which is in the table. */
static inline void kv_remove(struct kv_table *table, int64_t slot)
{
	uint64_t mask = table->mask;
	uint64_t at = kv_hash(kv_ident(table, slot)) & mask;

	while ((uint32_t)table->entries[at] != (uint32_t)(slot + 1))
		at = (at + 1) & mask;
	for (uint64_t gap = at;;) {
		at = (at + 1) & mask;
		if (!table->entries[at]) {
			table->entries[gap] = 0;
			return;
		}
		/* An entry may fill the gap unless its home lies cyclically behind that. */
		if (((at - (table->entries[at] >> 32)) & mask) >= ((at - gap) & mask)) {
			table->entries[gap] = table->entries[at];
			gap = at;
		}
	}
}

/* Slots that come and go. A free one holds the next free one, or KV_MISSING, behind its identity. */
struct kv_pool {
	struct kv_table table;
	int64_t room;         /* slots that there is memory for */
	int64_t used;         /* slots that were ever taken */
	int64_t first_free;   /* of these, or KV_MISSING */
};

static inline void *kv_slot(const struct kv_pool *pool, int64_t slot)
{
	return (char *)pool->table.slots + (size_t)slot * pool->table.slot_bytes;
}

/* Whether so many more slots can be taken: to be asked once before a loop that takes them. */
static inline bool kv_has_room(const struct kv_pool *pool, int64_t more)
{
	return more <= pool->room - pool->used;
}

/* Enter `ident`, which isn't in the table, in a slot that is free; there is room. */
static inline int64_t kv_take(struct kv_pool *pool, int64_t ident)
{
	int64_t slot = pool->first_free;
	int64_t *row;

	if (slot == KV_MISSING) {
		slot = pool->used++;
		row = kv_slot(pool, slot);
	} else {
		row = kv_slot(pool, slot);
		pool->first_free = row[1];
	}
	row[0] = ident;
	kv_insert(&pool->table, slot);
	return slot;
}

/* Take out `slot`, which is free then. */
static inline void kv_give_back(struct kv_pool *pool, int64_t slot)
{
	int64_t *row = kv_slot(pool, slot);

	kv_remove(&pool->table, slot);
	row[1] = pool->first_free;
	pool->first_free = slot;
}

#endif
