/* Blocks enter tiers, move between them and leave. */
#include "hierarchy.h"

void kv_emit(struct kv_hierarchy *h, uint32_t op, int64_t tier, uint32_t phase, int64_t key,
	     int64_t tokens)
{
	if (tokens == h->tallied_tokens) {
		h->tally[kv_cell((uint32_t)tier, phase, op)]++;
		h->tallied_ns = h->now_ns;
		return;
	}

	int64_t n = h->events++;

	h->time_ns[n] = h->now_ns;
	h->op[n] = (uint8_t)op;
	h->tier[n] = (uint8_t)tier;
	h->phase[n] = (uint8_t)phase;
	h->step[n] = (uint16_t)h->now_step;
	h->key[n] = key;
	h->tokens[n] = tokens;
	h->request[n] = h->now_request;
	h->session[n] = h->now_session;
	h->qos[n] = (uint8_t)h->now_qos;
}

/* The first tier from `tier` on that takes a block of `tokens`, or KV_NONE. */
static int64_t next_tier(const struct kv_hierarchy *h, int64_t tier, int64_t tokens)
{
	for (; tier < KV_TIERS; tier++) {
		int64_t bytes;

		if (!h->tiers[tier].high_bytes)
			continue;
		bytes = kv_size(&h->tiers[tier], tokens);
		if (0 < bytes && bytes <= h->tiers[tier].high_bytes)
			return tier;
	}
	return KV_NONE;
}

int64_t kv_slowest(const struct kv_hierarchy *h, int64_t tokens)
{
	int64_t slowest = KV_NONE;

	for (int64_t tier = next_tier(h, 0, tokens); tier != KV_NONE;
	     tier = next_tier(h, tier + 1, tokens))
		slowest = tier;
	return slowest;
}

void kv_touch(struct kv_hierarchy *h, int64_t tier, int64_t slot)
{
	const struct kv_policy *policy = h->tiers[tier].policy;

	if (policy->touch)
		policy->touch(&h->tiers[tier], h->slots, slot);
}

void kv_expect(struct kv_hierarchy *h, int64_t tier, int64_t slot)
{
	const struct kv_policy *policy = h->tiers[tier].policy;

	if (policy->expect)
		policy->expect(&h->tiers[tier], h->slots, slot);
}

void kv_enter(struct kv_hierarchy *h, int64_t tier, int64_t slot)
{
	struct kv_tier *entered = &h->tiers[tier];

	entered->policy->insert(entered, h->slots, slot);
	h->slots[slot].where |= 1ull << tier;
	entered->used_bytes += kv_size(entered, h->slots[slot].tokens);
	if (entered->used_bytes > entered->peak_bytes)
		entered->peak_bytes = entered->used_bytes;
}

static void leave(struct kv_hierarchy *h, int64_t tier, int64_t slot)
{
	struct kv_tier *left = &h->tiers[tier];

	left->policy->remove(left, h->slots, slot);
	h->slots[slot].where ^= 1ull << tier;
	left->used_bytes -= kv_size(left, h->slots[slot].tokens);
	kv_free_if_unknown(h, slot);
	if (!left->policy->forget)
		return;
	while ((slot = left->policy->forget(left, h->slots)) != KV_NONE)
		kv_free_if_unknown(h, slot);
}

/* `tier`, or KV_NONE if the block may not enter it: with admission at second use nvme and what is
 * below it take only what was asked for twice. */
static int64_t let_in(const struct kv_hierarchy *h, int64_t tier, int64_t slot)
{
	if (tier >= KV_NVME && h->second_use && !(h->slots[slot].where & KV_AGAIN))
		return KV_NONE;
	return tier;
}

/* The first tier from `tier` on that takes a slot, or KV_NONE. */
static int64_t admitted(const struct kv_hierarchy *h, int64_t tier, int64_t slot)
{
	return let_in(h, next_tier(h, tier, h->slots[slot].tokens), slot);
}

/* The tier that a block evicted from `tier` moves to, or KV_NONE: it is only deleted. */
static int64_t demoted_to(struct kv_hierarchy *h, int64_t tier, int64_t slot)
{
	int64_t below;

	if (h->write_through)
		return KV_NONE;
	below = admitted(h, tier + 1, slot);
	if (below != KV_NONE && kv_holds(h, below, slot)) {
		kv_touch(h, below, slot);
		return KV_NONE;
	}
	return below;
}

