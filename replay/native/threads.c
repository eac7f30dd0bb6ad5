/* File I/O by a pool of threads per lane, each doing one pread or pwrite at a time. */
#include "loop.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define WORKERS_MAX 256u
#define WORKER_STACK_BYTES (256u << 10)

struct pool {
	pthread_mutex_t mutex;
	pthread_cond_t work;
	struct fifo jobs;
	bool closing;
	uint32_t worker_count;
	pthread_t *workers;
	int64_t cpu_ns;
	/* Pieces that are done, linked by `next`; any worker pushes, the lane takes all. */
	uint32_t done __attribute__((aligned(CACHE_LINE)));
};

static void do_io(struct lane *lane, struct piece *piece)
{
	uint8_t *data = piece->data + piece->done_bytes;
	size_t bytes = piece->bytes - piece->done_bytes;
	off_t offset = (off_t)(piece->file_offset + piece->done_bytes);
	piece->submit_ns = now_ns();
	ssize_t result = piece->write ? pwrite(lane->spec->fd, data, bytes, offset)
				      : pread(lane->spec->fd, data, bytes, offset);
	piece->result = result < 0 ? -errno : result;
	piece->complete_ns = now_ns();
}

static void hand_back(struct lane *lane, struct pool *pool, uint32_t index)
{
	uint32_t head = __atomic_load_n(&pool->done, __ATOMIC_RELAXED);
	do {
		lane->pieces[index].next = head;
	} while (!__atomic_compare_exchange_n(&pool->done, &head, index, true, __ATOMIC_SEQ_CST,
					      __ATOMIC_RELAXED));
	lane_wake(lane);
}

static uint32_t next_job(struct pool *pool)
{
	uint32_t index = NONE_U32;
	pthread_mutex_lock(&pool->mutex);
	while (fifo_empty(&pool->jobs) && !pool->closing)
		pthread_cond_wait(&pool->work, &pool->mutex);
	if (!fifo_empty(&pool->jobs))
		index = fifo_pop(&pool->jobs);
	pthread_mutex_unlock(&pool->mutex);
	return index;
}

static void *worker_main(void *argument)
{
	struct lane *lane = argument;
	struct pool *pool = lane->backend_state;
	for (;;) {
		uint32_t index = next_job(pool);
		if (index == NONE_U32)
			break;
		do_io(lane, &lane->pieces[index]);
		hand_back(lane, pool, index);
	}
	__atomic_fetch_add(&pool->cpu_ns, thread_cpu_ns(), __ATOMIC_RELAXED);
	return NULL;
}

static int start_workers(struct lane *lane, struct pool *pool)
{
	uint32_t wanted = lane->spec->queue_depth;
	if (wanted > WORKERS_MAX)
		wanted = WORKERS_MAX;
	pool->workers = calloc(wanted, sizeof *pool->workers);
	if (!pool->workers)
		return ENOMEM;
	pthread_attr_t attributes;
	pthread_attr_init(&attributes);
	pthread_attr_setstacksize(&attributes, WORKER_STACK_BYTES);
	int failed = 0;
	while (pool->worker_count < wanted && !failed) {
		failed = pthread_create(&pool->workers[pool->worker_count], &attributes,
					worker_main, lane);
		if (!failed)
			pool->worker_count++;
	}
	pthread_attr_destroy(&attributes);
	lane->depth = pool->worker_count; /* what waits for a worker waits for a slot */
	return pool->worker_count ? 0 : failed;
}

static int threads_open(struct lane *lane, char *message, size_t message_size)
{
	struct pool *pool = aligned_alloc(CACHE_LINE, sizeof *pool);
	int failed = ENOMEM;
	if (pool) {
		*pool = (struct pool){.done = NONE_U32, .jobs.mask = lane->finished.mask};
		pthread_mutex_init(&pool->mutex, NULL);
		pthread_cond_init(&pool->work, NULL);
		pool->jobs.items = calloc(pool->jobs.mask + 1, sizeof *pool->jobs.items);
		lane->backend_state = pool;
		if (pool->jobs.items)
			failed = start_workers(lane, pool);
	}
	if (failed)
		snprintf(message, message_size, "starting the threads of lane %u", lane->index);
	return failed;
}

static void stop_workers(struct pool *pool)
{
	pthread_mutex_lock(&pool->mutex);
	pool->closing = true;
	pthread_cond_broadcast(&pool->work);
	pthread_mutex_unlock(&pool->mutex);
	for (uint32_t i = 0; i < pool->worker_count; i++)
		pthread_join(pool->workers[i], NULL);
	pool->worker_count = 0;
}

static void threads_close(struct lane *lane)
{
	struct pool *pool = lane->backend_state;
	if (!pool)
		return;
	stop_workers(pool);
	free(pool->workers);
	free(pool->jobs.items);
	free(pool);
}

static void threads_submit(struct lane *lane, uint32_t index)
{
	struct pool *pool = lane->backend_state;
	pthread_mutex_lock(&pool->mutex);
	fifo_push(&pool->jobs, index);
	pthread_cond_signal(&pool->work);
	pthread_mutex_unlock(&pool->mutex);
}

static void threads_collect(struct lane *lane)
{
	struct pool *pool = lane->backend_state;
	if (__atomic_load_n(&pool->done, __ATOMIC_RELAXED) == NONE_U32)
		return;
	uint32_t index = __atomic_exchange_n(&pool->done, NONE_U32, __ATOMIC_SEQ_CST);
	while (index != NONE_U32) {
		struct piece *piece = &lane->pieces[index];
		uint32_t next = piece->next;
		io_collect(lane, index, piece->result, piece->complete_ns);
		index = next;
	}
}

static bool threads_pending(struct lane *lane)
{
	struct pool *pool = lane->backend_state;
	return __atomic_load_n(&pool->done, __ATOMIC_RELAXED) != NONE_U32;
}

/* Called when all I/O is over; the workers end here, so that their time is whole. */
static int64_t threads_cpu_ns(struct lane *lane)
{
	struct pool *pool = lane->backend_state;
	stop_workers(pool);
	return pool->cpu_ns;
}

const struct backend threads_backend = {
	.open = threads_open,
	.close = threads_close,
	.submit = threads_submit,
	.collect = threads_collect,
	.pending = threads_pending,
	.wait = lane_sleep,
	.kick = lane_rouse,
	.cpu_ns = threads_cpu_ns,
};
