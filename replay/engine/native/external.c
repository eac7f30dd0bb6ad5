/* Lanes whose I/O somebody else does: jobs go to a mailbox that a thread of the caller's empties. */
#include "loop.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

/* In a job's `piece`, instead of an index: it tells of memory and moves nothing. */
#define MEMORY_PIECE NONE_U32

struct kv_mailbox {
	pthread_mutex_t mutex;
	pthread_cond_t filled;
	pthread_cond_t answered;
	struct kv_job *jobs;
	uint32_t mask;
	uint32_t head;
	uint32_t tail;
	uint64_t promised; /* jobs that the lanes may have in it at once */
	bool closed;
	struct lane *lanes[MAX_LANES];
};

struct external {
	struct kv_mailbox *mailbox;
	bool attached;
	bool *out; /* per piece: it is somebody else's */
	int64_t answer; /* to the latest job that told of memory; 1 while there is none */
};

struct kv_mailbox *kv_mailbox_new(uint32_t capacity)
{
	struct kv_mailbox *mailbox = calloc(1, sizeof *mailbox);
	pthread_condattr_t monotonic;
	if (!mailbox || capacity == 0 || capacity & (capacity - 1)) {
		free(mailbox);
		return NULL;
	}
	mailbox->mask = capacity - 1;
	mailbox->jobs = calloc(capacity, sizeof *mailbox->jobs);
	pthread_mutex_init(&mailbox->mutex, NULL);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&mailbox->filled, &monotonic);
	pthread_cond_init(&mailbox->answered, NULL);
	pthread_condattr_destroy(&monotonic);
	if (mailbox->jobs)
		return mailbox;
	kv_mailbox_free(mailbox);
	return NULL;
}

void kv_mailbox_free(struct kv_mailbox *mailbox)
{
	free(mailbox->jobs);
	free(mailbox);
}

uint64_t kv_job_size(void)
{
	return sizeof(struct kv_job);
}

/* The piece's result is there. The lane can't end before the mutex is free. */
static int answer(struct kv_mailbox *mailbox, uint64_t id, int64_t result, int64_t submit_ns,
		  int64_t complete_ns)
{
	uint32_t index = (uint32_t)id;
	struct lane *lane = id >> 32 < MAX_LANES ? mailbox->lanes[id >> 32] : NULL;
	if (!lane)
		return EINVAL;
	struct external *external = lane->backend_state;
	if (index == MEMORY_PIECE) {
		external->answer = result < 0 ? result : 0;
		pthread_cond_broadcast(&mailbox->answered);
		return 0;
	}
	if (index >= lane->piece_count || !external->out[index])
		return EINVAL;
	struct piece *piece = &lane->pieces[index];
	external->out[index] = false;
	piece->result = result;
	/* A clock of another device may err: no job is done before it was asked for, or later. */
	piece->complete_ns = min_ns(max_ns(complete_ns, piece->submit_ns), now_ns());
	piece->submit_ns = min_ns(max_ns(submit_ns, piece->submit_ns), piece->complete_ns);
	handback_push(lane, index);
	return 0;
}

/* What nobody has taken yet ends as cancelled, and so does all that is still asked for. */
void kv_mailbox_close(struct kv_mailbox *mailbox)
{
	pthread_mutex_lock(&mailbox->mutex);
	mailbox->closed = true;
	while (mailbox->head != mailbox->tail) {
		uint64_t id = mailbox->jobs[mailbox->head++ & mailbox->mask].piece;
		int64_t when_ns = now_ns();
		answer(mailbox, id, -ECANCELED, when_ns, when_ns);
	}
	pthread_cond_broadcast(&mailbox->filled);
	pthread_mutex_unlock(&mailbox->mutex);
}

int kv_mailbox_take(struct kv_mailbox *mailbox, struct kv_job *job, int64_t timeout_ns)
{
	int64_t until_ns = now_ns() + timeout_ns;
	struct timespec until = {until_ns / 1000000000, until_ns % 1000000000};
	int found = 0, waited = 0;
	pthread_mutex_lock(&mailbox->mutex);
	while (mailbox->head == mailbox->tail && !mailbox->closed && timeout_ns > 0 && !waited)
		waited = pthread_cond_timedwait(&mailbox->filled, &mailbox->mutex, &until);
	if (mailbox->head != mailbox->tail) {
		*job = mailbox->jobs[mailbox->head++ & mailbox->mask];
		found = 1;
	} else if (mailbox->closed) {
		found = -1;
	}
	pthread_mutex_unlock(&mailbox->mutex);
	return found;
}

int kv_mailbox_done(struct kv_mailbox *mailbox, uint64_t piece, int64_t result, int64_t submit_ns,
		    int64_t complete_ns)
{
	pthread_mutex_lock(&mailbox->mutex);
	int failed = answer(mailbox, piece, result, submit_ns, complete_ns);
	pthread_mutex_unlock(&mailbox->mutex);
	return failed;
}

