/* How far a lane sees: its ops among those that have been planned so far. */
#include "loop.h"

#include <string.h>

/* How many of the ops [begin, end) are next to each other in the columns. */
static uint64_t contiguous(const struct kv_run *run, uint64_t begin, uint64_t end)
{
	uint64_t room = run->capacity - slot_of(run, begin);
	return end - begin < room ? end - begin : room;
}

static uint64_t drained(const struct lane *lane)
{
	return __atomic_load_n(lane->run->drained, __ATOMIC_ACQUIRE);
}

/* No lane would ever visit an op whose lane doesn't exist: the first one looks for such. */
static void check_lanes(struct lane *lane, uint64_t begin, uint64_t end)
{
	const struct kv_run *run = lane->run;
	while (begin < end) {
		const uint8_t *lanes = run->lane + slot_of(run, begin);
		uint64_t count = contiguous(run, begin, end);
		uint8_t highest = 0;
		for (uint64_t i = 0; i < count; i++)
			highest = lanes[i] > highest ? lanes[i] : highest;
		if (highest >= run->lane_count) {
			const uint8_t *at = memchr(lanes, highest, count);
			op_refuse(lane, begin + (at ? (uint64_t)(at - lanes) : 0), "no such lane");
			return;
		}
		begin += count;
	}
}

/* Go to the lane's next op. Where others' ops are drained already, the columns may hold a later
 * one; the lane's own aren't drained before it has visited them. */
void plan_seek(struct lane *lane)
{
	const struct kv_run *run = lane->run;
	while (lane->cursor < lane->planned) {
		const uint8_t *from = run->lane + slot_of(run, lane->cursor);
		uint64_t count = contiguous(run, lane->cursor, lane->planned);
		const uint8_t *at = memchr(from, (int)lane->index, count);
		lane->cursor += at ? (uint64_t)(at - from) : count;
		if (!at)
			continue;
		__atomic_thread_fence(__ATOMIC_ACQUIRE);
		uint64_t gone = drained(lane);
		if (gone <= lane->cursor)
			return;
		lane->cursor = gone;
	}
}

/* `final` is read first: what was planned before it was set is then seen. */
void plan_refresh(struct lane *lane)
{
	const struct kv_run *run = lane->run;
	if (lane->final || lane->cursor < lane->planned)
		return;
	bool final = __atomic_load_n(run->final, __ATOMIC_ACQUIRE);
	uint64_t planned = __atomic_load_n(run->planned, __ATOMIC_ACQUIRE);
	if (planned > OPS_MAX) {
		op_refuse(lane, OPS_MAX, "more ops than numbers");
		return;
	}
	if (planned > lane->planned) {
		if (lane->index == 0)
			check_lanes(lane, lane->planned, planned);
		lane->planned = planned;
		lane->plan_stalled = false;
		lane->patience = 0;
		plan_seek(lane);
	}
	lane->final = final;
}

bool plan_waits(const struct lane *lane)
{
	return !lane->final && lane->cursor >= lane->planned;
}

bool plan_has_grown(const struct lane *lane)
{
	return plan_waits(lane) &&
	       (__atomic_load_n(lane->run->planned, __ATOMIC_RELAXED) > lane->planned ||
		__atomic_load_n(lane->run->final, __ATOMIC_RELAXED));
}

/* Whether others can add to the plan before this lane's ops go on. */
bool plan_can_grow(const struct lane *lane)
{
	const struct kv_run *run = lane->run;
	uint64_t oldest = drained(lane);
	if (!plan_waits(lane) || lane->planned < oldest + run->capacity)
		return plan_waits(lane);
	uint32_t low = (uint32_t)__atomic_load_n(&run->state[slot_of(run, oldest)],
						 __ATOMIC_ACQUIRE);
	return low == KV_FINISHED || low == KV_FAILED;
}

/* Whether the lane would do something now if more had been planned. */
static bool starved(const struct lane *lane, uint64_t oldest)
{
	const struct kv_run *run = lane->run;
	bool busy = lane->in_flight || lane->current != NONE_U32 || lane->ready.count ||
		    lane->instant.count || !fifo_empty(&lane->finished) ||
		    !fifo_empty(&lane->unverified);
	if (run->mode == KV_MAX)
		return !busy;
	if (run->mode == KV_CLOSED)
		return !busy && lane->visited == 0;
	if (oldest >= lane->planned)
		return true;
	/* Due times never decrease: the next op isn't due before the last planned one. */
	return run->start_ns + run->due_ns[slot_of(run, lane->planned - 1)] <= lane->now_ns;
}

/* Counted once per wait, and only if the planner is behind: the ring is less than half full. A
 * lane with few ops of its own runs out of them whenever the planner is about to add some. */
void plan_note_stall(struct lane *lane)
{
	uint64_t oldest = drained(lane);
	if (!plan_waits(lane) || lane->plan_stalled ||
	    (lane->planned - oldest) * 2 >= lane->run->capacity ||
	    plan_has_grown(lane) || !starved(lane, oldest))
		return;
	lane->plan_stalled = true;
	lane->spec->planner_stalls++;
}
