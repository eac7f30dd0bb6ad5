/* Order without counters: an op waits on the list of one unfinished predecessor at a time, and
 * looks at the next when that one has finished. Predecessors may have left the ring meanwhile;
 * that is why a state carries the number of its op. */
#include "loop.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#define FAILED_BYTES ((1ull << 32) / 8)

int order_open(struct loop *loop)
{
	loop->tracks = calloc(loop->run->capacity, sizeof *loop->tracks);
	void *bits = mmap(NULL, FAILED_BYTES, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	loop->failed_bits = bits == MAP_FAILED ? NULL : bits;
	return loop->tracks && loop->failed_bits ? 0 : ENOMEM;
}

void order_close(struct loop *loop)
{
	free(loop->tracks);
	if (loop->failed_bits)
		munmap(loop->failed_bits, FAILED_BYTES);
}

static void note_failed(struct loop *loop, uint32_t op)
{
	__atomic_fetch_or(&loop->failed_bits[op / 64], 1ull << op % 64, __ATOMIC_RELAXED);
	__atomic_store_n(&loop->any_failed, 1, __ATOMIC_RELEASE);
}

static bool has_failed(const struct loop *loop, uint32_t op)
{
	return __atomic_load_n(&loop->any_failed, __ATOMIC_ACQUIRE) &&
	       __atomic_load_n(&loop->failed_bits[op / 64], __ATOMIC_RELAXED) >> op % 64 & 1;
}

/* What an op takes over from a predecessor that has finished. A failure ends at a gate: a client
 * goes on with its next request. */
static void inherit(struct loop *loop, uint32_t op, bool failed, int64_t when_ns, bool gate)
{
	const struct kv_run *run = loop->run;
	uint32_t slot = slot_of(run, op);
	if (failed && run->action[slot] != KV_GATE)
		loop->tracks[slot].failed = true;
	if (when_ns == KV_NO_TIME_NS)
		loop->tracks[slot].gone = true;
	if (when_ns > run->ready_ns[slot])
		__atomic_store_n(&run->ready_ns[slot], when_ns, __ATOMIC_RELAXED);
	if (gate && run->due_ns[slot] == KV_NO_TIME_NS)
		run->due_ns[slot] = when_ns - run->start_ns;
}

/* Its times count only if its place hasn't been reused while they were read. */
static void inherit_finished(struct loop *loop, uint32_t op, uint32_t before, bool failed)
{
	const struct kv_run *run = loop->run;
	uint32_t slot = slot_of(run, before);
	int64_t when_ns = __atomic_load_n(&run->complete_ns[slot], __ATOMIC_RELAXED);
	if (when_ns == KV_NO_TIME_NS)
		when_ns = __atomic_load_n(&run->ready_ns[slot], __ATOMIC_RELAXED);
	bool gate = __atomic_load_n(&run->action[slot], __ATOMIC_RELAXED) == KV_GATE;
	__atomic_thread_fence(__ATOMIC_ACQUIRE);
	if (__atomic_load_n(&run->state[slot], __ATOMIC_RELAXED) >> 32 == before)
		inherit(loop, op, failed, when_ns, gate);
	else
		inherit(loop, op, failed, KV_NO_TIME_NS, false);
}

/* True: the op is on the list of `before`, and whoever finishes that one may have it already. */
static bool wait_for(struct loop *loop, uint32_t op, uint32_t before)
{
	const struct kv_run *run = loop->run;
	uint64_t *state = &run->state[slot_of(run, before)];
	uint32_t *link = &loop->tracks[slot_of(run, op)].link;
	uint64_t seen = __atomic_load_n(state, __ATOMIC_ACQUIRE);
	for (;;) {
		uint32_t low = (uint32_t)seen;
		if (seen >> 32 != before) {
			inherit(loop, op, has_failed(loop, before), KV_NO_TIME_NS, false);
			return false;
		}
		if (low == KV_FINISHED || low == KV_FAILED) {
			inherit_finished(loop, op, before, low == KV_FAILED);
			return false;
		}
		*link = low;
		if (__atomic_compare_exchange_n(state, &seen, (uint64_t)before << 32 | op, true,
						__ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
			return true;
	}
}

/* Pass the predecessors that have finished, up to one that has not. */
static void scan(struct lane *lane, uint32_t op)
{
	const struct kv_run *run = lane->run;
	uint32_t slot = slot_of(run, op);
	struct track *track = &lane->loop->tracks[slot];
	uint64_t mask = run->edge_capacity - 1;
	while (track->passed < run->wait_count[slot]) {
		uint32_t before = run->edges[(run->edge_begin[slot] + track->passed) & mask];
		if (before >= op) {
			op_refuse(lane, op, "a predecessor isn't an earlier op");
			return;
		}
		if (wait_for(lane->loop, op, before))
			return;
		track->passed++;
	}
	track->ready = true;
	if (run->ready_ns[slot] < run->start_ns)
		__atomic_store_n(&run->ready_ns[slot], run->start_ns, __ATOMIC_RELAXED);
	lane_ready(lane, op);
}

void order_begin(struct lane *lane, uint32_t op)
{
	scan(lane, op);
}

static void go_on(struct lane *lane, uint32_t op)
{
	lane->loop->tracks[slot_of(lane->run, op)].passed++;
	scan(lane, op);
}

static void inbox_push(struct lane *lane, uint32_t op)
{
	uint32_t *link = &lane->loop->tracks[slot_of(lane->run, op)].link;
	uint32_t head = __atomic_load_n(&lane->inbox, __ATOMIC_RELAXED);
	do {
		*link = head;
	} while (!__atomic_compare_exchange_n(&lane->inbox, &head, op, true, __ATOMIC_SEQ_CST,
					      __ATOMIC_RELAXED));
	lane_wake(lane);
}

void order_take_inbox(struct lane *lane)
{
	uint32_t op = __atomic_exchange_n(&lane->inbox, NONE_U32, __ATOMIC_SEQ_CST);
	while (op != NONE_U32) {
		uint32_t next = lane->loop->tracks[slot_of(lane->run, op)].link;
		go_on(lane, op);
		op = next;
	}
}

/* Once the state is stored the op can be drained and its place reused at any time; those that
 * waited for it can't, and belong to this thread until they are handed on. */
void order_release(struct lane *lane, uint32_t op, bool failed, int64_t when_ns)
{
	struct loop *loop = lane->loop;
	const struct kv_run *run = lane->run;
	uint32_t slot = slot_of(run, op);
	bool gate = run->action[slot] == KV_GATE;
	if (failed)
		note_failed(loop, op);
	uint64_t state = (uint64_t)op << 32 | (failed ? KV_FAILED : KV_FINISHED);
	uint32_t waiter =
		(uint32_t)__atomic_exchange_n(&run->state[slot], state, __ATOMIC_ACQ_REL);
	while (waiter != KV_NO_WAITER) {
		uint32_t at = slot_of(run, waiter);
		uint32_t next = loop->tracks[at].link;
		struct lane *owner = &loop->lanes[run->lane[at]];
		inherit(loop, waiter, failed, when_ns, gate);
		if (owner == lane)
			go_on(lane, waiter);
		else
			inbox_push(owner, waiter);
		waiter = next;
	}
}
