/* A surveyed trace's live set, and the space of its extents; see rehearsal.py. */
#include "holes.h"

/* Of a lane: what is live, the most that ever was, and its shortest and longest extent. */
struct peak {
	int64_t objects;
	int64_t bytes;
	int64_t objects_max;
	int64_t bytes_max;
	int64_t shortest;
	int64_t longest;
};

/* What begins and ends, in order, and what is known of it; Changes of rehearsal.py. */
struct kv_changes {
	const int64_t *changes;
	int64_t count;
	const int64_t *lengths; /* of the lives that begin among the changes */
	const int64_t *lanes;
	const int64_t *original_of;
	int64_t at;   /* changes, */
	int64_t born; /* and lives, that were followed */
};

KV_SIZE(peak, struct peak)
KV_SIZE(changes, struct kv_changes)

enum { NOTHING, BIRTH, DEATH, ORIGINAL_DEATH };

/* What a change is, and of which slot or original. */
static int kind_of(const struct kv_changes *changes, int64_t change, int64_t *which)
{
	*which = change >> 1;
	if (change >= 0)
		return change & 1 ? DEATH : BIRTH;
	if (change == -1)
		return NOTHING;
	*which = changes->original_of[-2 - change];
	return *which < 0 ? NOTHING : ORIGINAL_DEATH;
}

static void add_peak(struct peak *peak, int64_t length)
{
	peak->bytes += length;
	peak->objects++;
	if (peak->bytes_max < peak->bytes)
		peak->bytes_max = peak->bytes;
	if (peak->objects_max < peak->objects)
		peak->objects_max = peak->objects;
	if (peak->shortest > length)
		peak->shortest = length;
	if (peak->longest < length)
		peak->longest = length;
}

static void take_from_peak(struct peak *peak, int64_t length)
{
	if (length > 0) {
		peak->bytes -= length;
		peak->objects--;
	}
}

/* Follow all changes; lengths and lanes of originals are known, those of slots are kept. */
KV_EXPORT void kv_measure_lives(struct kv_changes *changes, const int64_t *original_length,
				const int64_t *original_lane, int64_t *slot_length,
				int64_t *slot_lane, struct peak *peaks)
{
	for (int64_t at = 0; at < changes->count; at++) {
		int64_t which;
		int kind = kind_of(changes, changes->changes[at], &which);

		if (kind == BIRTH) {
			int64_t born = changes->born++;

			slot_length[which] = changes->lengths[born];
			slot_lane[which] = changes->lanes[born];
			if (slot_length[which] > 0)
				add_peak(&peaks[slot_lane[which]], slot_length[which]);
		} else if (kind == DEATH) {
			take_from_peak(&peaks[slot_lane[which]], slot_length[which]);
		} else if (kind == ORIGINAL_DEATH) {
			take_from_peak(&peaks[original_lane[which]], original_length[which]);
		}
	}
}

/* Give the next life its extents; return false where there have to be more nodes first. */
static bool be_born(struct kv_changes *changes, struct kv_ground *ground, int32_t *node, int64_t *lane)
{
	int64_t length = changes->lengths[changes->born];

	*node = 0;
	*lane = changes->lanes[changes->born];
	if (length > 0 && ground->lanes[*lane].kind == KV_MIXED) {
		if (!kv_nodes_have_room(ground, *lane, length))
			return false;
		*node = kv_occupy(ground, *lane, length, 0);
	}
	changes->born++;
	return true;
}

/* Follow the changes from `at` on, in mixed lanes; return false where there have to be more nodes
 * first. Of each slot and original the first node and the lane are kept. */
KV_EXPORT bool kv_follow_lives(struct kv_changes *changes, struct kv_ground *ground,
			       const int32_t *original_node, const int64_t *original_lane,
			       int32_t *slot_node, int64_t *slot_lane)
{
	for (; changes->at < changes->count; changes->at++) {
		int64_t which;
		int kind = kind_of(changes, changes->changes[changes->at], &which);

		if (kind == BIRTH) {
			if (!be_born(changes, ground, &slot_node[which], &slot_lane[which]))
				return false;
		} else if (kind == DEATH) {
			kv_vacate(ground, slot_lane[which], slot_node[which], 0, 0);
		} else if (kind == ORIGINAL_DEATH) {
			kv_vacate(ground, original_lane[which], original_node[which], 0, 0);
		}
	}
	return true;
}
