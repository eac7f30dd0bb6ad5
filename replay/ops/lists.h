/* The ring that a plan is written to, and lists of ops that something waits for: see lists.py.
 *
 * A ref names what completes a row: 0 nothing, i + 1 the op i, and -link the ops of a list.
 */
#ifndef KV_LISTS_H
#define KV_LISTS_H

#include "../engine/native/abi.h"

/* Length from which a list of ops is replaced by one op that waits for them. */
#define KV_JOIN_COUNT (1 << 14)
/* How many of an op's waits are looked at lest one is there twice. */
#define KV_DEDUPE 16
#define KV_EXTRA 0xffffffffu

/* Ring of lists.py: columns of ops, and where in them the plan is. */
struct kv_ring {
	KV_PLAN_COLUMNS
	uint64_t capacity;	/* powers of two, */
	uint64_t edge_capacity;
	uint64_t extent_words; /* two per extent */
	int64_t planned;	/* ops */
	int64_t floor;		/* refs to ops below it are those of nothing */
	int64_t drained;	/* ops that were taken out of the ring */
	int64_t edge_end;
	int64_t edge_floor; /* edges before the first op that wasn't taken out */
	int64_t extent_end;
	int64_t extent_floor;
};

/* LINK of lists.py. */
struct kv_link {
	int64_t next;
	uint32_t length; /* of the list that begins here */
	uint32_t op;
};

/* Lists of lists.py: a ring of links; link n is at n & mask. Link 0 ends a list, as do those before
 * `begin`, which are of ops below the ring's floor. */
struct kv_lists {
	struct kv_link *links;
	uint64_t mask;
	int64_t begin;
	int64_t end;
};

/* The newest op's index in the columns. */
static inline uint64_t kv_newest(const struct kv_ring *ring)
{
	return (uint64_t)ring->planned & (ring->capacity - 1);
}

static inline uint32_t *kv_edge_at(const struct kv_ring *ring, int64_t edge)
{
	return &ring->edges[(uint64_t)edge & (ring->edge_capacity - 1)];
}

static inline struct kv_link *kv_link_at(const struct kv_lists *lists, int64_t link)
{
	return &lists->links[(uint64_t)link & lists->mask];
}

static inline bool kv_lists_have_room(const struct kv_lists *lists, int64_t count)
{
	return lists->end - lists->begin + count <= (int64_t)lists->mask + 1;
}

static inline bool kv_ring_has_room(const struct kv_ring *ring, int64_t ops, int64_t edges)
{
	return ring->planned + ops - ring->drained <= (int64_t)ring->capacity &&
	       ring->edge_end + edges - ring->edge_floor <= (int64_t)ring->edge_capacity;
}

static inline bool kv_extents_have_room(const struct kv_ring *ring, int64_t count)
{
	return 2 * (ring->extent_end + count - ring->extent_floor) <= (int64_t)ring->extent_words;
}

/* Add an extent to the newest op's. */
static inline void kv_add_extent(struct kv_ring *ring, int64_t begin, int64_t length)
{
	uint64_t at = 2 * (uint64_t)ring->extent_end++ & (ring->extent_words - 1);

	ring->extents[at] = (uint64_t)begin;
	ring->extents[at + 1] = (uint64_t)length;
}

static inline void kv_add_edge(struct kv_ring *ring, int64_t waited, int64_t first)
{
	int64_t end = ring->edge_end;

	if (end - first <= KV_DEDUPE)
		for (int64_t at = first; at < end; at++)
			if (*kv_edge_at(ring, at) == waited)
				return;
	*kv_edge_at(ring, end) = (uint32_t)waited;
	ring->edge_end = end + 1;
}

