/* File I/O by io_uring, through its system calls alone. The lane's thread creates the ring, and
 * is the only one that touches it. */
#include "ring.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#define KICK_TAG UINT64_MAX

/* Enough to keep a device's discards going while the ring does the rest. */
#define TRIMMERS 4u

/* One in so many submits is timed: reading the clock once more for each would cost as much as a
 * tenth of the call. A prime, so that it doesn't fall into step with a repeating pattern of ops. */
#define TIMED_EVERY 61u

static int enter(struct lane *lane, uint32_t submit, uint32_t wait, uint32_t flags,
		 const void *argument, size_t size)
{
	const struct ring *ring = lane->backend_state;
	lane->spec->enter_calls++;
	int done = (int)syscall(SYS_io_uring_enter, ring->fd, submit, wait, flags, argument, size);
	return done < 0 ? -errno : done;
}

static struct io_uring_sqe *next_sqe(struct ring *ring)
{
	struct io_uring_sqe *sqe = &ring->sqes[ring->sq_tail & ring->sq_mask];
	ring->sq_tail++;
	memset(sqe, 0, sizeof *sqe);
	return sqe;
}

static void arm_kick(struct ring *ring)
{
	struct io_uring_sqe *sqe = next_sqe(ring);
	sqe->opcode = IORING_OP_POLL_ADD;
	sqe->fd = ring->event_fd;
	sqe->poll32_events = POLLIN;
	sqe->user_data = KICK_TAG;
}

/* Let other threads end the lane's wait. */
static int open_kick(struct ring *ring)
{
	ring->event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (ring->event_fd < 0)
		return errno;
	arm_kick(ring);
	return 0;
}

static int uring_open(struct lane *lane, char *message, size_t message_size)
{
	struct ring *ring = calloc(1, sizeof *ring);
	if (!ring)
		return ENOMEM;
	lane->backend_state = ring;
	ring->event_fd = -1;
	ring->until_timed = 1;
	int failed = ring_open(ring, lane);
	if (failed) {
		snprintf(message, message_size, "io_uring_setup for lane %u", lane->index);
		return failed;
	}
	snprintf(message, message_size, "helpers of lane %u", lane->index);
	if (lane->loop->lane_count > 1 || lane->spec->trim_bytes)
		failed = open_kick(ring);
	if (!failed && lane->spec->trim_bytes)
		failed = pool_open(&ring->trimmers, lane, TRIMMERS, trim_work);
	return failed;
}

static void uring_close(struct lane *lane)
{
	struct ring *ring = lane->backend_state;
	if (!ring)
		return;
	pool_close(ring->trimmers);
	ring_close(ring);
	if (ring->event_fd >= 0)
		close(ring->event_fd);
	free(ring);
}

static uint32_t unsubmitted(const struct ring *ring)
{
	return ring->sq_tail - __atomic_load_n(ring->sq_head, __ATOMIC_ACQUIRE);
}

static void give_up(struct lane *lane, int error)
{
	lane->broken = true;
	lane_abort(lane, error, "io_uring_enter");
}

/* Enter the kernel with all that is queued. What it doesn't take now stays queued: `collect`
 * comes back to it. */
static void flush(struct lane *lane, struct ring *ring)
{
	__atomic_store_n(ring->sq_tail_shared, ring->sq_tail, __ATOMIC_RELEASE);
	int done = enter(lane, unsubmitted(ring), 0, IORING_ENTER_GETEVENTS, NULL, 0);
	if (done >= 0)
		return;
	if (done == -EAGAIN || done == -EBUSY || done == -EINTR)
		lane->spec->retries++;
	else
		give_up(lane, -done);
}

/* Index of the registered buffer that holds the bytes, or -1. */
static int fixed_index(const struct lane *lane, const struct ring *ring, const uint8_t *data,
		       uint64_t bytes, bool write)
{
	const uint8_t *base = write ? lane->run->arena : lane->buffers.base;
	uint32_t count = write ? ring->arena_buffers : ring->read_buffers;
	uint64_t first = (uint64_t)(data - base) >> FIXED_SHIFT;
	uint64_t last = (uint64_t)(data + bytes - 1 - base) >> FIXED_SHIFT;
	if (first != last || first >= count)
		return -1;
	return (int)(first + (write ? 0 : ring->arena_buffers));
}

static void count_submit(struct lane *lane, const struct piece *piece)
{
	struct ring *ring = lane->backend_state;
	if (--ring->until_timed)
		return;
	ring->until_timed = TIMED_EVERY;
	lane->spec->timed_submits++;
	lane->spec->timed_submit_ns += (uint64_t)(now_ns() - piece->submit_ns);
}

