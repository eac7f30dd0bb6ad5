/* The steps of a request: load what is there, store what was computed, generate. */
#include "hierarchy.h"

/* The index of the `j`th block of a prompt of `n` in the order in which it is worked on. */
static int64_t turn(const struct kv_hierarchy *h, int64_t n, int64_t j)
{
	return h->tail_first ? n - 1 - j : j;
}

static void read_checkpoint(struct kv_hierarchy *h, int64_t ident)
{
	int64_t slot = kv_slot_of(h, ~ident);

	if (kv_held(h, slot))
		kv_hit(h, slot, kv_fastest(h, slot));
}

/* Read a block, which `tier` holds, and the checkpoint at which a hit ends. Returns the tier that
 * it was read from; KV_NONE if it has left before its turn came. */
static int64_t read_block(struct kv_hierarchy *h, const struct kv_block *block, int64_t tier)
{
	int64_t slot = block->slot, ident = block->ident;
	bool ends = block->flags & KV_HIT_END;

	if (ends && h->tail_first) {
		read_checkpoint(h, ident);
		tier = kv_fastest(h, slot);
		if (tier == KV_NONE)
			return KV_NONE;
	}
	kv_hit(h, slot, tier);
	if (ends && !h->tail_first)
		read_checkpoint(h, ident);
	return tier;
}

/* Look up a prompt's blocks and read those that are hits; note the end of prefill.
 *
 * Blocks are handled one after the other: a promotion may push out a block whose turn comes later
 * in the same request, which then is read from where it is, or missed. */
void kv_load(struct kv_hierarchy *h, struct kv_request *request)
{
	int64_t n = request->prompt_blocks, begin = request->begin - h->block_base;
	int64_t hit_blocks = 0, hit_tokens = 0, missed;
	bool broken = false;

	h->blocks_asked += n;
	h->ideal_hits += kv_look_up(h, begin, begin + n);
	for (int64_t j = 0; j < n; j++) {
		struct kv_block *block = &h->blocks[begin + turn(h, n, j)];
		bool there = block->slot != KV_MISSING;
		int64_t tier;

		broken = broken && !(block->flags & KV_RUN);
		tier = there && !broken ? kv_fastest(h, block->slot) : KV_NONE;
		if (tier == KV_NONE)
			broken = !h->tail_first;
		else
			tier = read_block(h, block, tier);
		if (tier == KV_NONE) {
			block->slot = KV_MISSING;
			continue;
		}
		h->tiers[tier].hits++;
		if (block->flags & KV_SHARED) {
			h->shared_hits++;
			h->shared_hit_tokens += block->tokens;
		}
		hit_blocks++;
		hit_tokens += block->tokens;
	}
	h->hit_tokens += hit_tokens;
	request->hit_blocks = hit_blocks;
	missed = request->input_tokens - hit_tokens;
	kv_schedule(h, request, missed > 0 ? missed : 0);
}

/* Store the state behind a block that was computed, `tokens` deep, if it is one to be kept. */
static void store_checkpoint(struct kv_hierarchy *h, const struct kv_block *block, int64_t tokens,
			     uint32_t phase)
{
	if (h->hybrid && block->flags & KV_CHECKPOINT) {
		int64_t ident = ~block->ident, slot = kv_slot_of(h, ident);

		if (!kv_held(h, slot))
			kv_store(h, slot, ident, -tokens, phase);
	}
}

/* The slot of a prompt's block now. A hit is where it was found, unless it has left since and
 * another block is there. */
static int64_t slot_now(const struct kv_hierarchy *h, const struct kv_block *block)
{
	if (block->slot == KV_MISSING || h->slots[block->slot].ident != block->ident)
		return kv_slot_of(h, block->ident);
	return block->slot;
}

/* Store the prompt's blocks that no tier holds; touch those that were computed anew.
 *
 * Tail first, all are touched, so that the head of the prefix ends up the most recent. */
void kv_store_prompt(struct kv_hierarchy *h, const struct kv_request *request)
{
	int64_t n = request->prompt_blocks, begin = request->begin - h->block_base;

	for (int64_t j = 0; j < n; j++) {
		const struct kv_block *block = &h->blocks[begin + turn(h, n, j)];
		bool computed = block->slot == KV_MISSING;
		int64_t slot;

		if (computed && h->tail_first)
			store_checkpoint(h, block, block->at, KV_PREFILL);
		slot = slot_now(h, block);
		if (!kv_held(h, slot))
			kv_store(h, slot, block->ident, block->tokens, KV_PREFILL);
		else if (h->tail_first || computed)
			kv_touch(h, kv_fastest(h, slot), slot);
		if (computed && !h->tail_first)
			store_checkpoint(h, block, block->at, KV_PREFILL);
	}
}

int64_t kv_decodes(const struct kv_hierarchy *h, const struct kv_request *request)
{
	int64_t reread = h->reread_tokens;

	if (reread)
		return request->prompt_blocks ? (request->output_tokens + reread - 1) / reread : 0;
	return request->end - request->begin - request->prompt_blocks;
}

int64_t kv_decode_ns(const struct kv_hierarchy *h, const struct kv_request *request, int64_t index)
{
	int64_t decodes = kv_decodes(h, request), tokens;

	if (index >= decodes)
		tokens = request->output_tokens;
	else if (h->reread_tokens)
		tokens = request->output_tokens * index / decodes;
	else
		tokens = h->blocks[request->begin - h->block_base + request->prompt_blocks + index].at;
	return request->decoding_ns + tokens * h->generation_ns;
}

/* Store a generated block; under a layout that re-reads, read the turn's own object again. */
void kv_decode(struct kv_hierarchy *h, const struct kv_request *request, int64_t index)
{
	int64_t at = request->begin - h->block_base + request->prompt_blocks, slot;

	if (h->reread_tokens) {
		slot = kv_slot_of(h, h->blocks[at - 1].ident);
		if (kv_held(h, slot))
			kv_hit(h, slot, kv_fastest(h, slot));
		return;
	}

	const struct kv_block *block = &h->blocks[at + index];

	slot = kv_slot_of(h, block->ident);
	if (!kv_held(h, slot))
		kv_store(h, slot, block->ident, block->tokens, KV_DECODE);
	store_checkpoint(h, block, request->input_tokens + block->at, KV_DECODE);
}

static void retire_one(struct kv_hierarchy *h, int64_t ident)
{
	int64_t slot = kv_slot_of(h, ident);

	if (slot != KV_MISSING) {
		h->slots[slot].where |= KV_RETIRED;
		kv_free_if_unknown(h, slot);
	}
}

void kv_retire(struct kv_hierarchy *h, const struct kv_request *request)
{
	int64_t begin = request->begin - h->block_base, end = request->end - h->block_base;

	for (int64_t at = begin; at < end; at++) {
		if (h->blocks[at].flags & KV_SHARED)
			continue;
		retire_one(h, h->blocks[at].ident);
		if (h->hybrid)
			retire_one(h, ~h->blocks[at].ident);
	}
}