/* Move a slot from `tier` to the tier `below`, where there is room; KV_NONE: delete it. */
static void evict(struct kv_hierarchy *h, int64_t tier, int64_t slot, int64_t below)
{
	int64_t tokens = h->slots[slot].tokens, key = h->slots[slot].key;

	if (below != KV_NONE) {
		kv_emit(h, KV_OP_READ, tier, KV_EVICT, key, tokens);
		kv_emit(h, KV_OP_WRITE, below, KV_EVICT, key, tokens);
		kv_enter(h, below, slot);
	}
	kv_emit(h, KV_OP_DELETE, tier, KV_EVICT, key, tokens);
	h->tiers[tier].evicted++;
	leave(h, tier, slot);
}

static bool exceeds(const struct kv_tier *tier, int64_t need_bytes, int64_t limit_bytes)
{
	return tier->used_bytes > limit_bytes - need_bytes;
}

/* Who wants how much room where; `chosen`: the block that leaves once there is room below. */
struct want {
	int64_t tier, bytes, chosen;
};

/* Evict from `tier` down to its low watermark if `need` more bytes would exceed the high one. A
 * stack instead of recursion: entry i + 1 is where the block that entry i has chosen wants room. */
static void make_room(struct kv_hierarchy *h, int64_t tier, int64_t need_bytes)
{
	struct want stack[KV_TIERS + 1];
	struct want *want = stack;

	if (!exceeds(&h->tiers[tier], need_bytes, h->tiers[tier].high_bytes))
		return;
	*want = (struct want){tier, need_bytes, KV_NONE};
	while (want >= stack) {
		struct kv_tier *here = &h->tiers[want->tier];
		int64_t slot = want->chosen, below;

		if (slot != KV_NONE) {
			want->chosen = KV_NONE;
			evict(h, want->tier, slot, want[1].tier);
			continue;
		}
		if (exceeds(here, want->bytes, here->low_bytes))
			slot = here->policy->victim(here, h->slots);
		if (slot == KV_NONE) {
			want--;
			continue;
		}
		below = demoted_to(h, want->tier, slot);
		if (below != KV_NONE) {
			int64_t bytes = kv_size(&h->tiers[below], h->slots[slot].tokens);

			kv_expect(h, below, slot);
			if (exceeds(&h->tiers[below], bytes, h->tiers[below].high_bytes)) {
				want->chosen = slot;
				*++want = (struct want){below, bytes, KV_NONE};
				continue;
			}
		}
		evict(h, want->tier, slot, below);
	}
}

/* Write a block to a tier that takes it and doesn't hold it. */
static void write(struct kv_hierarchy *h, int64_t tier, int64_t slot, uint32_t phase)
{
	int64_t tokens = h->slots[slot].tokens;

	kv_expect(h, tier, slot);
	make_room(h, tier, kv_size(&h->tiers[tier], tokens));
	kv_emit(h, KV_OP_WRITE, tier, phase, kv_name(h, slot), tokens);
	kv_enter(h, tier, slot);
}

void kv_store(struct kv_hierarchy *h, int64_t slot, int64_t ident, int64_t tokens, uint32_t phase)
{
	int64_t tier = next_tier(h, 0, tokens);

	if (tier == KV_NONE)
		return;
	if (slot == KV_MISSING)
		slot = kv_take_slot(h, ident, tokens);
	h->slots[slot].where |= KV_SEEN | KV_STORED;
	for (tier = let_in(h, tier, slot); tier != KV_NONE; tier = admitted(h, tier + 1, slot)) {
		write(h, tier, slot, phase);
		if (!h->write_through)
			return;
	}
}

/* Under write-through, store on the lower tiers a block that they now take. */
static void admit(struct kv_hierarchy *h, int64_t slot)
{
	for (int64_t tier = admitted(h, KV_NVME, slot); tier != KV_NONE;
	     tier = admitted(h, tier + 1, slot))
		if (!kv_holds(h, tier, slot))
			write(h, tier, slot, KV_DECODE);
}

void kv_hit(struct kv_hierarchy *h, int64_t slot, int64_t tier)
{
	int64_t tokens = h->slots[slot].tokens, top;

	kv_emit(h, KV_OP_READ, tier, KV_DECODE, h->slots[slot].key, tokens);
	kv_touch(h, tier, slot);
	if (h->write_through && h->second_use && h->slots[slot].where & KV_AGAIN)
		admit(h, slot);
	if (!h->promote)
		return;
	top = next_tier(h, 0, tokens);
	if (h->write_through && top < KV_CPU && KV_CPU < tier &&
	    next_tier(h, KV_CPU, tokens) == KV_CPU)
		write(h, KV_CPU, slot, KV_PROMOTE);
	if (top < tier && !kv_holds(h, top, slot))
		write(h, top, slot, KV_PROMOTE);
}