static void uring_submit(struct lane *lane, uint32_t index)
{
	struct ring *ring = lane->backend_state;
	struct piece *piece = &lane->pieces[index];
	if (piece->action == KV_DELETE) {
		pool_submit(ring->trimmers, index);
		return;
	}
	bool write = piece->action == KV_WRITE;
	uint8_t *data = piece->data + piece->done_bytes;
	uint32_t bytes = (uint32_t)(piece->bytes - piece->done_bytes);
	int fixed = fixed_index(lane, ring, data, bytes, write);
	struct io_uring_sqe *sqe = next_sqe(ring);
	if (fixed >= 0) {
		sqe->opcode = write ? IORING_OP_WRITE_FIXED : IORING_OP_READ_FIXED;
		sqe->buf_index = (uint16_t)fixed;
	} else {
		sqe->opcode = write ? IORING_OP_WRITE : IORING_OP_READ;
	}
	sqe->fd = ring->fixed_file ? 0 : lane->spec->fd;
	sqe->flags = ring->fixed_file ? IOSQE_FIXED_FILE : 0;
	sqe->off = piece->file_offset + piece->done_bytes;
	sqe->addr = (uint64_t)(uintptr_t)data;
	sqe->len = bytes;
	sqe->user_data = index;
	piece->submit_ns = now_ns();
	flush(lane, ring);
	count_submit(lane, piece);
}

static void take_kick(struct ring *ring)
{
	uint64_t count;
	ssize_t got = read(ring->event_fd, &count, sizeof count);
	(void)got; /* the value doesn't matter: `poked` says whether there is something to do */
	arm_kick(ring);
}

static void uring_collect(struct lane *lane)
{
	struct ring *ring = lane->backend_state;
	handback_collect(lane);
	if (unsubmitted(ring) ||
	    __atomic_load_n(ring->sq_flags, __ATOMIC_RELAXED) & IORING_SQ_TASKRUN)
		flush(lane, ring);
	uint32_t head = *ring->cq_head;
	uint32_t tail = __atomic_load_n(ring->cq_tail, __ATOMIC_ACQUIRE);
	if (head == tail)
		return;
	int64_t seen_ns = now_ns();
	for (; head != tail; head++) {
		const struct io_uring_cqe *cqe = &ring->cqes[head & ring->cq_mask];
		if (cqe->user_data == KICK_TAG)
			take_kick(ring);
		else
			io_collect(lane, (uint32_t)cqe->user_data, cqe->res, seen_ns);
	}
	__atomic_store_n(ring->cq_head, head, __ATOMIC_RELEASE);
}

static bool uring_pending(struct lane *lane)
{
	struct ring *ring = lane->backend_state;
	return handback_pending(lane) ||
	       *ring->cq_head != __atomic_load_n(ring->cq_tail, __ATOMIC_ACQUIRE) ||
	       __atomic_load_n(ring->sq_flags, __ATOMIC_RELAXED) & IORING_SQ_TASKRUN;
}

static void uring_wait(struct lane *lane, int64_t deadline_ns)
{
	struct ring *ring = lane->backend_state;
	int64_t left_ns = deadline_ns - now_ns();
	if (left_ns <= 0)
		return;
	struct __kernel_timespec timeout = {left_ns / 1000000000, left_ns % 1000000000};
	struct io_uring_getevents_arg argument = {.ts = (uint64_t)(uintptr_t)&timeout};
	__atomic_store_n(ring->sq_tail_shared, ring->sq_tail, __ATOMIC_RELEASE);
	int done = enter(lane, unsubmitted(ring), 1,
			 IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG, &argument,
			 sizeof argument);
	if (done < 0 && done != -ETIME && done != -EINTR && done != -EAGAIN && done != -EBUSY)
		give_up(lane, -done);
}

static void uring_kick(struct lane *lane)
{
	const struct ring *ring = lane->backend_state;
	uint64_t one = 1;
	ssize_t done = write(ring->event_fd, &one, sizeof one);
	(void)done; /* full means that a kick is on its way already */
}

static int64_t uring_cpu_ns(struct lane *lane)
{
	const struct ring *ring = lane->backend_state;
	return ring->trimmers ? pool_cpu_ns(ring->trimmers) : 0;
}

const struct backend uring_backend = {
	.open = uring_open,
	.close = uring_close,
	.submit = uring_submit,
	.collect = uring_collect,
	.pending = uring_pending,
	.wait = uring_wait,
	.kick = uring_kick,
	.cpu_ns = uring_cpu_ns,
};
