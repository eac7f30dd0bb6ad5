/* S3-FIFO: a small queue for new blocks, a main one for reused ones, a ghost of evicted keys. */
#include "core.h"
#include "policy.h"

#define SMALL_RATIO 0.1
#define GHOST_RATIO 0.9
#define MOVES 2 /* requests of a block in the small queue before it moves to the main one */

/* In a slot's marks: how often it was asked for (up to 3); it is in the main queue; it is to enter
 * that. */
#define ASKED 3u
#define MAIN 4u
#define RETURNS 8u

struct s3_fifo {
	struct kv_list small, main, ghost;
	int64_t small_used, main_used, ghost_used;
	int64_t small_bytes, main_bytes, ghost_bytes;
	bool has_evicted;
};

static void setup(struct kv_tier *tier, int64_t capacity_bytes)
{
	struct s3_fifo *queues = tier->state;

	kv_list_init(&queues->small);
	kv_list_init(&queues->main);
	kv_list_init(&queues->ghost);
	queues->small_bytes = (int64_t)((double)capacity_bytes * SMALL_RATIO);
	queues->main_bytes = capacity_bytes - queues->small_bytes;
	queues->ghost_bytes = (int64_t)((double)capacity_bytes * GHOST_RATIO);
}

static void leave_ghost(struct kv_tier *tier, struct kv_slot *slots, int64_t slot)
{
	struct s3_fifo *queues = tier->state;

	kv_unlink(tier, &queues->ghost, slots, slot);
	queues->ghost_used -= kv_size(tier, slots[slot].tokens);
	slots[slot].where ^= 1ull << (KV_REMEMBERED_BIT + tier->number);
}

/* What the ghost remembers comes back, into the main queue. */
static void expect(struct kv_tier *tier, struct kv_slot *slots, int64_t slot)
{
	if (slots[slot].where >> (KV_REMEMBERED_BIT + tier->number) & 1) {
		leave_ghost(tier, slots, slot);
		kv_mark(tier, &slots[slot], RETURNS);
	}
}

static void enter_main(struct kv_tier *tier, struct kv_slot *slots, int64_t slot)
{
	struct s3_fifo *queues = tier->state;

	kv_append(tier, &queues->main, slots, slot);
	queues->main_used += kv_size(tier, slots[slot].tokens);
	kv_mark(tier, &slots[slot], MAIN);
}

static void insert(struct kv_tier *tier, struct kv_slot *slots, int64_t slot)
{
	struct s3_fifo *queues = tier->state;
	bool filling = !queues->has_evicted && queues->small_used >= queues->small_bytes;

	if (filling || kv_marks(tier, &slots[slot]) & RETURNS) {
		enter_main(tier, slots, slot);
		return;
	}
	kv_append(tier, &queues->small, slots, slot);
	queues->small_used += kv_size(tier, slots[slot].tokens);
	kv_mark(tier, &slots[slot], 0);
}

static void touch(struct kv_tier *tier, struct kv_slot *slots, int64_t slot)
{
	uint64_t marks = kv_marks(tier, &slots[slot]);

	if ((marks & ASKED) < ASKED)
		kv_mark(tier, &slots[slot], marks + 1);
}

static int64_t victim_of_main(struct kv_tier *tier, struct kv_slot *slots)
{
	struct s3_fifo *queues = tier->state;

	for (;;) {
		int64_t slot = queues->main.oldest;

		if (slot == KV_NONE)
			return KV_NONE;

		uint64_t asked = kv_marks(tier, &slots[slot]) & ASKED;

		if (!asked)
			return slot;
		kv_unlink(tier, &queues->main, slots, slot);
		kv_append(tier, &queues->main, slots, slot);
		kv_mark(tier, &slots[slot], MAIN | (asked - 1));
	}
}

static int64_t victim_of_small(struct kv_tier *tier, struct kv_slot *slots)
{
	struct s3_fifo *queues = tier->state;

	for (;;) {
		int64_t slot = queues->small.oldest;

		if (slot == KV_NONE || (kv_marks(tier, &slots[slot]) & ASKED) < MOVES)
			return slot;
		kv_unlink(tier, &queues->small, slots, slot);
		queues->small_used -= kv_size(tier, slots[slot].tokens);
		enter_main(tier, slots, slot);
	}
}

/* Those that were asked for move on first. */
static int64_t victim(struct kv_tier *tier, struct kv_slot *slots)
{
	struct s3_fifo *queues = tier->state;
	int64_t slot = KV_NONE;

	queues->has_evicted = true;
	if (queues->main_used <= queues->main_bytes)
		slot = victim_of_small(tier, slots);
	return slot != KV_NONE ? slot : victim_of_main(tier, slots);
}

/* One of the small queue is remembered. */
static void take_out(struct kv_tier *tier, struct kv_slot *slots, int64_t slot)
{
	struct s3_fifo *queues = tier->state;
	int64_t taken = kv_size(tier, slots[slot].tokens);

	if (kv_marks(tier, &slots[slot]) & MAIN) {
		kv_unlink(tier, &queues->main, slots, slot);
		queues->main_used -= taken;
	} else {
		kv_unlink(tier, &queues->small, slots, slot);
		queues->small_used -= taken;
		kv_append(tier, &queues->ghost, slots, slot);
		queues->ghost_used += taken;
		slots[slot].where |= 1ull << (KV_REMEMBERED_BIT + tier->number);
	}
	kv_mark(tier, &slots[slot], 0);
}

/* The oldest of a ghost that has grown too big. */
static int64_t forget(struct kv_tier *tier, struct kv_slot *slots)
{
	struct s3_fifo *queues = tier->state;
	int64_t slot = queues->ghost.oldest;

	if (queues->ghost_used <= queues->ghost_bytes)
		return KV_NONE;
	leave_ghost(tier, slots, slot);
	return slot;
}

KV_EXPORT const struct kv_policy kv_policy_s3_fifo = {
	.abi = KV_POLICY_ABI,
	.state_bytes = sizeof(struct s3_fifo),
	.setup = setup,
	.insert = insert,
	.remove = take_out,
	.touch = touch,
	.expect = expect,
	.victim = victim,
	.forget = forget,
};