/* Put a job in; the mutex is held. False: nobody empties the mailbox any more. */
static bool put(struct kv_mailbox *mailbox, const struct kv_job *job)
{
	if (mailbox->closed)
		return false;
	mailbox->jobs[mailbox->tail++ & mailbox->mask] = *job;
	pthread_cond_signal(&mailbox->filled);
	return true;
}

static uint64_t id_of(const struct lane *lane, uint32_t index)
{
	return (uint64_t)lane->index << 32 | index;
}

/* Tell of memory that jobs will refer to, or will no longer, and wait for the answer. */
static int tell(struct lane *lane, uint32_t action, uint8_t *data, uint64_t bytes)
{
	struct external *external = lane->backend_state;
	struct kv_mailbox *mailbox = external->mailbox;
	struct kv_job job = {.piece = id_of(lane, MEMORY_PIECE),
			     .action = action,
			     .bytes = bytes,
			     .data = data};
	if (bytes == 0)
		return 0;
	pthread_mutex_lock(&mailbox->mutex);
	external->answer = put(mailbox, &job) ? 1 : -ECANCELED;
	while (external->answer > 0)
		pthread_cond_wait(&mailbox->answered, &mailbox->mutex);
	int failed = (int)-external->answer;
	pthread_mutex_unlock(&mailbox->mutex);
	return failed;
}

static int attach(struct lane *lane)
{
	struct external *external = lane->backend_state;
	struct kv_mailbox *mailbox = external->mailbox;
	uint64_t more = (uint64_t)lane->piece_count + 1;
	int failed = 0;
	pthread_mutex_lock(&mailbox->mutex);
	if (mailbox->lanes[lane->index])
		failed = EBUSY;
	else if (mailbox->promised + more > mailbox->mask + 1ull)
		failed = ENOSPC;
	if (!failed) {
		mailbox->promised += more;
		mailbox->lanes[lane->index] = lane;
		external->attached = true;
	}
	pthread_mutex_unlock(&mailbox->mutex);
	return failed;
}

static void detach(struct lane *lane)
{
	struct external *external = lane->backend_state;
	struct kv_mailbox *mailbox = external->mailbox;
	pthread_mutex_lock(&mailbox->mutex);
	mailbox->promised -= (uint64_t)lane->piece_count + 1;
	mailbox->lanes[lane->index] = NULL;
	pthread_mutex_unlock(&mailbox->mutex);
}

static int external_open(struct lane *lane, char *message, size_t message_size)
{
	struct external *external = calloc(1, sizeof *external);
	lane->backend_state = external;
	if (!external)
		return ENOMEM;
	external->mailbox = lane->spec->mailbox;
	external->out = calloc(lane->piece_count, sizeof *external->out);
	if (!external->out)
		return ENOMEM;
	snprintf(message, message_size, "mailbox of lane %u", lane->index);
	int failed = attach(lane);
	if (!failed)
		failed = tell(lane, KV_JOB_MEMORY, lane->run->arena, lane->run->arena_size_bytes);
	if (!failed)
		failed = tell(lane, KV_JOB_MEMORY, lane->buffers.base, lane->buffers.bytes);
	return failed;
}

static void external_close(struct lane *lane)
{
	struct external *external = lane->backend_state;
	if (!external)
		return;
	if (external->attached) {
		tell(lane, KV_JOB_FORGET, lane->buffers.base, lane->buffers.bytes);
		tell(lane, KV_JOB_FORGET, lane->run->arena, lane->run->arena_size_bytes);
		detach(lane);
	}
	free(external->out);
	free(external);
}

static struct kv_job job_of(const struct lane *lane, uint32_t index)
{
	const struct piece *piece = &lane->pieces[index];
	return (struct kv_job){.piece = id_of(lane, index),
			       .key = lane->run->key[piece_slot(lane, piece)],
			       .offset = piece->file_offset + piece->done_bytes,
			       .bytes = piece->bytes - piece->done_bytes,
			       .data = piece->data ? piece->data + piece->done_bytes : NULL,
			       .action = piece->action};
}

/* Its own submit time is when the job was put in, until it is known when it went out. */
static void external_submit(struct lane *lane, uint32_t index)
{
	struct external *external = lane->backend_state;
	struct kv_job job = job_of(lane, index);
	pthread_mutex_lock(&external->mailbox->mutex);
	lane->pieces[index].submit_ns = now_ns();
	bool taken = put(external->mailbox, &job);
	external->out[index] = taken;
	pthread_mutex_unlock(&external->mailbox->mutex);
	if (!taken)
		io_collect(lane, index, -ECANCELED, now_ns());
}

static int64_t external_cpu_ns(struct lane *lane)
{
	(void)lane; /* the process's, like all of Python */
	return 0;
}

const struct backend external_backend = {
	.open = external_open,
	.close = external_close,
	.submit = external_submit,
	.collect = handback_collect,
	.pending = handback_pending,
	.wait = lane_sleep,
	.kick = lane_rouse,
	.cpu_ns = external_cpu_ns,
};
