/* File I/O by io_uring, through its system calls alone. The lane's thread creates the ring, and
 * is the only one that touches it. */
#include "loop.h"

#include <errno.h>
#include <linux/io_uring.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

/* Newer than the oldest headers this must compile with; values are the kernel's ABI. */
#ifndef IORING_SETUP_COOP_TASKRUN
#define IORING_SETUP_COOP_TASKRUN (1U << 8)
#endif
#ifndef IORING_SETUP_TASKRUN_FLAG
#define IORING_SETUP_TASKRUN_FLAG (1U << 9)
#endif
#ifndef IORING_SETUP_SINGLE_ISSUER
#define IORING_SETUP_SINGLE_ISSUER (1U << 12)
#endif
#ifndef IORING_SETUP_DEFER_TASKRUN
#define IORING_SETUP_DEFER_TASKRUN (1U << 13)
#endif
#ifndef IORING_SQ_TASKRUN
#define IORING_SQ_TASKRUN (1U << 2)
#endif

#define KICK_TAG UINT64_MAX
#define ENTRIES_MAX 32768u

/* The kernel refuses to register more than 1 GiB as one buffer. */
#define FIXED_SHIFT 30
#define FIXED_MAX 1024u

struct ring {
	int fd;
	int event_fd;
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
};

static int setup(uint32_t entries, struct io_uring_params *params)
{
	return (int)syscall(SYS_io_uring_setup, entries, params);
}

static int enter(const struct ring *ring, uint32_t submit, uint32_t wait, uint32_t flags,
		 const void *argument, size_t size)
{
	int done = (int)syscall(SYS_io_uring_enter, ring->fd, submit, wait, flags, argument, size);
	return done < 0 ? -errno : done;
}

static int attach(const struct ring *ring, uint32_t what, const void *argument, uint32_t count)
{
	return (int)syscall(SYS_io_uring_register, ring->fd, what, argument, count);
}

int kv_uring_available(void)
{
	struct io_uring_params params = {0};
	int fd = setup(1, &params);
	if (fd < 0)
		return errno;
	close(fd);
	return params.features & IORING_FEAT_EXT_ARG ? 0 : ENOSYS;
}

/* From the cheapest way of handling completions to what every kernel takes. */
static const struct {
	uint32_t flags;
	uint32_t features;
} setups[] = {
	{IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG,
	 KV_FEATURE_SINGLE_ISSUER | KV_FEATURE_DEFER_TASKRUN},
	{IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG,
	 KV_FEATURE_SINGLE_ISSUER | KV_FEATURE_COOP_TASKRUN},
	{IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG, KV_FEATURE_COOP_TASKRUN},
	{0, 0},
};

static int create(struct ring *ring, uint32_t entries, struct io_uring_params *params,
		  uint32_t *features)
{
	for (size_t i = 0; i < sizeof setups / sizeof *setups; i++) {
		*params = (struct io_uring_params){.flags = setups[i].flags | IORING_SETUP_CQSIZE,
						   .cq_entries = 2 * entries};
		ring->fd = setup(entries, params);
		if (ring->fd >= 0) {
			*features = setups[i].features;
			break;
		}
		if (errno != EINVAL)
			return errno;
	}
	if (ring->fd < 0)
		return errno;
	bool usable = params->features & IORING_FEAT_EXT_ARG &&
		      params->features & IORING_FEAT_SINGLE_MMAP;
	return usable ? 0 : ENOSYS;
}

static int map_rings(struct ring *ring, const struct io_uring_params *params)
{
	size_t sq_bytes = params->sq_off.array + params->sq_entries * sizeof(uint32_t);
	size_t cq_bytes = params->cq_off.cqes + params->cq_entries * sizeof(struct io_uring_cqe);
	ring->map_bytes = sq_bytes > cq_bytes ? sq_bytes : cq_bytes;
	ring->sqes_bytes = params->sq_entries * sizeof(struct io_uring_sqe);
	ring->map = mmap(NULL, ring->map_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE,
			 ring->fd, IORING_OFF_SQ_RING);
	ring->sqes = mmap(NULL, ring->sqes_bytes, PROT_READ | PROT_WRITE,
			  MAP_SHARED | MAP_POPULATE, ring->fd, IORING_OFF_SQES);
	if (ring->map == MAP_FAILED || ring->sqes == MAP_FAILED)
		return errno;
	uint8_t *base = ring->map;
	ring->sq_head = (uint32_t *)(base + params->sq_off.head);
	ring->sq_tail_shared = (uint32_t *)(base + params->sq_off.tail);
	ring->sq_flags = (uint32_t *)(base + params->sq_off.flags);
	ring->cq_head = (uint32_t *)(base + params->cq_off.head);
	ring->cq_tail = (uint32_t *)(base + params->cq_off.tail);
	ring->cqes = (struct io_uring_cqe *)(base + params->cq_off.cqes);
	ring->sq_mask = params->sq_entries - 1;
	ring->cq_mask = params->cq_entries - 1;
	uint32_t *array = (uint32_t *)(base + params->sq_off.array);
	for (uint32_t i = 0; i < params->sq_entries; i++)
		array[i] = i;
	return 0;
}

