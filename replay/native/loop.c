/* The loop of one lane: which op is next, and when. */
#include "loop.h"

#include <string.h>

static inline int64_t max_ns(int64_t a, int64_t b)
{
	return a > b ? a : b;
}

static inline int64_t min_ns(int64_t a, int64_t b)
{
	return a < b ? a : b;
}

int64_t lane_due_ns(const struct lane *lane, uint64_t row)
{
	const struct kv_run *run = lane->run;
	return run->start_ns + (run->mode == KV_OPEN ? run->due_ns[row] : 0);
}

bool lane_stopping(const struct lane *lane)
{
	return __atomic_load_n(lane->run->stop, __ATOMIC_RELAXED) ||
	       __atomic_load_n(&lane->loop->halt, __ATOMIC_RELAXED);
}

void lane_wake(struct lane *lane)
{
	__atomic_store_n(&lane->poked, 1, __ATOMIC_SEQ_CST);
	if (__atomic_exchange_n(&lane->asleep, 0, __ATOMIC_SEQ_CST))
		lane->backend->kick(lane);
}

static void make_ready(struct lane *lane, uint32_t row)
{
	const struct kv_run *run = lane->run;
	bool failed = __atomic_load_n(&lane->loop->pending[row], __ATOMIC_RELAXED) &
		      PREDECESSOR_FAILED;
	bool instant = failed || run->action[row] == KV_NONE || run->length_bytes[row] == 0 ||
		       lane->spec->kind == KV_NULL;
	heap_push(instant ? &lane->instant : &lane->ready, row);
}

static void inbox_push(struct lane *lane, uint32_t row)
{
	uint32_t *next = &lane->loop->inbox_next[row];
	uint32_t head = __atomic_load_n(&lane->inbox, __ATOMIC_RELAXED);
	do {
		*next = head;
	} while (!__atomic_compare_exchange_n(&lane->inbox, &head, row, true, __ATOMIC_SEQ_CST,
					      __ATOMIC_RELAXED));
	lane_wake(lane);
}

static void inbox_drain(struct lane *lane)
{
	uint32_t row = __atomic_exchange_n(&lane->inbox, NONE_U32, __ATOMIC_SEQ_CST);
	while (row != NONE_U32) {
		uint32_t next = lane->loop->inbox_next[row];
		make_ready(lane, row);
		row = next;
	}
}

/* Take one from what the op waits for; true if that was the last. */
static bool count_down(struct lane *lane, uint32_t row)
{
	uint32_t before =
		__atomic_fetch_sub(&lane->loop->pending[row], 1, __ATOMIC_ACQ_REL);
	return (before & ~PREDECESSOR_FAILED) == 1;
}

static void raise_ready(int64_t *ready_ns, int64_t when_ns)
{
	int64_t seen = __atomic_load_n(ready_ns, __ATOMIC_RELAXED);
	while (seen < when_ns && !__atomic_compare_exchange_n(ready_ns, &seen, when_ns, true,
							      __ATOMIC_RELAXED, __ATOMIC_RELAXED))
		;
}

static void release_successor(struct lane *lane, uint32_t row, bool failed, int64_t when_ns)
{
	raise_ready(&lane->run->ready_ns[row], when_ns);
	if (failed)
		__atomic_fetch_or(&lane->loop->pending[row], PREDECESSOR_FAILED, __ATOMIC_RELAXED);
	if (!count_down(lane, row))
		return;
	struct lane *owner = &lane->loop->lanes[lane->run->lane[row]];
	if (owner == lane)
		make_ready(lane, row);
	else
		inbox_push(owner, row);
}

void lane_finish(struct lane *lane, uint32_t row, int32_t error, int64_t when_ns)
{
	const struct kv_run *run = lane->run;
	run->error[row] = error;
	int64_t *ops = &run->completed_ops[lane->index];
	__atomic_store_n(ops, *ops + 1, __ATOMIC_RELAXED);
	if (error == 0 && run->action[row] != KV_NONE) {
		int64_t *bytes = &run->completed_bytes[lane->index];
		__atomic_store_n(bytes, *bytes + (int64_t)run->length_bytes[row],
				 __ATOMIC_RELAXED);
	}
	for (uint64_t i = run->successor_begin[row]; i < run->successor_begin[row + 1]; i++)
		release_successor(lane, run->successors[i], error != 0, when_ns);
}

static void seek_own_row(struct lane *lane)
{
	const struct kv_run *run = lane->run;
	uint64_t left = run->op_count - lane->cursor;
	const uint8_t *from = run->lane + lane->cursor;
	const uint8_t *at = left ? memchr(from, (int)lane->index, left) : NULL;
	lane->cursor = at ? (uint64_t)(at - run->lane) : run->op_count;
}

static void visit(struct lane *lane)
{
	uint32_t row = (uint32_t)lane->cursor++;
	seek_own_row(lane);
	lane->visited++;
	if (lane->run->wait_count[row] == 0)
		lane->run->ready_ns[row] = lane->run->start_ns;
	if (count_down(lane, row))
		make_ready(lane, row);
}

