/* What an eviction policy is: a table of functions on the slots of a tier.
 *
 * A slot is a block that some tier holds, that a policy remembers, or that may be asked for again.
 * A policy keeps the slots of its tier in lists (a slot is in one list per tier, whose links it has)
 * and what else it needs in a state of its own, which is zeroed before `setup`.
 */
#ifndef KV_POLICY_H
#define KV_POLICY_H

#include <stddef.h>
#include <stdint.h>

#include "../trace/cell.h"

#define KV_POLICY_ABI 1
#define KV_NONE (-1)

struct kv_link {
	uint32_t older, newer; /* neighbours' slots + 1; 0: none */
};

/* One line of the CPU's cache. */
struct kv_slot {
	int64_t ident;  /* of the block; of a constant state the block's, inverted */
	int64_t key;    /* in the trace, KV_NONE before it appears; of a free slot the next free one */
	int64_t tokens; /* of a constant state: -n, behind n tokens */
	uint64_t where; /* bits as below */
	struct kv_link links[KV_TIERS];
};

/* Bits of `where`; those of tiers are shifted by the tier's number. */
#define KV_HELD_BIT 0       /* the tier holds it */
#define KV_REMEMBERED_BIT 4 /* the tier's policy remembers a block that it has evicted */
#define KV_MARK_BITS 8      /* per tier, for its policy */
#define KV_FIRST_MARK 24

struct kv_list {
	int64_t oldest, newest; /* slots, or KV_NONE */
};

struct kv_policy;

struct kv_tier {
	const struct kv_policy *policy;
	void *state; /* the policy's own */
	int64_t number;
	int64_t high_bytes, low_bytes; /* watermarks, 0 for a tier that is absent */
	int64_t used_bytes, peak_bytes;
	int64_t hits, evicted;
	/* What a block of n tokens takes, and the constant state behind n tokens. */
	int64_t token_bytes, block_bytes;
	int64_t constant_bytes, window_token_bytes, window_tokens, align_bytes;
};

struct kv_policy {
	uint32_t abi;         /* KV_POLICY_ABI */
	uint32_t state_bytes; /* of the policy's own state of a tier */
	/* Needed: a block enters; the one that leaves next, KV_NONE for none; it leaves. */
	void (*insert)(struct kv_tier *tier, struct kv_slot *slots, int64_t slot);
	int64_t (*victim)(struct kv_tier *tier, struct kv_slot *slots);
	void (*remove)(struct kv_tier *tier, struct kv_slot *slots, int64_t slot);
	/* NULL where a policy doesn't care: a block was asked for again; one is about to enter, and
	 * room is made for it after this; one that is no longer remembered though no tier holds it. */
	void (*touch)(struct kv_tier *tier, struct kv_slot *slots, int64_t slot);
	void (*expect)(struct kv_tier *tier, struct kv_slot *slots, int64_t slot);
	int64_t (*forget)(struct kv_tier *tier, struct kv_slot *slots);
	void (*setup)(struct kv_tier *tier, int64_t capacity_bytes);
};

/* The bytes of a block of `tokens`, or of the constant state behind -tokens. */
static inline int64_t kv_size(const struct kv_tier *tier, int64_t tokens)
{
	if (tokens >= 0)
		return tokens * tier->token_bytes + tier->block_bytes;

	int64_t window = -tokens < tier->window_tokens ? -tokens : tier->window_tokens;
	int64_t state = tier->constant_bytes + window * tier->window_token_bytes;

	return (state + tier->align_bytes - 1) / tier->align_bytes * tier->align_bytes;
}

/* The policy's bits of a slot. */
static inline uint64_t kv_marks(const struct kv_tier *tier, const struct kv_slot *slot)
{
	return slot->where >> (KV_FIRST_MARK + KV_MARK_BITS * tier->number) &
	       ((1u << KV_MARK_BITS) - 1);
}

static inline void kv_mark(const struct kv_tier *tier, struct kv_slot *slot, uint64_t bits)
{
	int shift = (int)(KV_FIRST_MARK + KV_MARK_BITS * tier->number);
	uint64_t mask = (uint64_t)((1u << KV_MARK_BITS) - 1) << shift;

	slot->where = (slot->where & ~mask) | bits << shift;
}

static inline void kv_list_init(struct kv_list *list)
{
	list->oldest = list->newest = KV_NONE;
}

/* The neighbour that came after a slot, or KV_NONE. */
static inline int64_t kv_newer(const struct kv_tier *tier, const struct kv_slot *slots, int64_t slot)
{
	return (int64_t)slots[slot].links[tier->number].newer - 1;
}

/* Enter a slot as the newest. */
static inline void kv_append(const struct kv_tier *tier, struct kv_list *list,
			     struct kv_slot *slots, int64_t slot)
{
	int64_t last = list->newest;

	slots[slot].links[tier->number] = (struct kv_link){(uint32_t)(last + 1), 0};
	if (last == KV_NONE)
		list->oldest = slot;
	else
		slots[last].links[tier->number].newer = (uint32_t)(slot + 1);
	list->newest = slot;
}

/* Take a slot out of its list. */
static inline void kv_unlink(const struct kv_tier *tier, struct kv_list *list,
			     struct kv_slot *slots, int64_t slot)
{
	struct kv_link links = slots[slot].links[tier->number];

	if (links.newer)
		slots[links.newer - 1].links[tier->number].older = links.older;
	else
		list->newest = (int64_t)links.older - 1;
	if (links.older) {
		slots[links.older - 1].links[tier->number].newer = links.newer;
	} else {
		list->oldest = (int64_t)links.newer - 1;
		if (links.newer) { /* most likely it is evicted next, and wants its neighbour */
			uint32_t next = slots[links.newer - 1].links[tier->number].newer;

			__builtin_prefetch(&slots[next ? next - 1 : 0], 1);
		}
	}
}

#endif