static uint32_t split_region(struct iovec *vectors, uint8_t *base, uint64_t bytes)
{
	uint32_t count = 0;
	for (uint64_t at = 0; at < bytes && count < FIXED_MAX; at += 1ull << FIXED_SHIFT) {
		uint64_t left = bytes - at;
		vectors[count].iov_base = base + at;
		vectors[count++].iov_len =
			left < 1ull << FIXED_SHIFT ? left : 1ull << FIXED_SHIFT;
	}
	return count;
}

/* Registered memory saves pinning pages for each I/O; without the right to lock that much
 * memory, I/O works all the same. */
static void register_memory(struct lane *lane, struct ring *ring)
{
	static const size_t vector_bytes = 2 * FIXED_MAX * sizeof(struct iovec);
	struct iovec *vectors = malloc(vector_bytes);
	if (!vectors)
		return;
	uint32_t arena = split_region(vectors, lane->run->arena, lane->run->arena_bytes);
	uint32_t reads =
		split_region(vectors + arena, lane->buffers.base, lane->buffers.bytes);
	if (arena + reads && attach(ring, IORING_REGISTER_BUFFERS, vectors, arena + reads) == 0) {
		ring->arena_buffers = arena;
		ring->read_buffers = reads;
		lane->spec->features |= (arena ? KV_FEATURE_FIXED_ARENA : 0u) |
					(reads ? KV_FEATURE_FIXED_READS : 0u);
	}
	free(vectors);
}

static void register_file(struct lane *lane, struct ring *ring)
{
	int32_t fd = lane->spec->fd;
	ring->fixed_file = attach(ring, IORING_REGISTER_FILES, &fd, 1) == 0;
	if (ring->fixed_file)
		lane->spec->features |= KV_FEATURE_FIXED_FILE;
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

/* Power of two that holds all I/Os and the poll for kicks. */
static uint32_t entries_for(uint32_t queue_depth)
{
	uint32_t entries = 8;
	while (entries < queue_depth + 2 && entries < ENTRIES_MAX)
		entries *= 2;
	return entries;
}

static int uring_open(struct lane *lane, char *message, size_t message_size)
{
	struct io_uring_params params;
	struct ring *ring = calloc(1, sizeof *ring);
	if (!ring)
		return ENOMEM;
	ring->fd = ring->event_fd = -1;
	ring->map = ring->sqes = MAP_FAILED;
	lane->backend_state = ring;
	int failed = create(ring, entries_for(lane->spec->queue_depth), &params,
			    &lane->spec->features);
	if (!failed)
		failed = map_rings(ring, &params);
	if (failed) {
		snprintf(message, message_size, "io_uring_setup for lane %u", lane->index);
		return failed;
	}
	register_file(lane, ring);
	register_memory(lane, ring);
	if (lane->loop->lane_count > 1) {
		ring->event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
		if (ring->event_fd < 0) {
			snprintf(message, message_size, "eventfd for lane %u", lane->index);
			return errno;
		}
		arm_kick(ring);
	}
	return 0;
}

static void uring_close(struct lane *lane)
{
	struct ring *ring = lane->backend_state;
	if (!ring)
		return;
	if (ring->map != MAP_FAILED)
		munmap(ring->map, ring->map_bytes);
	if (ring->sqes != MAP_FAILED)
		munmap(ring->sqes, ring->sqes_bytes);
	if (ring->fd >= 0)
		close(ring->fd);
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
	int done = enter(ring, unsubmitted(ring), 0, IORING_ENTER_GETEVENTS, NULL, 0);
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

static void uring_submit(struct lane *lane, uint32_t index)
{
	struct ring *ring = lane->backend_state;
	struct piece *piece = &lane->pieces[index];
	uint8_t *data = piece->data + piece->done_bytes;
	uint32_t bytes = piece->bytes - piece->done_bytes;
	int fixed = fixed_index(lane, ring, data, bytes, piece->write);
	struct io_uring_sqe *sqe = next_sqe(ring);
	if (fixed >= 0) {
		sqe->opcode = piece->write ? IORING_OP_WRITE_FIXED : IORING_OP_READ_FIXED;
		sqe->buf_index = (uint16_t)fixed;
	} else {
		sqe->opcode = piece->write ? IORING_OP_WRITE : IORING_OP_READ;
	}
	sqe->fd = ring->fixed_file ? 0 : lane->spec->fd;
	sqe->flags = ring->fixed_file ? IOSQE_FIXED_FILE : 0;
	sqe->off = piece->file_offset + piece->done_bytes;
	sqe->addr = (uint64_t)(uintptr_t)data;
	sqe->len = bytes;
	sqe->user_data = index;
	piece->submit_ns = now_ns();
	flush(lane, ring);
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
	return *ring->cq_head != __atomic_load_n(ring->cq_tail, __ATOMIC_ACQUIRE) ||
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
	int done = enter(ring, unsubmitted(ring), 1,
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
	(void)lane;
	return 0;
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
