/* Inside of the loop: lanes, ops being executed, and the seams between the files. */
#ifndef KV_LOOP_H
#define KV_LOOP_H

#include "abi.h"

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#define SECTOR_BYTES 512u
#define NONE_U32 UINT32_MAX

/* Ops a lane has visited and not yet started, blocked by predecessors or waiting for a slot. In
 * closed mode there is no such limit: the heaps hold the ring. */
#define LOOKAHEAD_OPS 65536u

/* Op numbers are below this: those above mean something else in a state or a link. */
#define OPS_MAX 0xfffffff0ull

/* A blocked loop looks at `stop` at least this often. */
#define STOP_POLL_NS 50000000

/* With spinning a sleep ends at most this much before a due time. */
#define LEAD_MAX_NS 500000

/* How often a lane looks whether more has been planned, and whether payload has come. */
#define PLAN_POLL_NS 500000
#define PAYLOAD_POLL_NS 100000

/* Where virtual time begins. */
#define VIRTUAL_START_NS 1000000000

#define MAX_LANES 64u
#define CACHE_LINE 64

struct lane;

/* One I/O: an op, or a piece of one that is longer than `io_bytes`. */
struct piece {
	uint8_t *data;
	uint64_t file_offset;
	uint64_t op_offset;
	int64_t submit_ns; /* of the latest try */
	int64_t first_submit_ns;
	int64_t complete_ns;
	int64_t result; /* bytes, or -errno */
	uint64_t bytes;
	uint64_t done_bytes; /* of an I/O that was continued after a short transfer */
	uint64_t there_bytes; /* of what was read: less than `bytes` where a file ends in between */
	uint32_t active;
	uint32_t buffer;
	uint32_t next; /* in the free list, or in the list of those handed back */
	uint8_t action;
	bool missing; /* of what was written: the file ends before it */
};

/* An op that has been started and has not completed. */
struct active {
	uint64_t issued_bytes;
	uint64_t extent; /* of a divided op: the one that its next piece begins in, and where in */
	uint64_t extent_begin; /* the op that begins */
	int64_t submit_ns;
	int64_t complete_ns;
	int64_t bad_sector;
	uint32_t op;
	uint32_t outstanding; /* pieces issued and not retired */
	uint32_t next_free;
	int32_t error;
};

/* Ops by (key, number), smallest first. */
struct entry {
	int64_t key;
	uint32_t op;
};

struct heap {
	struct entry *entries;
	uint32_t count;
};

/* What the engine itself keeps of an op, at its index in the ring. Whoever has the op writes it:
 * its lane, or the lane that finishes what it waits for. */
struct track {
	uint32_t link; /* next in the list of ops that wait for the same one, or in an inbox */
	uint16_t passed; /* predecessors known to be finished, from the first on */
	bool failed : 1; /* one of them has failed */
	bool gone : 1; /* one had left the ring, so that it isn't known when it completed */
	bool ready : 1; /* all of them are finished */
};

/* Indices of pieces, first in, first out; the capacity is a power of two. */
struct fifo {
	uint32_t *items;
	uint32_t mask;
	uint32_t head;
	uint32_t tail;
};

/* How a lane's pieces become I/O. */
struct backend {
	/* Prepare in the lane's thread. Returns 0, or an errno with the reason in `message`. */
	int (*open)(struct lane *lane, char *message, size_t message_size);
	void (*close)(struct lane *lane);
	/* Start the I/O; the piece's submit time is the moment it goes out. */
	void (*submit)(struct lane *lane, uint32_t piece);
	/* Hand every finished piece to `io_collect`. */
	void (*collect)(struct lane *lane);
	/* True if `collect` has something to do; cheap enough to spin on. */
	bool (*pending)(struct lane *lane);
	/* Block until a piece finishes, `kick` is called or the deadline passes. */
	void (*wait)(struct lane *lane, int64_t deadline_ns);
	/* End `wait`; called by any thread. */
	void (*kick)(struct lane *lane);
	/* CPU time of threads other than the lane's own. */
	int64_t (*cpu_ns)(struct lane *lane);
	/* When the next piece finishes, INT64_MAX if none is in flight; where that is known. */
	int64_t (*next_ns)(const struct lane *lane);
};

