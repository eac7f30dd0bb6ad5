/* A lane's memory and its backend, prepared in the lane's thread. */
#include "loop.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#define UNVERIFIED_MAX 64u

static int allocate_fifo(struct fifo *fifo, uint32_t capacity)
{
	uint32_t size = 1;
	while (size < capacity)
		size *= 2;
	fifo->mask = size - 1;
	fifo->items = calloc(size, sizeof *fifo->items);
	return fifo->items ? 0 : ENOMEM;
}

static int allocate_pieces(struct lane *lane)
{
	uint32_t depth = lane->spec->queue_depth;
	uint32_t count = depth + (depth < UNVERIFIED_MAX ? depth : UNVERIFIED_MAX);
	lane->piece_count = count;
	lane->pieces = calloc(count, sizeof *lane->pieces);
	lane->actives = calloc(count + 1, sizeof *lane->actives);
	if (!lane->pieces || !lane->actives)
		return ENOMEM;
	for (uint32_t i = 0; i < count; i++)
		lane->pieces[i].next = i + 1 < count ? i + 1 : NONE_U32;
	for (uint32_t i = 0; i <= count; i++)
		lane->actives[i].next_free = i < count ? i + 1 : NONE_U32;
	if (allocate_fifo(&lane->finished, count) || allocate_fifo(&lane->unverified, count))
		return ENOMEM;
	return 0;
}

/* An op is in one of them at most; in open and max mode only so many have been visited. */
static int allocate_heaps(struct lane *lane)
{
	const struct kv_run *run = lane->run;
	bool whole = run->mode == KV_CLOSED || run->capacity < LOOKAHEAD_OPS;
	uint64_t capacity = whole ? run->capacity : LOOKAHEAD_OPS;
	return heap_open(&lane->ready, capacity) || heap_open(&lane->instant, capacity) ||
			       heap_open(&lane->timers, capacity)
		       ? ENOMEM
		       : 0;
}

static uint64_t longest_read_bytes(const struct kv_lane *spec)
{
	return spec->longest_bytes && spec->longest_bytes < spec->io_bytes ? spec->longest_bytes
									   : spec->io_bytes;
}

static int open_buffers(struct lane *lane, char *message, size_t message_size)
{
	bool huge = false;
	uint64_t longest = lane->spec->kind == KV_NULL ? 0 : longest_read_bytes(lane->spec);
	uint64_t limit = lane->run->read_buffer_bytes;
	if (longest == 0)
		return 0;
	if (longest > limit) {
		snprintf(message, message_size,
			 "lane %u reads %llu bytes at once, more than its read buffers hold",
			 lane->index, (unsigned long long)longest);
		return EINVAL;
	}
	uint64_t block = 4096;
	while (block < longest)
		block *= 2;
	uint64_t wanted = lane->piece_count * block;
	int failed = buffers_open(&lane->buffers, wanted < limit ? wanted : limit, longest, &huge);
	if (failed)
		snprintf(message, message_size, "read buffers of lane %u", lane->index);
	if (huge)
		lane->spec->features |= KV_FEATURE_HUGE_READS;
	return failed;
}

void lane_close(struct lane *lane)
{
	if (lane->backend)
		lane->backend->close(lane);
	if (!lane->broken) /* else the device may still write to them */
		buffers_close(&lane->buffers);
	free(lane->pieces);
	free(lane->actives);
	heap_close(&lane->ready);
	heap_close(&lane->instant);
	heap_close(&lane->timers);
	free(lane->finished.items);
	free(lane->unverified.items);
}

static const struct backend *backend_of(const struct lane *lane)
{
	if (lane->spec->kind == KV_SIMULATED)
		return &simulated_backend;
	if (lane->spec->kind == KV_EXTERNAL)
		return &external_backend;
	if (lane->spec->kind == KV_NULL || lane->spec->kind == KV_MEMORY)
		return &inline_backend;
	bool ring = lane->spec->kind == KV_FILE && lane->run->engine == KV_URING;
	return ring ? &uring_backend : &threads_backend;
}

int lane_open(struct lane *lane, char *message, size_t message_size)
{
	snprintf(message, message_size, "memory of lane %u", lane->index);
	int failed = allocate_pieces(lane);
	if (!failed)
		failed = allocate_heaps(lane);
	if (!failed)
		failed = open_buffers(lane, message, message_size);
	if (failed)
		return failed;
	stamp_prepare();
	lane->backend = backend_of(lane);
	return lane->backend->open(lane, message, message_size);
}
