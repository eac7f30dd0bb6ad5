/* SIEVE: a hand moves from old to new and takes the first block not asked for since its visit. */
#include "core.h"
#include "policy.h"

struct sieve {
	struct kv_list blocks;
	int64_t hand; /* a slot, or KV_NONE: begin with the oldest */
};

static void setup(struct kv_tier *tier, int64_t capacity_bytes)
{
	struct sieve *sieve = tier->state;

	(void)capacity_bytes;
	kv_list_init(&sieve->blocks);
	sieve->hand = KV_NONE;
}

static void insert(struct kv_tier *tier, struct kv_slot *slots, int64_t slot)
{
	struct sieve *sieve = tier->state;

	kv_mark(tier, &slots[slot], 0);
	kv_append(tier, &sieve->blocks, slots, slot);
}

/* The hand goes on to the next newer one. */
static void take_out(struct kv_tier *tier, struct kv_slot *slots, int64_t slot)
{
	struct sieve *sieve = tier->state;

	if (sieve->hand == slot)
		sieve->hand = kv_newer(tier, slots, slot);
	kv_unlink(tier, &sieve->blocks, slots, slot);
}

static void touch(struct kv_tier *tier, struct kv_slot *slots, int64_t slot)
{
	kv_mark(tier, &slots[slot], 1);
}

/* Those that the hand passes are forgiven. */
static int64_t victim(struct kv_tier *tier, struct kv_slot *slots)
{
	struct sieve *sieve = tier->state;
	int64_t slot = sieve->hand == KV_NONE ? sieve->blocks.oldest : sieve->hand;

	while (slot != KV_NONE && kv_marks(tier, &slots[slot])) {
		kv_mark(tier, &slots[slot], 0);
		slot = kv_newer(tier, slots, slot);
		if (slot == KV_NONE)
			slot = sieve->blocks.oldest;
	}
	sieve->hand = slot;
	return slot;
}

KV_EXPORT const struct kv_policy kv_policy_sieve = {
	.abi = KV_POLICY_ABI,
	.state_bytes = sizeof(struct sieve),
	.setup = setup,
	.insert = insert,
	.remove = take_out,
	.touch = touch,
	.victim = victim,
};
