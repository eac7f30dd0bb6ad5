/* Each row's place on a device or file; see allocator.py. */
#include "places.h"
#include "rows.h"

enum { PLACED = 0, MORE_NODES = 1, MORE_OUT = 2, UNALIGNED = 3 };

/* Where some bytes of a row are. */
struct part {
	int64_t row;
	int64_t begin;
	int64_t length;
};

/* Placing of allocator.py. */
struct kv_placing {
	const int32_t *index; /* of each row's key */
	const int64_t *lane;  /* of each row */
	struct kv_place *place;
	int64_t lanes;
	struct kv_ground *ground;
	const int64_t *born_length; /* of the lives that begin in the slice */
	const int64_t *align_bytes; /* per lane, as is what follows */
	const bool *per_object;
	struct part *out;
	int64_t room; /* for as many parts */
	int64_t row;  /* rows that are placed */
	int64_t born;
	int64_t count; /* parts filled in */
};

KV_SIZE(placing, struct kv_placing)

static int64_t smaller(int64_t one, int64_t other)
{
	return one < other ? one : other;
}

static int64_t larger(int64_t one, int64_t other)
{
	return one > other ? one : other;
}

/* Fill in where the bytes [low, high) of an object are. */
static void emit(struct kv_placing *placing, const struct kv_place *item, int64_t lane, int64_t low,
		 int64_t high)
{
	const struct kv_node *nodes = placing->ground->nodes;
	int32_t node = item->node;
	int64_t begin = 0;

	for (;;) {
		int64_t end = node ? begin + nodes[node].length : high;

		if (end > low) {
			int64_t from = larger(low, begin);
			int64_t start = placing->per_object[lane] ? 0 : item->extent;

			if (node)
				start = nodes[node].begin - begin;
			placing->out[placing->count++] =
				(struct part){placing->row, start + from, smaller(end, high) - from};
		}
		if (end >= high)
			return;
		node = nodes[node].next;
		begin = end;
	}
}

/* Whether all is there that a row needs; `length`: of the object that it is about. */
static int have_room(const struct kv_placing *placing, const struct kv_place *item, int64_t lane,
		     bool birth, int64_t length)
{
	int64_t extents;

	if (birth && !kv_nodes_have_room(placing->ground, lane, length))
		return MORE_NODES;
	extents = birth ? kv_most_extents(placing->ground, lane, length)
			: kv_count_extents(placing->ground, item);
	return placing->count + extents > placing->room ? MORE_OUT : PLACED;
}

/* Whether a write's bytes [begin, end) are whole blocks, or go up to the object's end. */
static bool is_aligned(int64_t begin, int64_t end, int64_t align, int64_t length)
{
	int64_t high = kv_align_up(end, align);

	return begin % align == 0 && (high == end || high == length);
}

static int place_row(struct kv_placing *placing, const struct kv_rows *rows, int64_t lane)
{
	int64_t row = placing->row, align = placing->align_bytes[lane];
	int what = rows->op[row];
	struct kv_place *item = &placing->place[placing->index[row] * placing->lanes + lane];
	int64_t begin = kv_row_begin(rows, row), end = kv_row_end(rows, row);
	bool birth = what == KV_ROW_WRITE && !item->live;
	int64_t length = birth ? kv_align_up(placing->born_length[placing->born], align)
			       : item->length;
	int status = have_room(placing, item, lane, birth, length);

	if (status != PLACED)
		return status;
	if (birth) {
		placing->born++;
		item->length = length;
		item->live = 1;
		kv_settle(placing->ground, lane, item, 0);
	}
	if (what == KV_ROW_DELETE) {
		if (item->live) {
			if (length > 0)
				emit(placing, item, lane, 0, length);
			kv_leave(placing->ground, lane, item, 0, 0);
		}
		item->live = 0;
		return PLACED;
	}
	if (what == KV_ROW_WRITE && !is_aligned(begin, end, align, item->length))
		return UNALIGNED;
	int64_t low = begin / align * align, high = kv_align_up(end, align);

	if (high > low)
		emit(placing, item, lane, low, high);
	return PLACED;
}

/* Fill in where each row's bytes are, from `row` on, until all are placed or something is missing. */
KV_EXPORT int kv_place_rows(struct kv_placing *placing, const struct kv_rows *rows)
{
	for (; placing->row < rows->count; placing->row++) {
		int64_t lane = placing->lane[placing->row];

		if (lane < 0 || rows->op[placing->row] > KV_ROW_DELETE)
			continue;
		int status = place_row(placing, rows, lane);

		if (status != PLACED)
			return status;
	}
	return PLACED;
}
