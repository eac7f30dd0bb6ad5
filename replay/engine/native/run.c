/* One engine call: prepare, start a thread per lane, gather what they found. */
#define _GNU_SOURCE
#include "loop.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SHORT_TURN_NS 100000u
/* From "go" to the first due time: covers waking the lanes. */
#define START_LEAD_NS 2000000

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

void kv_publish(uint64_t *counter, uint64_t value)
{
	__atomic_store_n(counter, value, __ATOMIC_RELEASE);
}

void kv_publish_flag(int32_t *flag, int32_t value)
{
	__atomic_store_n(flag, value, __ATOMIC_RELEASE);
}

/* The kernel's, of version 0; older C libraries don't have it. */
struct sched_attributes {
	uint32_t size;
	uint32_t policy;
	uint64_t flags;
	int32_t nice;
	uint32_t priority;
	uint64_t runtime_ns;
	uint64_t deadline_ns;
	uint64_t period_ns;
};

/* Ask for short turns on the CPU, at the same share of it: a busy thread of equal rank is interrupted
 * when a completion wakes this one, not when its own turn of 3 ms is over. Kernels before 6.12 take
 * no notice; one that refuses changes nothing. */
static void ask_for_short_turns(void)
{
	struct sched_attributes attributes = {.size = sizeof attributes};
	if (syscall(SYS_sched_getattr, 0, &attributes, sizeof attributes, 0) ||
	    attributes.policy != SCHED_OTHER)
		return;
	attributes.size = sizeof attributes;
	attributes.runtime_ns = SHORT_TURN_NS;
	syscall(SYS_sched_setattr, 0, &attributes, 0);
}

static void prepare_thread(const struct lane *lane)
{
	char name[16];
	snprintf(name, sizeof name, "kvtrace-lane%u", lane->index);
	prctl(PR_SET_NAME, name);
	prctl(PR_SET_TIMERSLACK, 1ul);
	ask_for_short_turns();
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
	int failed = lane_open(lane, message, sizeof message);
	if (meet(lane->loop, failed, message)) {
		int64_t begin_ns = thread_cpu_ns();
		lane_run(lane);
		lane->cpu_ns = thread_cpu_ns() - begin_ns + lane->backend->cpu_ns(lane);
	}
	return NULL;
}

void loop_abort(struct loop *loop, int failed_errno, const char *message)
{
	pthread_mutex_lock(&loop->mutex);
	if (!loop->failed_errno) {
		loop->failed_errno = failed_errno;
		snprintf(loop->run->message, sizeof loop->run->message, "%s", message);
	}
	pthread_mutex_unlock(&loop->mutex);
	__atomic_store_n(&loop->halt, 1, __ATOMIC_SEQ_CST);
}

void lane_abort(struct lane *lane, int failed_errno, const char *what)
{
	char message[160];
	snprintf(message, sizeof message, "lane %u: %s", lane->index, what);
	loop_abort(lane->loop, failed_errno, message);
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
	lane->handed_back = NONE_U32;
	lane->freed_ns = KV_NO_TIME_NS;
	lane->lead_ns = loop->run->spin_ns;
}

static int allocate_loop(struct loop *loop)
{
	struct kv_run *run = loop->run;
	size_t lanes_bytes = run->lane_count * sizeof *loop->lanes;
	loop->lane_count = (uint32_t)run->lane_count;
	loop->lanes = aligned_alloc(CACHE_LINE, lanes_bytes);
	loop->claims.words = calloc(run->arena_size_bytes / SECTOR_BYTES / 64 + 1, sizeof(uint64_t));
	int failed = loop->lanes && loop->claims.words ? 0 : ENOMEM;
	if (order_open(loop) || clocks_open(loop))
		failed = ENOMEM;
	if (failed) {
		snprintf(run->message, sizeof run->message, "memory for a ring of %llu ops",
			 (unsigned long long)run->capacity);
		return failed;
	}
	memset(loop->lanes, 0, lanes_bytes);
	for (uint32_t i = 0; i < loop->lane_count; i++)
		init_lane(loop, i);
	return 0;
}

static void free_loop(struct loop *loop)
{
	free(loop->lanes);
	free(loop->claims.words);
	order_close(loop);
	clocks_close(loop);
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

static void start_clock(struct loop *loop)
{
	struct kv_run *run = loop->run;
	loop->virtual_ns = VIRTUAL_START_NS;
	run->start_ns = run->virtual_time ? VIRTUAL_START_NS : now_ns() + START_LEAD_NS;
	clocks_start(loop);
	if (!loop->failed_errno)
		__atomic_store_n(run->started_ns, run->start_ns, __ATOMIC_RELEASE);
}

static void run_lanes(struct loop *loop)
{
	uint32_t started = start_lanes(loop);
	pthread_mutex_lock(&loop->mutex);
	while (loop->lanes_open < started)
		pthread_cond_wait(&loop->changed, &loop->mutex);
	start_clock(loop);
	loop->go = loop->failed_errno ? -1 : 1;
	pthread_cond_broadcast(&loop->changed);
	pthread_mutex_unlock(&loop->mutex);
	for (uint32_t i = 0; i < started; i++)
		pthread_join(loop->lanes[i].thread, NULL);
	for (uint32_t i = 0; i < started; i++) {
		loop->run->cpu_ns += loop->lanes[i].cpu_ns;
		loop->run->verify_cpu_ns += loop->lanes[i].verify_cpu_ns;
		lane_close(&loop->lanes[i]);
	}
}

/* An op that was never executed was "ready" only if all it waited for had completed. */
static void clear_unready(const struct loop *loop)
{
	const struct kv_run *run = loop->run;
	uint64_t planned = __atomic_load_n(run->planned, __ATOMIC_ACQUIRE);
	for (uint64_t op = __atomic_load_n(run->drained, __ATOMIC_ACQUIRE); op < planned; op++) {
		uint32_t slot = slot_of(run, op);
		uint32_t low = (uint32_t)__atomic_load_n(&run->state[slot], __ATOMIC_ACQUIRE);
		if (low != KV_FINISHED && low != KV_FAILED && !loop->tracks[slot].ready)
			run->ready_ns[slot] = KV_NO_TIME_NS;
	}
}

int kv_run(struct kv_run *run)
{
	struct loop loop = {.run = run};
	int failed = run_check(run);
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
