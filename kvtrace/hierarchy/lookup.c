/* A request's look-up: which blocks of its prompt are hits. */
#include "hierarchy.h"

/* Look-ups wait for memory: what they will want is asked for so many blocks ahead. */
#define ENTRIES_AHEAD 16
#define SLOTS_AHEAD 8
#define LINKS_AHEAD 4

/* The entry at which the search for an identity begins. */
static const uint64_t *entry_of(const struct kv_hierarchy *h, int64_t ident)
{
	struct kv_table table = kv_table_of(h);

	return kv_first_entry(&table, ident);
}

/* The slot that a block has, most likely: of the entry at which its search begins. */
static const struct kv_slot *likely_slot(const struct kv_hierarchy *h, int64_t ident)
{
	if (!h->entries)
		return &h->slots[ident];

	uint32_t slot = (uint32_t)*entry_of(h, ident);

	return slot ? &h->slots[slot - 1] : NULL;
}

/* The neighbours of a slot on the fastest tier that holds it are what a touch changes. */
KV_PREFETCHING void prefetch_neighbours(const struct kv_hierarchy *h, const struct kv_slot *slot)
{
	unsigned int held = slot->where & KV_HELD;

	if (held) {
		struct kv_link links = slot->links[__builtin_ctz(held)];

		__builtin_prefetch(&h->slots[links.older ? links.older - 1 : 0], 1);
		__builtin_prefetch(&h->slots[links.newer ? links.newer - 1 : 0], 1);
	}
}

/* What the look-up of later blocks will want, of the next request's too: they lie behind. */
KV_PREFETCHING void prefetch(const struct kv_hierarchy *h, int64_t at)
{
	const struct kv_slot *slot;

	if (h->entries && at + ENTRIES_AHEAD < h->block_count)
		__builtin_prefetch(entry_of(h, h->blocks[at + ENTRIES_AHEAD].ident));
	if (at + SLOTS_AHEAD < h->block_count) {
		slot = likely_slot(h, h->blocks[at + SLOTS_AHEAD].ident);
		if (slot)
			__builtin_prefetch(slot, 1);
	}
	if (at + LINKS_AHEAD < h->block_count) {
		slot = likely_slot(h, h->blocks[at + LINKS_AHEAD].ident);
		if (slot)
			prefetch_neighbours(h, slot);
	}
}

/* Close a run of hits that began at `begin`: of a hybrid model it ends at the `deepest`
 * checkpoint. */
static void end_run(struct kv_hierarchy *h, int64_t begin, int64_t end, int64_t deepest)
{
	if (!h->hybrid)
		return;
	for (int64_t at = deepest + 1 > begin ? deepest + 1 : begin; at < end; at++)
		h->blocks[at].slot = KV_MISSING;
	if (deepest >= begin)
		h->blocks[deepest].flags |= KV_HIT_END;
}

static void note_again(struct kv_hierarchy *h, int64_t slot)
{
	if (slot != KV_MISSING && h->slots[slot].where & KV_STORED)
		h->slots[slot].where |= KV_AGAIN;
}

/* Note the slot of each block that is a hit; return how many an endless cache would hit. */
int64_t kv_look_up(struct kv_hierarchy *h, int64_t begin, int64_t end)
{
	int64_t ideal = 0, run = begin, deepest = KV_NONE;
	bool resident = true, known = true;

	for (int64_t at = begin; at < end; at++) {
		struct kv_block *block = &h->blocks[at];
		int64_t slot;

		prefetch(h, at);
		if (block->flags & KV_RUN) {
			end_run(h, run, at, deepest);
			run = at;
			deepest = KV_NONE;
			resident = known = true;
		}
		slot = kv_slot_of(h, block->ident);
		known = known && slot != KV_MISSING && h->slots[slot].where & KV_SEEN;
		resident = resident && kv_held(h, slot);
		note_again(h, slot);
		ideal += known;
		if (block->flags & KV_SHARED) {
			h->shared_blocks++;
			h->shared_ideal_hits += known;
		}
		block->slot = resident ? slot : KV_MISSING;
		block->flags &= ~(int64_t)KV_HIT_END;
		if (h->hybrid) {
			int64_t state = kv_slot_of(h, ~block->ident);

			note_again(h, state);
			if (resident && kv_held(h, state))
				deepest = at;
		}
	}
	end_run(h, run, end, deepest);
	return ideal;
}

/* Look up each of a prompt's blocks: on its tier, or as a miss on the slowest. */
void kv_ask(struct kv_hierarchy *h, struct kv_request *request)
{
	int64_t begin = request->begin - h->block_base;

	for (int64_t at = begin; at < begin + request->prompt_blocks; at++) {
		int64_t tokens = h->blocks[at].tokens, ident = h->blocks[at].ident;
		int64_t slowest = kv_slowest(h, tokens), slot, tier;

		prefetch(h, at);
		if (slowest == KV_NONE)
			continue;
		slot = kv_slot_of(h, ident);
		if (slot == KV_MISSING)
			slot = kv_take_slot(h, ident, tokens);
		tier = kv_fastest(h, slot);
		kv_emit(h, KV_OP_LOOKUP, tier == KV_NONE ? slowest : tier, KV_DECODE,
			kv_name(h, slot), tokens);
	}
}
