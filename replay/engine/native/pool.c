/* Threads of a lane that each do one piece at a time: for what would block the loop. */
#include "loop.h"

#include <errno.h>
#include <stdlib.h>

#define WORKERS_MAX 256u
#define WORKER_STACK_BYTES (256u << 10)

struct pool {
	struct lane *lane;
	void (*work)(struct lane *lane, struct piece *piece);
	pthread_mutex_t mutex;
	pthread_cond_t filled;
	struct fifo jobs;
	bool closing;
	uint32_t worker_count;
	pthread_t *workers;
	int64_t cpu_ns;
};

static uint32_t next_job(struct pool *pool)
{
	uint32_t index = NONE_U32;
	pthread_mutex_lock(&pool->mutex);
	while (fifo_empty(&pool->jobs) && !pool->closing)
		pthread_cond_wait(&pool->filled, &pool->mutex);
	if (!fifo_empty(&pool->jobs))
		index = fifo_pop(&pool->jobs);
	pthread_mutex_unlock(&pool->mutex);
	return index;
}

static void *worker_main(void *argument)
{
	struct pool *pool = argument;
	struct lane *lane = pool->lane;
	for (;;) {
		uint32_t index = next_job(pool);
		if (index == NONE_U32)
			break;
		struct piece *piece = &lane->pieces[index];
		piece->submit_ns = now_ns();
		pool->work(lane, piece);
		piece->complete_ns = now_ns();
		handback_push(lane, index);
	}
	__atomic_fetch_add(&pool->cpu_ns, thread_cpu_ns(), __ATOMIC_RELAXED);
	return NULL;
}

static int start_workers(struct pool *pool, uint32_t wanted)
{
	pthread_attr_t attributes;
	pthread_attr_init(&attributes);
	pthread_attr_setstacksize(&attributes, WORKER_STACK_BYTES);
	int failed = 0;
	while (pool->worker_count < wanted && !failed) {
		failed = pthread_create(&pool->workers[pool->worker_count], &attributes,
					worker_main, pool);
		if (!failed)
			pool->worker_count++;
	}
	pthread_attr_destroy(&attributes);
	return pool->worker_count ? 0 : failed;
}

int pool_open(struct pool **made, struct lane *lane, uint32_t workers,
	      void (*work)(struct lane *lane, struct piece *piece))
{
	uint32_t wanted = workers < WORKERS_MAX ? workers : WORKERS_MAX;
	struct pool *pool = calloc(1, sizeof *pool);
	*made = pool;
	if (!pool)
		return ENOMEM;
	pool->lane = lane;
	pool->work = work;
	pool->jobs.mask = lane->finished.mask;
	pthread_mutex_init(&pool->mutex, NULL);
	pthread_cond_init(&pool->filled, NULL);
	pool->jobs.items = calloc(pool->jobs.mask + 1, sizeof *pool->jobs.items);
	pool->workers = calloc(wanted, sizeof *pool->workers);
	return pool->jobs.items && pool->workers ? start_workers(pool, wanted) : ENOMEM;
}

static void stop_workers(struct pool *pool)
{
	pthread_mutex_lock(&pool->mutex);
	pool->closing = true;
	pthread_cond_broadcast(&pool->filled);
	pthread_mutex_unlock(&pool->mutex);
	for (uint32_t i = 0; i < pool->worker_count; i++)
		pthread_join(pool->workers[i], NULL);
	pool->worker_count = 0;
}

void pool_close(struct pool *pool)
{
	if (!pool)
		return;
	stop_workers(pool);
	free(pool->workers);
	free(pool->jobs.items);
	free(pool);
}

uint32_t pool_workers(const struct pool *pool)
{
	return pool->worker_count;
}

void pool_submit(struct pool *pool, uint32_t index)
{
	pthread_mutex_lock(&pool->mutex);
	fifo_push(&pool->jobs, index);
	pthread_cond_signal(&pool->filled);
	pthread_mutex_unlock(&pool->mutex);
}

/* Called when all work is over; the workers end here, so that their time is whole. */
int64_t pool_cpu_ns(struct pool *pool)
{
	stop_workers(pool);
	return pool->cpu_ns;
}
