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

/* Rows a lane has visited and not yet started: blocked by predecessors or waiting for a slot. */
#define LOOKAHEAD_ROWS 65536u

/* A blocked loop looks at `stop` at least this often. */
#define STOP_POLL_NS 50000000

/* With spinning a sleep ends at most this much before a due time. */
#define LEAD_MAX_NS 500000

/* In `pending`: a predecessor of the op has failed. */
#define PREDECESSOR_FAILED 0x80000000u

#define MAX_LANES 64u
#define CACHE_LINE 64

struct lane;

/* One I/O: an op, or a piece of one that is longer than `io_bytes`. */
struct piece {
	uint8_t *data;
	uint64_t file_offset;
	uint64_t op_offset;
	int64_t submit_ns;
	int64_t complete_ns;
	int64_t result; /* bytes, or -errno */
	uint32_t bytes;
	uint32_t done_bytes; /* of an I/O that was continued after a short transfer */
	uint32_t active;
	uint32_t buffer;
	uint32_t next; /* in the free list, or in the list of finished jobs */
	bool write;
};

/* An op that has been started and has not completed. */
struct active {
	uint64_t issued_bytes;
	int64_t submit_ns;
	int64_t complete_ns;
	int64_t bad_sector;
	uint32_t row;
	uint32_t outstanding; /* pieces issued and not retired */
	uint32_t next_free;
	int32_t error;
};

/* Rows, smallest first. */
struct heap {
	uint32_t *rows;
	uint32_t count;
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
	/* Hand every finished piece to `lane_collect`. */
	void (*collect)(struct lane *lane);
	/* True if `collect` has something to do; cheap enough to spin on. */
	bool (*pending)(struct lane *lane);
	/* Block until a piece finishes, `kick` is called or the deadline passes. */
	void (*wait)(struct lane *lane, int64_t deadline_ns);
	/* End `wait`; called by any thread. */
	void (*kick)(struct lane *lane);
	/* CPU time of threads other than the lane's own. */
	int64_t (*cpu_ns)(struct lane *lane);
};

extern const struct backend uring_backend;
extern const struct backend threads_backend;
extern const struct backend inline_backend;

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
	uint32_t *pending; /* per op: predecessors left, plus one until its lane visits it */
	uint32_t *inbox_next; /* per op: link of the list of ops another lane made ready */
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
	uint64_t cursor; /* next row to visit; rows before it have been */
	uint32_t visited; /* rows visited and not started */
	struct heap ready;
	struct heap instant; /* ready ops that need no slot */
	int64_t now_ns;
	int64_t lead_ns; /* how much before a due time a sleep has to end, as learned */
	int64_t freed_ns; /* when the lane was last found unable to issue, and could again */
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

/* check.c: 0, or EINVAL with the reason in `message` */
int columns_check(struct kv_run *run);

/* heap.c */
void heap_push(struct heap *heap, uint32_t row);
uint32_t heap_pop(struct heap *heap);

/* loop.c: scheduling */
void lane_run(struct lane *lane);
void lane_finish(struct lane *lane, uint32_t row, int32_t error, int64_t when_ns);
void lane_wake(struct lane *lane);
int64_t lane_due_ns(const struct lane *lane, uint64_t row);
bool lane_stopping(const struct lane *lane);
/* A lane cannot go on: every lane stops, the call returns the errno. */
void lane_abort(struct lane *lane, int failed_errno, const char *what);

/* io.c: ops as pieces */
bool io_issue(struct lane *lane);
void io_collect(struct lane *lane, uint32_t piece, int64_t result, int64_t complete_ns);
void io_handle_finished(struct lane *lane);
void io_verify_next(struct lane *lane);

/* arena.c: false, and nothing taken, if any of the sectors is taken */
bool claims_take(struct claims *claims, uint64_t first_sector, uint64_t count);
void claims_release(struct claims *claims, uint64_t first_sector, uint64_t count);

/* sleep.c: the lane's sleep where no ring is waited on */
void lane_sleep(struct lane *lane, int64_t deadline_ns);
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
