/* One engine call: prepare, start a thread per lane, gather what they found. */
#define _GNU_SOURCE
#include "loop.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>

/* From "go" to the first due time: covers waking the lanes. */
#define START_LEAD_NS 2000000
#define UNVERIFIED_MAX 64u

uint32_t kv_abi_version(void)
{
	return KV_ABI_VERSION;
}

uint64_t kv_run_size(void)
{
	return sizeof(struct kv_run);
}

uint64_t kv_lane_size(void)
{
	return sizeof(struct kv_lane);
}

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

static int allocate_heaps(struct lane *lane)
{
	uint64_t rows = lane->run->op_count < LOOKAHEAD_ROWS ? lane->run->op_count : LOOKAHEAD_ROWS;
	lane->ready.rows = malloc((rows + 1) * sizeof *lane->ready.rows);
	lane->instant.rows = malloc((rows + 1) * sizeof *lane->instant.rows);
	return lane->ready.rows && lane->instant.rows ? 0 : ENOMEM;
}

static uint64_t longest_read_bytes(const struct lane *lane)
{
	const struct kv_run *run = lane->run;
	uint64_t longest = 0;
	for (uint64_t row = 0; row < run->op_count; row++)
		if (run->lane[row] == lane->index && run->action[row] == KV_READ &&
		    run->length_bytes[row] > longest)
			longest = run->length_bytes[row];
	return longest < lane->spec->io_bytes ? longest : lane->spec->io_bytes;
}

