/* The check that I/O on the same bytes kept its order; see overlaps.py. */
#include "histogram.h"
#include "../../kvtrace/placement/rows.h"

/* Bytes [begin, end) that have one history: when all I/O on them is over, and all writes. */
struct segment {
	int64_t begin;
	int64_t end;
	int64_t all_done;
	int64_t write_done;
};

/* Segments in order of address. */
struct kv_segments {
	struct segment *segments;
	int64_t room;
	int64_t count;
};

/* Columns of I/O; Moved of overlaps.py. */
struct kv_moved {
	const int64_t *number; /* of the op */
	const int64_t *begin;
	const int64_t *length;
	const uint8_t *op;
	const int64_t *submit;
	const int64_t *complete;
	int64_t count;
};

KV_SIZE(segment, struct segment)
KV_SIZE(segments, struct kv_segments)
KV_SIZE(moved, struct kv_moved)

/* The first segment that ends behind `begin`. */
static int64_t first_behind(const struct kv_segments *known, int64_t begin)
{
	int64_t low = 0, high = known->count;

	while (low < high) {
		int64_t middle = low + (high - low) / 2;

		if (known->segments[middle].end > begin)
			high = middle;
		else
			low = middle + 1;
	}
	return low;
}

/* Put one segment where those from `low` to `after` were; what of them is outside stays. */
static void replace(struct kv_segments *known, int64_t low, int64_t after, struct segment made)
{
	struct segment *segments = known->segments;
	bool left = after > low && segments[low].begin < made.begin;
	bool right = after > low && segments[after - 1].end > made.end;
	struct segment rest = right ? segments[after - 1] : made;
	int64_t at = left ? low + 1 : low, behind = at + 1 + right;

	memmove(&segments[behind], &segments[after],
		(size_t)(known->count - after) * sizeof *segments);
	known->count += behind - after;
	if (left)
		segments[low].end = made.begin;
	segments[at] = made;
	if (right) {
		rest.begin = made.end;
		segments[at + 1] = rest;
	}
}

/* Take a piece of I/O; return whether it began before what it overlaps had completed. */
static bool take(struct kv_segments *known, const struct kv_moved *moved, int64_t row)
{
	struct segment made = {.begin = moved->begin[row],
			       .end = moved->begin[row] + moved->length[row]};
	bool write = moved->op[row] == KV_ROW_WRITE;

	/* At more than there is room for all are forgotten: what is far behind is over. */
	if (known->count + 2 > known->room)
		known->count = 0;
	int64_t low = first_behind(known, made.begin), after = low;

	for (; after < known->count && known->segments[after].begin < made.end; after++) {
		made.all_done = kv_larger(made.all_done, known->segments[after].all_done);
		made.write_done = kv_larger(made.write_done, known->segments[after].write_done);
	}
	bool early = moved->submit[row] < (write ? made.all_done : made.write_done);

	made.all_done = kv_larger(made.all_done, moved->complete[row]);
	if (write)
		made.write_done = kv_larger(made.write_done, moved->complete[row]);
	replace(known, low, after, made);
	return early;
}

/* Return how many ops began too early; one counts once, however many of its rows did. */
KV_EXPORT int64_t kv_check_overlaps(struct kv_segments *known, const struct kv_moved *moved)
{
	int64_t overlaps = 0, last = -1;

	for (int64_t row = 0; row < moved->count; row++) {
		if (take(known, moved, row) && moved->number[row] != last) {
			overlaps++;
			last = moved->number[row];
		}
	}
	return overlaps;
}
