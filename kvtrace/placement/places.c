#include "places.h"

KV_SIZE(space, struct kv_space)
KV_SIZE(node, struct kv_node)
KV_SIZE(bins, struct kv_bins)
KV_SIZE(ground, struct kv_ground)
KV_SIZE(place, struct kv_place)

/* Give extents to objects that are there before the first row; return how many have them. Fewer than
 * all, from `begin` on: there have to be more nodes first. */
KV_EXPORT int64_t kv_take_originals(struct kv_place *place, int64_t lanes, struct kv_ground *ground,
				    const int64_t *index, const int64_t *lane, const int64_t *length,
				    int64_t count, const int64_t *align_bytes, int64_t begin)
{
	for (int64_t at = begin; at < count; at++) {
		struct kv_place *item = &place[index[at] * lanes + lane[at]];

		item->length = kv_align_up(length[at], align_bytes[lane[at]]);
		if (!kv_nodes_have_room(ground, lane[at], item->length))
			return at;
		item->written = item->length;
		item->live = 1;
		kv_settle(ground, lane[at], item, 0);
	}
	return count;
}

/* Give objects their places in the arena, one after the other; return where it ends. */
KV_EXPORT int64_t kv_give_arena(struct kv_place *place, int64_t lanes, const int64_t *index,
				const int64_t *lane, int64_t count, int64_t end, int64_t arena_bytes,
				int64_t io_bytes)
{
	for (int64_t at = 0; at < count; at++) {
		struct kv_place *item = &place[index[at] * lanes + lane[at]];

		item->arena = kv_reserve_arena(end, item->length, arena_bytes, io_bytes);
		end = item->arena + item->length;
	}
	return end;
}
