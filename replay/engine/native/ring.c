/* Setting a ring up, from the cheapest kind to what every kernel takes. */
#include "ring.h"

#include <errno.h>
#include <stdlib.h>
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

#define ENTRIES_MAX 32768u
#define FIXED_MAX 1024u

static int setup(uint32_t entries, struct io_uring_params *params)
{
	return (int)syscall(SYS_io_uring_setup, entries, params);
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
			*features |= setups[i].features;
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
	uint32_t arena = split_region(vectors, lane->run->arena, lane->run->arena_size_bytes);
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

/* Power of two that holds all I/Os and the poll for kicks. */
static uint32_t entries_for(uint32_t queue_depth)
{
	uint32_t entries = 8;
	while (entries < queue_depth + 2 && entries < ENTRIES_MAX)
		entries *= 2;
	return entries;
}

int ring_open(struct ring *ring, struct lane *lane)
{
	struct io_uring_params params;
	ring->fd = -1;
	ring->map = ring->sqes = MAP_FAILED;
	int failed = create(ring, entries_for(lane->spec->queue_depth), &params,
			    &lane->spec->features);
	if (!failed)
		failed = map_rings(ring, &params);
	if (!failed) {
		register_file(lane, ring);
		register_memory(lane, ring);
	}
	return failed;
}

void ring_close(struct ring *ring)
{
	if (ring->map != MAP_FAILED)
		munmap(ring->map, ring->map_bytes);
	if (ring->sqes != MAP_FAILED)
		munmap(ring->sqes, ring->sqes_bytes);
	if (ring->fd >= 0)
		close(ring->fd);
}
