/* A restart of the engine: what lies in memory is gone, and what it knew of the rest. */
#include "hierarchy.h"

#include <string.h>

/* The bits of a slot that a tier and its policy have set. */
static uint64_t bits_of(int64_t tier)
{
	uint64_t marks = (1ull << KV_MARK_BITS) - 1;

	return 1ull << (KV_HELD_BIT + tier) | 1ull << (KV_REMEMBERED_BIT + tier) |
	       marks << (KV_FIRST_MARK + KV_MARK_BITS * tier);
}

/* Empty a tier, and its policy's state with it: both begin as they did at first. */
static void reset(struct kv_hierarchy *h, int64_t tier, int64_t slot_count)
{
	struct kv_tier *emptied = &h->tiers[tier];
	uint64_t known = 1ull << (KV_HELD_BIT + tier) | 1ull << (KV_REMEMBERED_BIT + tier);

	for (int64_t slot = 0; slot < slot_count; slot++) {
		uint64_t before = h->slots[slot].where;

		h->slots[slot].where &= ~bits_of(tier);
		h->slots[slot].links[tier] = (struct kv_link){0, 0};
		if (before & known) /* a free slot has been forgotten before */
			kv_free_if_unknown(h, slot);
	}
	emptied->used_bytes = 0;
	memset(emptied->state, 0, emptied->policy->state_bytes);
	kv_tier_setup(emptied);
}

/* Requests in flight arrive anew at once, in the order of their rows, before empty queues. */
static int64_t begin_again(struct kv_hierarchy *h)
{
	int64_t waiting = h->heap_size, begun = 0;

	h->heap_size = 0;
	for (int64_t i = 0; i < waiting; i++) {
		struct kv_next next = h->heap[i];

		if (next.order < KV_ARRIVAL) {
			h->requests[next.row - h->request_base].step = KV_LOOK_UP;
			next = (struct kv_next){h->now_ns, KV_ARRIVAL + next.row, next.row};
			begun++;
		}
		kv_push(h, next);
	}
	memset(h->prefill_free_ns, 0, (size_t)h->prefill_slots * sizeof *h->prefill_free_ns);
	memset(h->decode_free_ns, 0, (size_t)h->decode_slots * sizeof *h->decode_free_ns);
	return begun;
}

/* Restart at `time_ns`. `lost`: the slots that each tier loses, tier after tier, `counts` of them;
 * a tier with a count of KV_NONE keeps what it has. Events: a delete for each. Return how many
 * requests begin again. */
KV_EXPORT int64_t kv_hierarchy_restart(struct kv_hierarchy *h, int64_t time_ns,
				       const int64_t *lost, const int64_t *counts,
				       int64_t slot_count)
{
	h->now_ns = time_ns;
	for (int64_t tier = 0; tier < KV_TIERS; tier++) {
		for (int64_t i = 0; i < counts[tier]; i++, lost++)
			kv_emit(h, KV_OP_DELETE, tier, KV_EVICT, h->slots[*lost].key,
				h->slots[*lost].tokens);
		if (counts[tier] != KV_NONE)
			reset(h, tier, slot_count);
	}
	for (int64_t slot = 0; slot < slot_count; slot++) {
		h->slots[slot].where &= ~(uint64_t)(KV_AGAIN | KV_STORED);
		if (h->slots[slot].where & KV_HELD)
			h->slots[slot].where |= KV_STORED;
	}
	return begin_again(h);
}