extern const struct backend uring_backend;
extern const struct backend threads_backend;
extern const struct backend external_backend;
extern const struct backend inline_backend;
extern const struct backend simulated_backend;

/* Power-of-two blocks of a huge-page region, for reads in flight. */
struct buffers {
	uint8_t *base;
	uint64_t bytes;
	uint32_t top_order;
	uint32_t *next; /* per granule: links of the free list it heads a block of */
	uint32_t *previous;
	uint8_t *order; /* per granule: order of the block that starts here */
	bool *is_free;
	uint32_t *free_list; /* per order */
};

/* Which sectors of the arena are part of a write in flight; shared by all lanes. */
struct claims {
	uint64_t *words;
	uint64_t waiters; /* one bit per lane */
};

struct loop {
	struct kv_run *run;
	struct lane *lanes;
	uint32_t lane_count;
	struct track *tracks;
	uint64_t *failed_bits; /* by op number: it failed; pages that nobody touched cost nothing */
	int any_failed;
	int64_t *clock_ns; /* per clock: latest completion of an op that advances it */
	int64_t *gate_ns; /* per clock: when its latest gate opened */
	int64_t virtual_ns;
	struct claims claims;
	int halt; /* a lane failed: stop as if interrupted */
	int failed_errno;
	pthread_mutex_t mutex;
	pthread_cond_t changed;
	uint32_t lanes_open;
	int go; /* 0 wait, 1 run, -1 give up */
};

struct lane {
	struct loop *loop;
	struct kv_run *run;
	struct kv_lane *spec;
	const struct backend *backend;
	uint32_t index;
	pthread_t thread;

	/* Scheduling */
	uint64_t cursor; /* next op to visit; the lane's ops before it have been */
	uint64_t planned; /* as last seen */
	uint32_t visited; /* ops visited and not started */
	struct heap ready;
	struct heap instant; /* ready ops that need no slot */
	struct heap timers; /* closed mode: ops not due yet, and gates that open then */
	int64_t now_ns;
	struct kv_polling polling;
	int64_t lead_ns; /* how much before a due time a sleep has to end, as learned */
	int64_t freed_ns; /* when the lane was last found unable to issue, and could again */
	uint32_t patience; /* virtual time: how often real time has been given to others */
	bool final; /* nothing will be planned beyond `planned` */
	bool plan_stalled;
	bool payload_stalled;
	bool stalled;
	bool broken; /* its ring takes no calls any more: I/O in flight can't be waited for */

	/* I/O */
	struct piece *pieces;
	uint32_t piece_count;
	uint32_t free_piece;
	struct active *actives;
	uint32_t free_active;
	uint32_t current; /* active op with pieces left to issue */
	uint32_t depth; /* I/Os in flight at most: the lane's, or what the backend can do */
	uint32_t in_flight;
	struct fifo finished;
	struct fifo unverified;
	struct buffers buffers;
	void *backend_state;

	int64_t verify_cpu_ns;
	int64_t cpu_ns;

	/* Written by other threads */
	int asleep __attribute__((aligned(CACHE_LINE)));
	int poked;
	uint32_t inbox;
	uint32_t handed_back; /* pieces that other threads have finished, linked by `next` */
};

static inline int64_t now_ns(void)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

