/* First in, first out. */
#include "core.h"
#include "policy.h"

struct fifo {
	struct kv_list blocks;
};

static void setup(struct kv_tier *tier, int64_t capacity_bytes)
{
	struct fifo *fifo = tier->state;

	(void)capacity_bytes;
	kv_list_init(&fifo->blocks);
}

static void insert(struct kv_tier *tier, struct kv_slot *slots, int64_t slot)
{
	struct fifo *fifo = tier->state;

	kv_append(tier, &fifo->blocks, slots, slot);
}

static void take_out(struct kv_tier *tier, struct kv_slot *slots, int64_t slot)
{
	struct fifo *fifo = tier->state;

	kv_unlink(tier, &fifo->blocks, slots, slot);
}

static int64_t victim(struct kv_tier *tier, struct kv_slot *slots)
{
	struct fifo *fifo = tier->state;

	(void)slots;
	return fifo->blocks.oldest;
}

KV_EXPORT const struct kv_policy kv_policy_fifo = {
	.abi = KV_POLICY_ABI,
	.state_bytes = sizeof(struct fifo),
	.setup = setup,
	.insert = insert,
	.remove = take_out,
	.victim = victim,
};
