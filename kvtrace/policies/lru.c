/* Least recently used. */
#include "core.h"
#include "policy.h"

struct lru {
	struct kv_list blocks; /* the newest was asked for last */
};

static void setup(struct kv_tier *tier, int64_t capacity_bytes)
{
	struct lru *lru = tier->state;

	(void)capacity_bytes;
	kv_list_init(&lru->blocks);
}

static void insert(struct kv_tier *tier, struct kv_slot *slots, int64_t slot)
{
	struct lru *lru = tier->state;

	kv_append(tier, &lru->blocks, slots, slot);
}

static void take_out(struct kv_tier *tier, struct kv_slot *slots, int64_t slot)
{
	struct lru *lru = tier->state;

	kv_unlink(tier, &lru->blocks, slots, slot);
}

static void touch(struct kv_tier *tier, struct kv_slot *slots, int64_t slot)
{
	struct lru *lru = tier->state;

	if (lru->blocks.newest != slot) {
		kv_unlink(tier, &lru->blocks, slots, slot);
		kv_append(tier, &lru->blocks, slots, slot);
	}
}

static int64_t victim(struct kv_tier *tier, struct kv_slot *slots)
{
	struct lru *lru = tier->state;

	(void)slots;
	return lru->blocks.oldest;
}

KV_EXPORT const struct kv_policy kv_policy_lru = {
	.abi = KV_POLICY_ABI,
	.state_bytes = sizeof(struct lru),
	.setup = setup,
	.insert = insert,
	.remove = take_out,
	.touch = touch,
	.victim = victim,
};