static inline int64_t thread_cpu_ns(void)
{
	struct timespec time;
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
	return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

static inline void relax_cpu(void)
{
#if defined(__x86_64__) || defined(__i386__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("yield");
#endif
}

static inline bool fifo_empty(const struct fifo *fifo)
{
	return fifo->head == fifo->tail;
}

static inline void fifo_push(struct fifo *fifo, uint32_t item)
{
	fifo->items[fifo->tail++ & fifo->mask] = item;
}

static inline uint32_t fifo_pop(struct fifo *fifo)
{
	return fifo->items[fifo->head++ & fifo->mask];
}

static inline int64_t max_ns(int64_t a, int64_t b)
{
	return a > b ? a : b;
}

static inline int64_t min_ns(int64_t a, int64_t b)
{
	return a < b ? a : b;
}

/* Where the columns have the op. */
static inline uint32_t slot_of(const struct kv_run *run, uint64_t op)
{
	return (uint32_t)(op & (run->capacity - 1));
}

/* Source: the finaliser of splitmix64 (Steele, Lea, Flood: OOPSLA 2014). */
static inline uint64_t mixed(uint64_t value)
{
	value = (value ^ value >> 30) * 0xbf58476d1ce4e5b9ull;
	value = (value ^ value >> 27) * 0x94d049bb133111ebull;
	return value ^ value >> 31;
}

static inline uint64_t length_of(const struct kv_run *run, uint64_t op)
{
	return (uint64_t)run->length_sectors[slot_of(run, op)] * SECTOR_BYTES;
}

/* Where the columns have the op that the piece is of. */
static inline uint32_t piece_slot(const struct lane *lane, const struct piece *piece)
{
	return slot_of(lane->run, lane->actives[piece->active].op);
}

/* Whether a delete is work for the target, and not only bookkeeping. */
static inline bool lane_deletes(const struct kv_lane *spec)
{
	return spec->kind == KV_DIR || spec->kind == KV_EXTERNAL ||
	       (spec->kind == KV_FILE && spec->trim_bytes);
}

static inline bool is_divided(const struct kv_run *run, uint32_t slot)
{
	return run->offset_bytes[slot] & KV_DIVIDED;
}

/* The `nth` extent of a divided op: offset and length. */
static inline const uint64_t *extent_of(const struct kv_run *run, uint32_t slot, uint64_t nth)
{
	uint64_t pair = (run->offset_bytes[slot] & ~KV_DIVIDED) + nth;
	return run->extents + (2 * pair & (run->extent_words - 1));
}

static inline bool lane_has(const struct kv_lane *spec, uint64_t begin, uint64_t bytes)
{
	return begin >= spec->begin_bytes && begin <= spec->end_bytes &&
	       bytes <= spec->end_bytes - begin;
}

/* Whether all of the op is within the part of the target that the lane was given. The last line of
 * defence: whatever was planned, nothing outside is read, written or discarded. */
static inline bool in_range(const struct lane *lane, uint32_t op)
{
	const struct kv_run *run = lane->run;
	uint32_t slot = slot_of(run, op);
	if (!is_divided(run, slot))
		return lane_has(lane->spec, run->offset_bytes[slot], length_of(run, op));
	uint64_t left = length_of(run, op);
	for (uint64_t nth = 0; left; nth++) {
		const uint64_t *extent = extent_of(run, slot, nth);
		if (2 * nth >= run->extent_words || !lane_has(lane->spec, extent[0], extent[1]))
			return false;
		left -= extent[1] < left ? extent[1] : left;
	}
	return true;
}

static inline int64_t lane_now(const struct lane *lane)
{
	return lane->run->virtual_time ? lane->loop->virtual_ns : now_ns();
}

/* check.c: 0, or EINVAL with the reason in `message` */
int run_check(struct kv_run *run);
/* False, and the run aborted with the reason, if the op can't be executed safely. */
bool op_check(struct lane *lane, uint32_t op);
void op_refuse(struct lane *lane, uint64_t op, const char *what);

/* heap.c */
int heap_open(struct heap *heap, uint64_t capacity);
void heap_close(struct heap *heap);
void heap_push(struct heap *heap, int64_t key, uint32_t op);
struct entry heap_pop(struct heap *heap);

/* plan.c: the lane's ops among those planned so far */
void plan_refresh(struct lane *lane);
void plan_seek(struct lane *lane);
bool plan_has_grown(const struct lane *lane);
bool plan_waits(const struct lane *lane);
bool plan_can_grow(const struct lane *lane);
void plan_note_stall(struct lane *lane);

/* order.c: predecessors, and who waits for them */
int order_open(struct loop *loop);
void order_close(struct loop *loop);
void order_begin(struct lane *lane, uint32_t op);
void order_release(struct lane *lane, uint32_t op, bool failed, int64_t when_ns);
void order_take_inbox(struct lane *lane);

/* clocks.c: closed mode */
int clocks_open(struct loop *loop);
void clocks_close(struct loop *loop);
void clocks_start(struct loop *loop);
void clocks_note(struct lane *lane, uint32_t op, int64_t when_ns);
int64_t clocks_opening_ns(const struct lane *lane, uint32_t gate);
void clocks_note_gate(struct lane *lane, uint32_t gate, int64_t when_ns);
int64_t clocks_gate_ns(const struct lane *lane, uint32_t op);

/* loop.c: scheduling */
void lane_run(struct lane *lane);
void lane_ready(struct lane *lane, uint32_t op);
void lane_finish(struct lane *lane, uint32_t op, int32_t error, int64_t when_ns);
void lane_wake(struct lane *lane);
int64_t lane_due_ns(const struct lane *lane, uint64_t op);
bool lane_stopping(const struct lane *lane);
/* A lane cannot go on: every lane stops, the call returns the errno. */
void lane_abort(struct lane *lane, int failed_errno, const char *what);
void loop_abort(struct loop *loop, int failed_errno, const char *message);

/* open.c: a lane's memory and backend, in its thread */
int lane_open(struct lane *lane, char *message, size_t message_size);
void lane_close(struct lane *lane);

/* latency.c */
void latency_count(struct lane *lane, const struct piece *piece);

/* io.c: ops as pieces */
bool io_issue(struct lane *lane);
void io_collect(struct lane *lane, uint32_t piece, int64_t result, int64_t complete_ns);
void io_handle_finished(struct lane *lane);
void io_verify_next(struct lane *lane);
/* Whether a read's whole bytes are compared, not only its stamps. */
bool verifies_body(const struct kv_run *run, uint32_t op);

/* arena.c: false, and nothing taken, if any of the sectors is taken */
bool claims_take(struct claims *claims, uint64_t first_sector, uint64_t count);
void claims_release(struct claims *claims, uint64_t first_sector, uint64_t count);

/* handback.c: pieces that other threads have finished */
void handback_push(struct lane *lane, uint32_t piece);
void handback_collect(struct lane *lane);
bool handback_pending(struct lane *lane);

/* pool.c: threads that each do one piece at a time, and hand it back with its times. What was made
 * is closed by the caller, also after a failure. */
struct pool;
int pool_open(struct pool **made, struct lane *lane, uint32_t workers,
	      void (*work)(struct lane *lane, struct piece *piece));
void pool_close(struct pool *pool);
uint32_t pool_workers(const struct pool *pool);
void pool_submit(struct pool *pool, uint32_t piece);
int64_t pool_cpu_ns(struct pool *pool);

/* folder.c, trim.c: work of a pool; leaves its result in the piece */
void folder_work(struct lane *lane, struct piece *piece);
void trim_work(struct lane *lane, struct piece *piece);

/* sleep.c: the lane's sleep where no ring is waited on */
void lane_sleep(struct lane *lane, int64_t deadline_ns);

/* stamp.c: finds out how this CPU stores stamps fastest, once per process (some ms). */
void stamp_prepare(void);

/* polling.c: whether to poll for completions now. */
bool polling_pays(struct lane *lane, int64_t now);
void lane_rouse(struct lane *lane);

/* buffers.c */
int buffers_open(struct buffers *buffers, uint64_t bytes, uint64_t longest_bytes, bool *huge);
void buffers_close(struct buffers *buffers);
uint32_t buffers_take(struct buffers *buffers, uint64_t bytes);
void buffers_release(struct buffers *buffers, uint32_t buffer);
uint8_t *buffers_data(const struct buffers *buffers, uint32_t buffer);

/* pages.c */
uint8_t *pages_allocate(uint64_t bytes, bool *huge);
void pages_free(uint8_t *data, uint64_t bytes);

#endif
