/* Where an object lives on its target, and which bytes of the arena it holds: see places.py. */
#ifndef KV_PLACES_H
#define KV_PLACES_H

#include "holes.h"

/* No extent is shorter. */
#define KV_ALIGN_BYTES_MIN 512

/* An object of one (key, lane); PLACE of places.py. */
struct kv_place {
	int64_t extent;
	int64_t arena;
	int64_t written;
	int64_t length;
	int32_t generation;
	int32_t node;
	int32_t live;
};

static inline int64_t kv_align_up(int64_t value, int64_t align)
{
	return (value + align - 1) / align * align;
}

/* Where `length` bytes may start at or after `cursor`: no piece straddles the arena's end. */
static inline int64_t kv_reserve_arena(int64_t cursor, int64_t length, int64_t arena_bytes,
				       int64_t io_bytes)
{
	int64_t at = cursor % arena_bytes;

	if (at + length <= arena_bytes)
		return cursor;
	if (length <= arena_bytes)
		return cursor - at + arena_bytes;
	/* Longer than the arena: it wraps, between pieces. */
	return kv_align_up(cursor, io_bytes);
}

/* Give an object its extents; the ground's refs say what it waits for. */
static inline void kv_settle(struct kv_ground *ground, int64_t lane, struct kv_place *place,
			     int64_t floor)
{
	place->node = 0;
	if (place->length == 0) {
		ground->ref_count = 0;
	} else if (ground->lanes[lane].kind == KV_MIXED) {
		place->node = kv_occupy(ground, lane, place->length, floor);
		place->extent = ground->nodes[place->node].begin;
	} else {
		place->extent = kv_next_uniform(ground, lane, place->length);
	}
}

/* Free an object's extents; `ref` is of what does that. */
static inline void kv_leave(struct kv_ground *ground, int64_t lane, struct kv_place *place,
			    int64_t ref, int64_t floor)
{
	int64_t kind = ground->lanes[lane].kind;

	if (place->length == 0)
		return;
	if (kind == KV_MIXED) {
		kv_vacate(ground, lane, place->node, ref, floor);
		place->node = 0;
	} else if (kind == KV_UNIFORM) {
		kv_enqueue(ground, lane, place->extent, place->length, ref);
	}
}

/* How many extents an object has. */
static inline int64_t kv_count_extents(const struct kv_ground *ground, const struct kv_place *place)
{
	int64_t count = 1;

	for (int32_t node = ground->nodes[place->node].next; node; node = ground->nodes[node].next)
		count++;
	return count;
}

/* How many extents a new object of such a length has at most. */
static inline int64_t kv_most_extents(const struct kv_ground *ground, int64_t lane, int64_t length)
{
	int64_t parts = ground->lanes[lane].free + 3;
	int64_t units = length / KV_ALIGN_BYTES_MIN + 1;

	return parts < units ? parts : units;
}

#endif