/* With mode MAX a row is visited when nothing before it can be started. */
static bool may_visit(const struct lane *lane)
{
	if (lane->cursor >= lane->run->op_count || lane->visited >= LOOKAHEAD_ROWS)
		return false;
	return lane->run->mode == KV_OPEN ||
	       (lane->ready.count == 0 && lane->instant.count == 0 && lane->current == NONE_U32);
}

static void finish_instant(struct lane *lane)
{
	const struct kv_run *run = lane->run;
	uint32_t row = heap_pop(&lane->instant);
	lane->visited--;
	if (lane->loop->pending[row] & PREDECESSOR_FAILED) {
		lane_finish(lane, row, KV_DEPENDENCY_FAILED, run->ready_ns[row]);
		return;
	}
	int64_t when_ns = max_ns(lane_due_ns(lane, row), run->ready_ns[row]);
	run->slot_ns[row] = when_ns;
	if (run->action[row] != KV_NONE)
		when_ns = now_ns();
	run->submit_ns[row] = when_ns;
	run->complete_ns[row] = when_ns;
	lane_finish(lane, row, 0, when_ns);
}

/* Start what is due and ready; at most one I/O, so that completions are seen in between. */
static bool start_ops(struct lane *lane)
{
	bool progress = false;
	while (may_visit(lane) && lane_due_ns(lane, lane->cursor) <= lane->now_ns) {
		visit(lane);
		progress = true;
	}
	while (lane->instant.count) {
		finish_instant(lane);
		progress = true;
	}
	return io_issue(lane) || progress;
}

static bool anything_left(const struct lane *lane, bool stopping)
{
	if (lane->in_flight || !fifo_empty(&lane->finished) || !fifo_empty(&lane->unverified))
		return true;
	return !stopping && (lane->cursor < lane->run->op_count || lane->visited ||
			     lane->current != NONE_U32);
}

static int64_t next_visit_ns(const struct lane *lane)
{
	if (lane_stopping(lane) || !may_visit(lane))
		return INT64_MAX;
	return lane_due_ns(lane, lane->cursor);
}

static bool poked(const struct lane *lane)
{
	return __atomic_load_n(&lane->poked, __ATOMIC_SEQ_CST);
}

/* Poll until there is something to do (true) or the time has come. */
static bool spin(struct lane *lane, int64_t until_ns)
{
	do {
		if (poked(lane) || lane->backend->pending(lane))
			return true;
		relax_cpu();
	} while (now_ns() < until_ns);
	return false;
}

/* Learn how early a sleep has to end: a virtual CPU that went idle takes hundreds of microseconds
 * to come back. Each wait for a due time forgets an eighth, so that a lane whose due times are
 * closer than that sleeps again and learns anew. */
static void learn_lead(struct lane *lane, int64_t overslept_ns)
{
	lane->lead_ns -= lane->lead_ns / 8;
	lane->lead_ns = max_ns(lane->lead_ns, min_ns(overslept_ns, LEAD_MAX_NS));
	lane->lead_ns = max_ns(lane->lead_ns, lane->run->spin_ns);
}

/* Sleep until a completion, another lane, or the next due time needs this thread. With spinning
 * the sleep ends early enough to meet the due time awake. */
static void idle(struct lane *lane)
{
	int64_t spin_ns = lane->run->spin_ns;
	int64_t due_ns = next_visit_ns(lane);
	bool others = lane->in_flight || lane->loop->lane_count > 1;
	int64_t now = lane->now_ns;
	int64_t lead_ns = spin_ns > 0 ? lane->lead_ns : 0;
	bool soon = due_ns - now <= lead_ns;
	if (spin_ns > 0 && (others || soon)) {
		if (spin(lane, soon ? due_ns : min_ns(due_ns, now + spin_ns)))
			return;
		if (soon)
			learn_lead(lane, 0);
		now = now_ns();
	}
	int64_t deadline_ns = min_ns(due_ns - lead_ns, now + STOP_POLL_NS);
	if (deadline_ns <= now)
		return;
	__atomic_store_n(&lane->asleep, 1, __ATOMIC_SEQ_CST);
	if (!poked(lane))
		lane->backend->wait(lane, deadline_ns);
	__atomic_store_n(&lane->asleep, 0, __ATOMIC_SEQ_CST);
	int64_t overslept_ns = now_ns() - deadline_ns;
	if (overslept_ns >= 0)
		learn_lead(lane, overslept_ns);
}

static void step(struct lane *lane, bool stopping)
{
	bool progress = false;
	lane->backend->collect(lane);
	if (poked(lane)) {
		__atomic_store_n(&lane->poked, 0, __ATOMIC_SEQ_CST);
		inbox_drain(lane);
		progress = true;
	}
	lane->now_ns = now_ns();
	if (!fifo_empty(&lane->finished)) {
		io_handle_finished(lane);
		progress = true;
	}
	if (!stopping && start_ops(lane))
		progress = true;
	if (progress)
		return;
	if (!fifo_empty(&lane->unverified))
		io_verify_next(lane);
	else if (anything_left(lane, stopping))
		idle(lane);
}

void lane_run(struct lane *lane)
{
	seek_own_row(lane);
	bool stopping = lane_stopping(lane);
	while (!lane->broken && anything_left(lane, stopping)) {
		step(lane, stopping);
		stopping = lane_stopping(lane);
	}
}
