/* The ring as memory and system calls: what ring.c prepares and uring.c works with. */
#ifndef KV_RING_H
#define KV_RING_H

#include "loop.h"

#include <linux/io_uring.h>

/* Newer than the oldest headers this must compile with; the value is the kernel's ABI. */
#ifndef IORING_SQ_TASKRUN
#define IORING_SQ_TASKRUN (1U << 2)
#endif

/* The kernel refuses to register more than 1 GiB as one buffer. */
#define FIXED_SHIFT 30

struct ring {
	int fd;
	int event_fd;
	struct pool *trimmers; /* what a ring can't do without blocking; NULL where deletes are no work */
	uint32_t sq_mask;
	uint32_t cq_mask;
	uint32_t sq_tail; /* ours; the kernel's copy is published on submit */
	uint32_t *sq_head;
	uint32_t *sq_tail_shared;
	uint32_t *sq_flags;
	uint32_t *cq_head;
	uint32_t *cq_tail;
	struct io_uring_sqe *sqes;
	struct io_uring_cqe *cqes;
	void *map;
	size_t map_bytes;
	size_t sqes_bytes;
	bool fixed_file;
	uint32_t arena_buffers; /* registered, from index 0 */
	uint32_t read_buffers; /* registered, after those of the arena */
	uint32_t until_timed; /* submits, up to the next that is timed */
};

/* Create and map a ring that can hold the lane's I/Os; register its file and its memory where
 * the system allows. Returns 0 or an errno. */
int ring_open(struct ring *ring, struct lane *lane);
void ring_close(struct ring *ring);

#endif
