/* The loop of one lane: which op is next, and when. */
#include "loop.h"

#include <errno.h>

/* Ops visited before completions are looked at again. */
#define VISITS_AT_ONCE 64

int64_t lane_due_ns(const struct lane *lane, uint64_t op)
{
	const struct kv_run *run = lane->run;
	return run->start_ns + (run->mode == KV_MAX ? 0 : run->due_ns[slot_of(run, op)]);
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

static bool moves_bytes(const struct kv_run *run, uint32_t op)
{
	uint8_t action = run->action[slot_of(run, op)];
	return action == KV_READ || action == KV_WRITE;
}

/* Whether the op is work for the lane's target; else it is bookkeeping, or a gate. */
static bool is_work(const struct lane *lane, uint32_t op)
{
	const struct kv_run *run = lane->run;
	bool deletes = run->action[slot_of(run, op)] == KV_DELETE && lane_deletes(lane->spec);
	return lane->spec->kind != KV_NULL && length_of(run, op) > 0 &&
	       (moves_bytes(run, op) || deletes);
}

/* All that the op waits for has finished. */
void lane_ready(struct lane *lane, uint32_t op)
{
	const struct kv_run *run = lane->run;
	uint32_t slot = slot_of(run, op);
	if (run->action[slot] == KV_GATE) {
		heap_push(&lane->timers, clocks_opening_ns(lane, op), op);
		return;
	}
	if (run->mode == KV_CLOSED && run->due_ns[slot] == KV_NO_TIME_NS)
		run->due_ns[slot] = clocks_gate_ns(lane, op) - run->start_ns;
	bool instant =
		lane->loop->tracks[slot].failed || !is_work(lane, op) || !in_range(lane, op);
	int64_t key = run->mode == KV_MAX ? op : run->due_ns[slot];
	heap_push(instant ? &lane->instant : &lane->ready, key, op);
}

static void account_completed(const struct lane *lane, uint32_t op, int32_t error)
{
	const struct kv_run *run = lane->run;
	int64_t *ops = &run->completed_ops[lane->index];
	__atomic_store_n(ops, *ops + 1, __ATOMIC_RELAXED);
	if (error == 0 && moves_bytes(run, op)) {
		int64_t *bytes = &run->completed_bytes[lane->index];
		__atomic_store_n(bytes, *bytes + (int64_t)length_of(run, op), __ATOMIC_RELAXED);
	}
}

/* The last that is done with an op: its columns may be another's afterwards. */
void lane_finish(struct lane *lane, uint32_t op, int32_t error, int64_t when_ns)
{
	const struct kv_run *run = lane->run;
	run->error[slot_of(run, op)] = error;
	account_completed(lane, op, error);
	if (run->mode == KV_CLOSED)
		clocks_note(lane, op, when_ns);
	order_release(lane, op, error != 0, when_ns);
}

/* In open mode an op is visited when it is due, in closed mode as soon as it is planned. */
static void visit(struct lane *lane)
{
	const struct kv_run *run = lane->run;
	uint32_t op = (uint32_t)lane->cursor++;
	uint32_t slot = slot_of(run, op);
	plan_seek(lane);
	if (!op_check(lane, op))
		return;
	lane->visited++;
	lane->loop->tracks[slot] = (struct track){0};
	bool early = run->mode == KV_CLOSED && run->action[slot] != KV_GATE &&
		     lane_due_ns(lane, op) > lane->now_ns;
	if (early)
		heap_push(&lane->timers, lane_due_ns(lane, op), op);
	else
		order_begin(lane, op);
}

/* With mode MAX an op is visited when nothing before it can be started. */
static bool may_visit(const struct lane *lane)
{
	uint32_t mode = lane->run->mode;
	if (lane->cursor >= lane->planned ||
	    (mode != KV_CLOSED && lane->visited >= LOOKAHEAD_OPS))
		return false;
	return mode != KV_MAX ||
	       (lane->ready.count == 0 && lane->instant.count == 0 && lane->current == NONE_U32);
}

static int64_t visit_ns(const struct lane *lane)
{
	return lane->run->mode == KV_CLOSED ? INT64_MIN : lane_due_ns(lane, lane->cursor);
}

static void finish_at(struct lane *lane, uint32_t op, int64_t when_ns)
{
	const struct kv_run *run = lane->run;
	uint32_t slot = slot_of(run, op);
	run->submit_ns[slot] = when_ns;
	__atomic_store_n(&run->complete_ns[slot], when_ns, __ATOMIC_RELAXED);
	lane_finish(lane, op, 0, when_ns);
}

/* Bookkeeping completes when it is due and ready; where it isn't known when it was ready, now. */
static void finish_instant(struct lane *lane)
{
	const struct kv_run *run = lane->run;
	uint32_t op = heap_pop(&lane->instant).op;
	uint32_t slot = slot_of(run, op);
	struct track track = lane->loop->tracks[slot];
	int64_t ready_ns = track.gone ? lane_now(lane) : run->ready_ns[slot];
	lane->visited--;
	if (track.failed) {
		lane_finish(lane, op, KV_DEPENDENCY_FAILED, ready_ns);
		return;
	}
	run->slot_ns[slot] = max_ns(lane_due_ns(lane, op), run->ready_ns[slot]);
	if (is_work(lane, op)) /* and out of range, else it would have been started */
		lane_finish(lane, op, ERANGE, ready_ns);
	else if (moves_bytes(run, op))
		finish_at(lane, op, lane_now(lane));
	else
		finish_at(lane, op, max_ns(lane_due_ns(lane, op), ready_ns));
}

/* The time has come for an op that was not due, or for a gate. */
static void fire_timer(struct lane *lane)
{
	const struct kv_run *run = lane->run;
	struct entry timer = heap_pop(&lane->timers);
	if (run->action[slot_of(run, timer.op)] != KV_GATE) {
		order_begin(lane, timer.op);
		return;
	}
	lane->visited--;
	run->slot_ns[slot_of(run, timer.op)] = timer.key;
	clocks_note_gate(lane, timer.op, timer.key);
	finish_at(lane, timer.op, timer.key);
}

static bool finish_instants(struct lane *lane)
{
	bool any = lane->instant.count;
	while (lane->instant.count)
		finish_instant(lane);
	return any;
}

/* Start what is due and ready; at most one I/O, so that completions are seen in between. */
static bool start_ops(struct lane *lane)
{
	bool progress = false;
	plan_refresh(lane);
	for (uint32_t i = 0; i < VISITS_AT_ONCE && may_visit(lane) &&
			     visit_ns(lane) <= lane->now_ns; i++) {
		visit(lane);
		finish_instants(lane);
		progress = true;
	}
	while (lane->timers.count && lane->timers.entries[0].key <= lane->now_ns) {
		fire_timer(lane);
		progress = true;
	}
	if (finish_instants(lane))
		progress = true;
	return io_issue(lane) || progress;
}

static bool anything_left(const struct lane *lane, bool stopping)
{
	if (lane->in_flight || !fifo_empty(&lane->finished) || !fifo_empty(&lane->unverified))
		return true;
	return !stopping && (lane->cursor < lane->planned || !lane->final || lane->visited ||
			     lane->current != NONE_U32);
}

/* When the lane has something to start that it knows of. */
static int64_t next_start_ns(const struct lane *lane)
{
	int64_t when_ns = INT64_MAX;
	if (lane_stopping(lane))
		return when_ns;
	if (lane->timers.count)
		when_ns = lane->timers.entries[0].key;
	return may_visit(lane) ? min_ns(when_ns, visit_ns(lane)) : when_ns;
}

static bool poked(const struct lane *lane)
{
	return __atomic_load_n(&lane->poked, __ATOMIC_SEQ_CST);
}

/* Poll until there is something to do (true) or the time has come. */
static bool spin(struct lane *lane, int64_t until_ns)
{
	do {
		if (poked(lane) || lane->backend->pending(lane) || plan_has_grown(lane))
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

/* How long the lane may be blind to what nobody wakes it for. */
static int64_t longest_sleep_ns(const struct lane *lane)
{
	if (lane->payload_stalled)
		return PAYLOAD_POLL_NS;
	return plan_waits(lane) ? PLAN_POLL_NS : STOP_POLL_NS;
}

/* Sleep until a completion, another lane, or the next due time needs this thread. With spinning
 * the sleep ends early enough to meet the due time awake. */
static void idle(struct lane *lane)
{
	int64_t spin_ns = lane->run->spin_ns;
	int64_t due_ns = next_start_ns(lane);
	bool others = lane->in_flight || lane->loop->lane_count > 1 || plan_waits(lane);
	int64_t now = lane->now_ns;
	int64_t lead_ns = spin_ns > 0 ? lane->lead_ns : 0;
	bool soon = due_ns - now <= lead_ns;
	bool polls = soon || (others && spin_ns > 0 && polling_pays(lane, now));
	if (spin_ns > 0 && polls && !lane->payload_stalled) {
		if (spin(lane, soon ? due_ns : min_ns(due_ns, now + spin_ns)))
			return;
		if (soon)
			learn_lead(lane, 0);
		now = now_ns();
	}
	int64_t deadline_ns = min_ns(due_ns - lead_ns, now + longest_sleep_ns(lane));
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

/* Real time given to planner and payload before virtual time passes without them, in polls: they
 * may themselves wait for this lane. */
#define PATIENCE 200u

/* In virtual time: go to whatever comes next. */
static void jump(struct lane *lane)
{
	int64_t next_ns = min_ns(next_start_ns(lane), lane->backend->next_ns(lane));
	bool others = !lane_stopping(lane) && (plan_can_grow(lane) || lane->payload_stalled);
	if (next_ns == INT64_MAX || (others && lane->patience++ < PATIENCE)) {
		struct timespec poll = {.tv_nsec = PAYLOAD_POLL_NS};
		nanosleep(&poll, NULL);
		return;
	}
	lane->patience = 0;
	lane->loop->virtual_ns = max_ns(lane->loop->virtual_ns, next_ns);
}

static void rest(struct lane *lane)
{
	plan_note_stall(lane);
	if (lane->run->virtual_time)
		jump(lane);
	else
		idle(lane);
}

static void step(struct lane *lane, bool stopping)
{
	bool progress = false;
	lane->backend->collect(lane);
	if (poked(lane)) {
		__atomic_store_n(&lane->poked, 0, __ATOMIC_SEQ_CST);
		order_take_inbox(lane);
		progress = true;
	}
	lane->now_ns = lane_now(lane);
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
		rest(lane);
}

void lane_run(struct lane *lane)
{
	bool stopping = lane_stopping(lane);
	while (!lane->broken && anything_left(lane, stopping)) {
		step(lane, stopping);
		stopping = lane_stopping(lane);
	}
}
