/* Extents are taken from holes and never-used space, and become holes again.
 *
 * Every free node is a part of a hole, and every hole is in a bin. Refs up to a `floor` are of what
 * is over: as good as none.
 */
#ifndef KV_HOLES_H
#define KV_HOLES_H

#include "ground.h"

static inline int32_t kv_new_node(struct kv_ground *ground, int64_t begin, int64_t length)
{
	int64_t at = ground->spare;

	if (at)
		ground->spare = ground->nodes[at].next;
	else
		at = ground->used++;
	ground->nodes[at] = (struct kv_node){.begin = begin, .length = length};
	return (int32_t)at;
}

static inline void kv_give_back(struct kv_ground *ground, int32_t at)
{
	ground->nodes[at].next = (int32_t)ground->spare;
	ground->spare = at;
}

/* Give up a free node whose bytes another one has taken over. */
static inline void kv_unlink(struct kv_ground *ground, int64_t lane, int32_t at)
{
	int32_t below = ground->nodes[at].below;
	int32_t above = ground->nodes[at].above;

	if (below)
		ground->nodes[below].above = above;
	if (above)
		ground->nodes[above].below = below;
	else
		ground->lanes[lane].last = below;
	kv_give_back(ground, at);
	ground->lanes[lane].free--;
}

/* A node of never-used space. */
static inline int32_t kv_fresh(struct kv_ground *ground, int64_t lane, int64_t length)
{
	struct kv_space *space = &ground->lanes[lane];
	int32_t at = kv_new_node(ground, space->top, length);
	int32_t last = (int32_t)space->last;

	ground->nodes[at].below = last;
	if (last)
		ground->nodes[last].above = at;
	space->last = at;
	space->top += length;
	return at;
}

/* Make the nodes from `head` to `tail` a hole. */
static inline void kv_make_hole(struct kv_ground *ground, int64_t lane, int32_t head, int32_t tail,
				int64_t length)
{
	ground->nodes[head].hole = length;
	ground->nodes[head].other = tail;
	ground->nodes[tail].other = head;
	kv_insert_hole(ground, lane, head);
}

/* Let a free node take over the one above it if the same op freed both; return whether it did. */
static inline bool kv_join(struct kv_ground *ground, int64_t lane, int32_t at, int32_t above)
{
	if (ground->nodes[at].ref != ground->nodes[above].ref)
		return false;
	ground->nodes[at].length += ground->nodes[above].length;
	kv_unlink(ground, lane, above);
	return true;
}

static inline void kv_forget_ref(struct kv_node *node, int64_t floor)
{
	if (node->ref <= floor)
		node->ref = 0;
}

/* Make a node a part of a hole; `ref` is of what frees it. */
static inline void kv_free_node(struct kv_ground *ground, int64_t lane, int32_t at, int64_t ref,
				int64_t floor)
{
	struct kv_node *nodes = ground->nodes;
	int32_t head = at, tail = at;
	int32_t below = nodes[at].below, above = nodes[at].above;
	int64_t length = nodes[at].length;

	ground->lanes[lane].free++;
	nodes[at].free = 1;
	nodes[at].ref = ref;
	nodes[at].next = 0;
	if (below && nodes[below].free) {
		head = nodes[below].other;
		kv_remove_hole(ground, lane, head);
		length += nodes[head].hole;
	}
	if (above && nodes[above].free) {
		tail = nodes[above].other;
		kv_remove_hole(ground, lane, above);
		length += nodes[above].hole;
		kv_forget_ref(&nodes[above], floor);
		if (kv_join(ground, lane, at, above) && tail == above)
			tail = at;
	}
	if (head != at) {
		kv_forget_ref(&nodes[below], floor);
		if (kv_join(ground, lane, below, at) && tail == at)
			tail = below;
	}
	kv_make_hole(ground, lane, head, tail, length);
}

/* Add a ref to those that the one who takes space must wait for. */
static inline void kv_note_ref(struct kv_ground *ground, int64_t ref, int64_t floor)
{
	int64_t count = ground->ref_count;

	if (ref > floor && (count == 0 || ground->refs[count - 1] != ref))
		ground->refs[ground->ref_count++] = ref;
}

/* Let a hole's first node have just `length` bytes, of others behind it what is missing. Return
 * the node of which only a part was taken, or 0. */
static inline int32_t kv_gather(struct kv_ground *ground, int64_t lane, int32_t head, int64_t length,
				int64_t floor)
{
	struct kv_node *node = &ground->nodes[head];

	while (node->length < length) {
		int32_t above = node->above;
		struct kv_node *other = &ground->nodes[above];
		int64_t missing = length - node->length;

		kv_note_ref(ground, other->ref, floor);
		if (other->length > missing) {
			node->length = length;
			other->begin += missing;
			other->length -= missing;
			return above;
		}
		node->length += other->length;
		kv_unlink(ground, lane, above);
	}
	return 0;
}

/* Divide a free node behind `length` bytes; return the node of the rest. */
static inline int32_t kv_split(struct kv_ground *ground, int64_t lane, int32_t at, int64_t length)
{
	struct kv_node *node = &ground->nodes[at];
	int32_t rest = kv_new_node(ground, node->begin + length, node->length - length);
	struct kv_node *left = &ground->nodes[rest];

	node->length = length;
	left->free = 1;
	left->ref = node->ref;
	left->below = at;
	left->above = node->above;
	ground->lanes[lane].free++;
	if (node->above)
		ground->nodes[node->above].below = rest;
	else
		ground->lanes[lane].last = rest;
	node->above = rest;
	return rest;
}