static int open_buffers(struct lane *lane, char *message, size_t message_size)
{
	bool huge = false;
	uint64_t longest = lane->spec->kind == KV_NULL ? 0 : longest_read_bytes(lane);
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

static void close_lane(struct lane *lane)
{
	if (lane->backend)
		lane->backend->close(lane);
	if (!lane->broken) /* else the device may still write to them */
		buffers_close(&lane->buffers);
	free(lane->pieces);
	free(lane->actives);
	free(lane->ready.rows);
	free(lane->instant.rows);
	free(lane->finished.items);
	free(lane->unverified.items);
}

static int open_lane(struct lane *lane, char *message, size_t message_size)
{
	snprintf(message, message_size, "memory of lane %u", lane->index);
	int failed = allocate_pieces(lane);
	if (!failed)
		failed = allocate_heaps(lane);
	if (!failed)
		failed = open_buffers(lane, message, message_size);
	if (failed)
		return failed;
	if (lane->spec->kind != KV_FILE)
		lane->backend = &inline_backend;
	else
		lane->backend = lane->run->engine == KV_URING ? &uring_backend : &threads_backend;
	return lane->backend->open(lane, message, message_size);
}

static void prepare_thread(const struct lane *lane)
{
	char name[16];
	snprintf(name, sizeof name, "kvtrace-lane%u", lane->index);
	prctl(PR_SET_NAME, name);
	prctl(PR_SET_TIMERSLACK, 1ul);
}

/* Report that this lane is open (or why not) and wait for the others. True: run. */
static bool meet(struct loop *loop, int failed, const char *message)
{
	pthread_mutex_lock(&loop->mutex);
	loop->lanes_open++;
	if (failed && !loop->failed_errno) {
		loop->failed_errno = failed;
		snprintf(loop->run->message, sizeof loop->run->message, "%s", message);
	}
	pthread_cond_broadcast(&loop->changed);
	while (loop->go == 0)
		pthread_cond_wait(&loop->changed, &loop->mutex);
	bool run = loop->go > 0;
	pthread_mutex_unlock(&loop->mutex);
	return run;
}

static void *lane_main(void *argument)
{
	struct lane *lane = argument;
	char message[128];
	prepare_thread(lane);
	int failed = open_lane(lane, message, sizeof message);
	if (meet(lane->loop, failed, message)) {
		int64_t begin_ns = thread_cpu_ns();
		lane_run(lane);
		lane->cpu_ns = thread_cpu_ns() - begin_ns + lane->backend->cpu_ns(lane);
	}
	return NULL;
}

void lane_abort(struct lane *lane, int failed_errno, const char *what)
{
	struct loop *loop = lane->loop;
	pthread_mutex_lock(&loop->mutex);
	if (!loop->failed_errno) {
		loop->failed_errno = failed_errno;
		snprintf(loop->run->message, sizeof loop->run->message, "lane %u: %s", lane->index,
			 what);
	}
	pthread_mutex_unlock(&loop->mutex);
	__atomic_store_n(&loop->halt, 1, __ATOMIC_SEQ_CST);
}

static void init_lane(struct loop *loop, uint32_t index)
{
	struct lane *lane = &loop->lanes[index];
	lane->loop = loop;
	lane->run = loop->run;
	lane->spec = &loop->run->lanes[index];
	lane->index = index;
	lane->depth = lane->spec->queue_depth;
	lane->current = NONE_U32;
	lane->inbox = NONE_U32;
	lane->freed_ns = KV_NO_TIME_NS;
	lane->lead_ns = loop->run->spin_ns;
}

static int allocate_loop(struct loop *loop)
{
	struct kv_run *run = loop->run;
	size_t lanes_bytes = run->lane_count * sizeof *loop->lanes;
	loop->lane_count = (uint32_t)run->lane_count;
	loop->lanes = aligned_alloc(CACHE_LINE, lanes_bytes);
	loop->pending = malloc((run->op_count + 1) * sizeof *loop->pending);
	loop->inbox_next = malloc((run->op_count + 1) * sizeof *loop->inbox_next);
	loop->claims.words = calloc(run->arena_bytes / SECTOR_BYTES / 64 + 1, sizeof(uint64_t));
	if (!loop->lanes || !loop->pending || !loop->inbox_next || !loop->claims.words) {
		snprintf(run->message, sizeof run->message, "memory for %llu ops",
			 (unsigned long long)run->op_count);
		return ENOMEM;
	}
	memset(loop->lanes, 0, lanes_bytes);
	for (uint32_t i = 0; i < loop->lane_count; i++)
		init_lane(loop, i);
	for (uint64_t row = 0; row < run->op_count; row++) {
		loop->pending[row] = run->wait_count[row] + 1;
		run->error[row] = KV_INTERRUPTED;
	}
	return 0;
}

static void free_loop(struct loop *loop)
{
	free(loop->lanes);
	free(loop->pending);
	free(loop->inbox_next);
	free(loop->claims.words);
}

/* Start all lanes' threads, with signals left to the caller's. Returns how many run. */
static uint32_t start_lanes(struct loop *loop)
{
	sigset_t all, before;
	uint32_t started = 0;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	while (started < loop->lane_count) {
		struct lane *lane = &loop->lanes[started];
		int failed = pthread_create(&lane->thread, NULL, lane_main, lane);
		if (failed) {
			loop->failed_errno = failed;
			snprintf(loop->run->message, sizeof loop->run->message,
				 "starting the thread of lane %u", started);
			break;
		}
		started++;
	}
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return started;
}

static void run_lanes(struct loop *loop)
{
	uint32_t started = start_lanes(loop);
	pthread_mutex_lock(&loop->mutex);
	while (loop->lanes_open < started)
		pthread_cond_wait(&loop->changed, &loop->mutex);
	loop->run->start_ns = now_ns() + START_LEAD_NS;
	loop->go = loop->failed_errno ? -1 : 1;
	pthread_cond_broadcast(&loop->changed);
	pthread_mutex_unlock(&loop->mutex);
	for (uint32_t i = 0; i < started; i++)
		pthread_join(loop->lanes[i].thread, NULL);
	for (uint32_t i = 0; i < started; i++) {
		loop->run->cpu_ns += loop->lanes[i].cpu_ns;
		loop->run->verify_cpu_ns += loop->lanes[i].verify_cpu_ns;
		close_lane(&loop->lanes[i]);
	}
}

/* An op that was never executed was "ready" only if all it waited for had completed. */
static void clear_unready(const struct loop *loop)
{
	const struct kv_run *run = loop->run;
	for (uint64_t row = 0; row < run->op_count; row++) {
		uint32_t left = loop->pending[row] & ~PREDECESSOR_FAILED;
		uint32_t unvisited = row >= loop->lanes[run->lane[row]].cursor;
		if (run->error[row] == KV_INTERRUPTED && left > unvisited)
			run->ready_ns[row] = KV_NO_TIME_NS;
	}
}

int kv_run(struct kv_run *run)
{
	struct loop loop = {.run = run};
	int failed = columns_check(run);
	if (failed)
		return failed;
	pthread_mutex_init(&loop.mutex, NULL);
	pthread_cond_init(&loop.changed, NULL);
	failed = allocate_loop(&loop);
	if (!failed) {
		run_lanes(&loop);
		clear_unready(&loop);
		failed = loop.failed_errno;
	}
	free_loop(&loop);
	return failed;
}
