/* Counts and latencies of ops per slice of time; see slices.py. */
#include "histogram.h"
#include "../engine/native/abi.h"

#define SLICES_MAX 512
#define BUCKETS ((1 << KV_COARSE_BITS) * (64 - KV_COARSE_BITS))

/* Rows of counts; of ops and bytes the writes' come after the reads'. */
enum { DUE = 0, COMPLETED = 1, ERRORS = 2, OPS = 3, BYTES = 5, COUNTS = 7 };
/* Rows of latencies: service of reads, of writes, and response. */
enum { RESPONSE = 2, LATENCIES = 3 };

/* How many spans overlap: steps at the slices' begins, and what is more within slices. */
struct level {
	int64_t step[SLICES_MAX + 1];
	int64_t partial_ns[SLICES_MAX + 1];
};

/* Some ops, and what is counted; Sliced of slices.py. Times are since the start of the run, and
 * within the slices. */
struct kv_sliced {
	int64_t width_ns;
	int64_t count;
	const uint8_t *action;
	const int32_t *error;
	const int64_t *size;
	const int64_t *due;
	const int64_t *submit;
	const int64_t *complete;
	int64_t (*table)[SLICES_MAX];
	int64_t *late_ns;
	int64_t (*latencies)[SLICES_MAX][BUCKETS];
	struct level *in_flight;
	struct level *planned;
};

KV_SIZE(sliced, struct kv_sliced)

static int64_t slice_of(const struct kv_sliced *sliced, int64_t at_ns)
{
	int64_t slice = kv_larger(0, at_ns) / sliced->width_ns;

	return slice < SLICES_MAX ? slice : SLICES_MAX - 1;
}

/* Begin (+1) or end (-1) a span. */
static void move(const struct kv_sliced *sliced, struct level *level, int64_t at_ns, int sign)
{
	int64_t slice = slice_of(sliced, at_ns);

	level->step[slice + 1] += sign;
	level->partial_ns[slice] = kv_sum(level->partial_ns[slice],
					 sign * ((slice + 1) * sliced->width_ns - at_ns));
}

/* Add an op's bytes to the slices of its service time; they add up to its size exactly.
 *
 * What is added up to an edge doesn't depend on the slices' width, so that slices may be merged. */
static void spread(const struct kv_sliced *sliced, int64_t *column, int64_t op)
{
	int64_t submit = sliced->submit[op], complete = sliced->complete[op];
	int64_t size = sliced->size[op], last = slice_of(sliced, complete), added = 0;

	for (int64_t slice = slice_of(sliced, submit); slice < last; slice++) {
		int64_t within = (slice + 1) * sliced->width_ns - submit;
		double part = (double)within / (double)(complete - submit);
		int64_t reached = (int64_t)((double)size * part);

		column[slice] += reached - added;
		added = reached;
	}
	column[last] += size - added;
}

/* Count what an op moved and took, where it ended. */
static void count_good(const struct kv_sliced *sliced, int64_t op, int64_t slice)
{
	int which = sliced->action[op] == KV_WRITE;
	int64_t took = kv_larger(0, sliced->complete[op] - sliced->submit[op]);
	int64_t answered = kv_larger(0, sliced->complete[op] - sliced->due[op]);

	sliced->table[OPS + which][slice]++;
	spread(sliced, sliced->table[BYTES + which], op);
	sliced->latencies[which][slice][kv_bucket_of(took, KV_COARSE_BITS)]++;
	sliced->latencies[RESPONSE][slice][kv_bucket_of(answered, KV_COARSE_BITS)]++;
}

/* Count each op in the slices in which it was due, was submitted, and ended. */
KV_EXPORT void kv_count_slices(const struct kv_sliced *sliced)
{
	int64_t end_ns = sliced->width_ns * SLICES_MAX - 1;

	for (int64_t op = 0; op < sliced->count; op++) {
		int64_t due = sliced->due[op], submit = sliced->submit[op];
		int64_t complete = sliced->complete[op], planned_end = due + complete - submit;
		int64_t at = slice_of(sliced, complete);
		int64_t *late_ns = &sliced->late_ns[slice_of(sliced, submit)];

		sliced->table[DUE][slice_of(sliced, due)]++;
		sliced->table[COMPLETED][at]++;
		*late_ns = kv_larger(*late_ns, submit - due);
		move(sliced, sliced->in_flight, submit, 1);
		move(sliced, sliced->in_flight, complete, -1);
		move(sliced, sliced->planned, due, 1);
		move(sliced, sliced->planned, planned_end < end_ns ? planned_end : end_ns, -1);
		if (sliced->error[op])
			sliced->table[ERRORS][at]++;
		else
			count_good(sliced, op, at);
	}
}