/* A node of the first `length` bytes of a hole, in use; what freed them is noted. */
static inline int32_t kv_take(struct kv_ground *ground, int64_t lane, int32_t head, int64_t length,
			      int64_t floor)
{
	struct kv_node *node = &ground->nodes[head];
	int64_t hole = node->hole;
	int32_t tail = node->other;

	kv_remove_hole(ground, lane, head);
	kv_note_ref(ground, node->ref, floor);
	int32_t rest = kv_gather(ground, lane, head, length, floor);

	if (node->length > length) {
		rest = kv_split(ground, lane, head, length);
		if (tail == head)
			tail = rest;
	} else if (!rest && hole > length) {
		rest = node->above;
	}
	if (rest)
		kv_make_hole(ground, lane, rest, tail, hole - length);
	node->free = 0;
	node->next = 0;
	ground->lanes[lane].free--;
	return head;
}

/* The hole that ends where never-used space begins; 0 if there is none. */
static inline int32_t kv_tail_hole(const struct kv_ground *ground, int64_t lane)
{
	int64_t last = ground->lanes[lane].last;

	return last && ground->nodes[last].free ? ground->nodes[last].other : 0;
}

/* Make never-used space a part of the last hole until that has `length` bytes, or comes to `end`.
 * Return the hole if it has them, else 0. */
static inline int32_t kv_extended(struct kv_ground *ground, int64_t lane, int64_t length,
				  int64_t end, int64_t floor)
{
	/* Of node 0 the hole is 0; a hole that has all may have been behind those looked at. */
	int64_t more = length - ground->nodes[kv_tail_hole(ground, lane)].hole;

	if (more > 0) {
		if (more > end - ground->lanes[lane].top)
			more = end - ground->lanes[lane].top;
		kv_free_node(ground, lane, kv_fresh(ground, lane, more), 0, floor);
	}
	int32_t head = kv_tail_hole(ground, lane);

	return ground->nodes[head].hole < length ? 0 : head;
}

/* A node for `length` bytes, or for the first of them where they have to be divided.
 *
 * In this order: never-used space up to the limit, a hole that holds all, whole parts of the largest
 * hole, never-used space up to the cap, what there is of the largest hole, and space beyond the cap.
 */
static inline int32_t kv_next_extent(struct kv_ground *ground, int64_t lane, int64_t length,
				     int64_t floor)
{
	struct kv_space *space = &ground->lanes[lane];

	if (space->top + length <= space->limit)
		return kv_fresh(ground, lane, length);
	int32_t head = kv_find_hole(ground, lane, length);

	while (!head) {
		int32_t largest = kv_largest_hole(ground, lane);
		int64_t hole = ground->nodes[largest].hole;
		int64_t end = INT64_MAX, whole = hole / space->part * space->part;

		if (space->top < space->limit)
			end = space->limit;
		else if (length > space->part && hole >= space->part)
			return kv_take(ground, lane, largest, whole < length ? whole : length, floor);
		else if (space->top < space->cap)
			end = space->cap;
		else if (hole > 0)
			return kv_take(ground, lane, largest, hole < length ? hole : length, floor);
		head = kv_extended(ground, lane, length, end, floor);
	}
	return kv_take(ground, lane, head, length, floor);
}

/* The first node of a new object of a mixed lane; the ground's refs say what it waits for. */
static inline int32_t kv_occupy(struct kv_ground *ground, int64_t lane, int64_t length, int64_t floor)
{
	int32_t first = 0, at = 0;

	ground->ref_count = 0;
	for (int64_t left = length; left > 0; left -= ground->nodes[at].length) {
		int32_t following = kv_next_extent(ground, lane, left, floor);

		if (first)
			ground->nodes[at].next = following;
		else
			first = following;
		at = following;
	}
	return first;
}

/* Free all extents of an object of a mixed lane. */
static inline void kv_vacate(struct kv_ground *ground, int64_t lane, int32_t first, int64_t ref,
			     int64_t floor)
{
	while (first) {
		int32_t following = ground->nodes[first].next;

		kv_free_node(ground, lane, first, ref, floor);
		first = following;
	}
}

/* Put a freed extent last into the queue of a uniform lane. */
static inline void kv_enqueue(struct kv_ground *ground, int64_t lane, int64_t begin, int64_t length,
			      int64_t ref)
{
	struct kv_space *space = &ground->lanes[lane];
	int32_t at = kv_new_node(ground, begin, length);

	ground->nodes[at].ref = ref;
	if (space->tail)
		ground->nodes[space->tail].next = at;
	else
		space->head = at;
	space->tail = at;
}

/* An extent of a lane that isn't mixed: never-used space, else the one freed longest ago, of which
 * there is one: the lane has space for all that is live. What freed it is noted. */
static inline int64_t kv_next_uniform(struct kv_ground *ground, int64_t lane, int64_t length)
{
	struct kv_space *space = &ground->lanes[lane];
	int64_t begin = space->top;

	ground->ref_count = 0;
	if (space->kind == KV_UNBOUNDED || begin + length <= space->limit) {
		space->top += length;
		return begin;
	}
	int32_t at = (int32_t)space->head;

	space->head = ground->nodes[at].next;
	if (!space->head)
		space->tail = 0;
	kv_note_ref(ground, ground->nodes[at].ref, 0);
	begin = ground->nodes[at].begin;
	kv_give_back(ground, at);
	return begin;
}

#endif
