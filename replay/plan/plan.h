/* What the planner's parts share: see order.py. */
#ifndef KV_PLAN_H
#define KV_PLAN_H

#include "../../kvtrace/placement/rows.h"
#include "../ops/divided.h"

/* Ref of the last write or delete of a (key, tier); list of the reads since; ref and row of the last
 * write of phase evict. ORDER of order.py. */
struct kv_order {
	int64_t exclusive;
	int64_t reads;
	int64_t evict_write;
	int64_t evict_row;
};

/* The current group of a stream; STREAM of gates.py. */
struct kv_stream {
	uint64_t request;
	int64_t begin;    /* when it began, */
	int64_t complete; /* and completed in the trace, if that is known */
	int64_t gate;     /* ref of its gate */
	int64_t gating;   /* list of what the next gate waits for */
	int64_t batch;
	int32_t step;
	int32_t known;
};

/* What of a slice of rows tells their groups; of no use unless the loop is closed. */
struct kv_groups {
	const int32_t *stream; /* per row, or -1 */
	const uint64_t *request;
	const int32_t *step;
	const int64_t *complete; /* as recorded; negative where it wasn't */
	const int64_t *batch;    /* number of its task; negative where unknown */
	struct kv_stream *streams;
};

/* Plan of order.py. */
struct kv_plan {
	struct kv_ring *ring;
	struct kv_lists *lists;
	struct kv_ground *ground;
	const int8_t *lane_of_tier;
	const int64_t *align; /* per lane, as are those up to `deletes` */
	const int64_t *threads;
	const int64_t *first_thread;
	const bool *per_object; /* offsets are within the object's own file */
	const bool *deletes;    /* whether a delete is work for the target */
	int64_t *next_thread;   /* ops of the lane so far */
	int64_t lanes;
	int64_t arena_bytes;
	int64_t io_bytes;
	double speed;
	bool closed;
	bool sync_stores;
	bool fresh; /* each write takes new bytes of the payload's stream */
	uint32_t generation_mask; /* of stamps */

	struct kv_order *order; /* per key and tier */
	struct kv_place *place; /* per key and lane */
	int64_t *transfer_read; /* per key: ref of the last read of phase evict or promote */
	int64_t *touched;       /* per key: ops there were when it was last in a row */
	int64_t arena;          /* where the next bytes of the payload begin */
	const int64_t *born_length; /* of the lives that are about to begin, in order */
	int64_t born_count;
	int64_t born;

	const struct kv_rows *rows; /* the slice at hand */
	const int32_t *key_index;   /* of each row, as is what follows */
	const uint8_t *qos;         /* 0 unknown, else 1 + the word's value */
	const struct kv_groups *groups;
	int64_t row; /* rows that are planned */
};

/* A time of the trace at the replay's speed; what doesn't fit in is the least there is. */
static inline int64_t kv_at_speed(int64_t time_ns, double speed)
{
	double due_ns = (double)time_ns / speed;

	return due_ns > -0x1p63 && due_ns < 0x1p63 ? (int64_t)due_ns : INT64_MIN;
}

/* What a row of a stream would wait for with its next gate, as a list. */
int64_t kv_gating_of(const struct kv_plan *plan);
/* Plan the gate of the group that the row begins, if it begins one. */
void kv_open_group(struct kv_plan *plan, int64_t thread);
/* Put the row's op (the newest one, unfinished) behind its group's gate, and before the next. A row
 * that isn't executed (`lane` below 0) has no op: what it waits for, `ref`, stands for it. */
void kv_attach(struct kv_plan *plan, int64_t lane, int64_t ref);

#endif
