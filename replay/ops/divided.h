/* Objects of several extents: where a plan's ops find their bytes. */
#ifndef KV_DIVIDED_OBJECTS_H
#define KV_DIVIDED_OBJECTS_H

#include "../../kvtrace/placement/places.h"
#include "lists.h"

#define KV_SECTOR_BYTES 512

/* Give an object its extents; return a ref of what freed them. */
static inline int64_t kv_allocate(struct kv_ground *ground, struct kv_lists *lists,
				  struct kv_ring *ring, struct kv_place *place, int64_t lane,
				  int64_t due_ns, int64_t thread)
{
	int64_t freed = 0;

	kv_settle(ground, lane, place, ring->floor);
	for (int64_t at = 0; at < ground->ref_count; at++) {
		freed = -kv_cons(lists, ground->refs[at] - 1, -freed);
		freed = -kv_list_of(lists, kv_joined(lists, ring, freed, due_ns, thread));
	}
	return freed;
}

/* Say where the bytes of the newest op are: it has an offset and a length in the object. */
static inline void kv_locate(const struct kv_place *place, const struct kv_ground *ground,
			     struct kv_ring *ring)
{
	uint64_t at = kv_newest(ring);
	int32_t node = place->node;

	if (!node || !ground->nodes[node].next) {
		ring->offset_bytes[at] += (uint64_t)place->extent;
		return;
	}
	int64_t low = (int64_t)ring->offset_bytes[at];
	int64_t high = low + (int64_t)ring->length_sectors[at] * KV_SECTOR_BYTES;

	ring->offset_bytes[at] = (uint64_t)ring->extent_end | KV_DIVIDED;
	for (int64_t begin = 0, end; begin < high; begin = end) {
		const struct kv_node *item = &ground->nodes[node];

		end = begin + item->length;
		if (end > low) {
			int64_t start = low > begin ? low : begin;

			kv_add_extent(ring, item->begin + start - begin,
				      (end < high ? end : high) - start);
		}
		node = item->next;
	}
}

/* How many extents a row's object has at most, 0 where it can't be divided. */
static inline int64_t kv_extents_of(const struct kv_ground *ground, const struct kv_place *place,
				    int64_t lane, bool birth, int64_t length)
{
	if (ground->lanes[lane].kind != KV_MIXED)
		return 0;
	return birth ? kv_most_extents(ground, lane, length) : kv_count_extents(ground, place);
}

#endif