/* Let the newest op, whose edges start at `first`, wait for what `ref` names. */
static inline void kv_wait(const struct kv_lists *lists, struct kv_ring *ring, int64_t ref,
			   int64_t first)
{
	int64_t floor = ring->floor;

	if (ref > 0 && ref - 1 >= floor)
		kv_add_edge(ring, ref - 1, first);
	for (int64_t at = -ref; at >= lists->begin; at = kv_link_at(lists, at)->next)
		if (kv_link_at(lists, at)->op >= floor)
			kv_add_edge(ring, kv_link_at(lists, at)->op, first);
}

/* A list of `op` and what is in the list `tail`. */
static inline int64_t kv_cons(struct kv_lists *lists, int64_t op, int64_t tail)
{
	int64_t at = lists->end++;
	uint32_t length = tail >= lists->begin ? kv_link_at(lists, tail)->length : 0;

	*kv_link_at(lists, at) = (struct kv_link){tail, length + 1, (uint32_t)op};
	return at;
}

/* The list of what a ref names. */
static inline int64_t kv_list_of(struct kv_lists *lists, int64_t ref)
{
	return ref > 0 ? kv_cons(lists, ref - 1, 0) : -ref;
}

/* How many ops a ref names, at most. */
static inline int64_t kv_size_of(const struct kv_lists *lists, int64_t ref)
{
	if (ref >= 0)
		return 1;
	return -ref < lists->begin ? 0 : kv_link_at(lists, -ref)->length;
}

static inline int64_t kv_list_add(struct kv_lists *lists, int64_t head, int64_t op)
{
	int64_t at = head;

	for (int steps = 0; at >= lists->begin && steps < 4 * KV_DEDUPE; steps++) {
		if (kv_link_at(lists, at)->op == op)
			return head;
		at = kv_link_at(lists, at)->next;
	}
	return kv_cons(lists, op, head);
}

/* A ref of what both refs name. */
static inline int64_t kv_merge(struct kv_lists *lists, int64_t into, int64_t other)
{
	if (other == 0 || other == into)
		return into;
	if (into == 0)
		return other;
	int64_t head = kv_list_of(lists, into);

	if (other > 0)
		return -kv_list_add(lists, head, other - 1);
	for (int64_t at = -other; at >= lists->begin; at = kv_link_at(lists, at)->next)
		head = kv_list_add(lists, head, kv_link_at(lists, at)->op);
	return -head;
}

/* Count the newest op in: it has all its columns and edges. */
static inline void kv_finish_op(struct kv_ring *ring)
{
	uint64_t at = kv_newest(ring);

	ring->wait_count[at] = (uint16_t)((uint32_t)ring->edge_end - ring->edge_begin[at]);
	ring->planned++;
}

/* Begin an op that isn't one of the trace; its edges follow, then kv_finish_op. */
static inline void kv_begin_extra(struct kv_ring *ring, int action, int64_t due_ns, int64_t thread,
				  uint32_t clock)
{
	uint64_t at = kv_newest(ring);

	ring->due_ns[at] = due_ns;
	ring->lane[at] = (uint8_t)thread;
	ring->action[at] = (uint8_t)action;
	ring->cell[at] = 0;
	ring->offset_bytes[at] = 0;
	ring->length_sectors[at] = 0;
	ring->pad_bytes[at] = KV_EXTRA;
	ring->key[at] = 0;
	ring->sector[at] = 0;
	ring->generation[at] = 0;
	ring->arena_bytes[at] = 0;
	ring->edge_begin[at] = (uint32_t)ring->edge_end;
	if (ring->clock)
		ring->clock[at] = clock;
}

/* A ref of what `ref` names: if that is a long list, an op that waits for it. */
static inline int64_t kv_joined(const struct kv_lists *lists, struct kv_ring *ring, int64_t ref,
				int64_t due_ns, int64_t thread)
{
	int64_t first = ring->edge_end;

	if (ref >= 0 || kv_size_of(lists, ref) < KV_JOIN_COUNT)
		return ref;
	kv_begin_extra(ring, KV_NONE, due_ns, thread, KV_NO_CLOCK);
	kv_wait(lists, ring, ref, first);
	kv_finish_op(ring);
	return ring->planned;
}

#endif
