/* Closed mode: clocks that completions advance, and gates that open some time after those. */
#include "loop.h"

#include <errno.h>
#include <stdlib.h>

int clocks_open(struct loop *loop)
{
	uint64_t count = loop->run->clock_count;
	loop->clock_ns = calloc(count + 1, sizeof *loop->clock_ns);
	loop->gate_ns = calloc(count + 1, sizeof *loop->gate_ns);
	return loop->clock_ns && loop->gate_ns ? 0 : ENOMEM;
}

void clocks_close(struct loop *loop)
{
	free(loop->clock_ns);
	free(loop->gate_ns);
}

void clocks_start(struct loop *loop)
{
	for (uint64_t i = 0; i < loop->run->clock_count; i++)
		loop->clock_ns[i] = loop->gate_ns[i] = loop->run->start_ns;
}

/* `op_check` has seen to it that an op's clock exists, or is none. */
static uint32_t clock_of(const struct kv_run *run, uint32_t op)
{
	uint32_t clock = run->clock ? run->clock[slot_of(run, op)] : KV_NO_CLOCK;
	return clock & ~KV_GATING;
}

static void advance(int64_t *clock_ns, int64_t when_ns)
{
	int64_t seen = __atomic_load_n(clock_ns, __ATOMIC_RELAXED);
	while (seen < when_ns && !__atomic_compare_exchange_n(clock_ns, &seen, when_ns, true,
							      __ATOMIC_RELEASE, __ATOMIC_RELAXED))
		;
}

void clocks_note(struct lane *lane, uint32_t op, int64_t when_ns)
{
	const struct kv_run *run = lane->run;
	if (run->clock && run->clock[slot_of(run, op)] & KV_GATING &&
	    clock_of(run, op) != KV_NO_CLOCK)
		advance(&lane->loop->clock_ns[clock_of(run, op)], when_ns);
}

/* When a gate opens whose predecessors have all finished. */
int64_t clocks_opening_ns(const struct lane *lane, uint32_t gate)
{
	const struct kv_run *run = lane->run;
	uint32_t slot = slot_of(run, gate);
	int64_t clock_ns =
		__atomic_load_n(&lane->loop->clock_ns[clock_of(run, gate)], __ATOMIC_ACQUIRE);
	return max_ns(clock_ns + run->due_ns[slot], run->ready_ns[slot]);
}

void clocks_note_gate(struct lane *lane, uint32_t gate, int64_t when_ns)
{
	advance(&lane->loop->gate_ns[clock_of(lane->run, gate)], when_ns);
}

/* For an op whose gate has left the ring. */
int64_t clocks_gate_ns(const struct lane *lane, uint32_t op)
{
	return __atomic_load_n(&lane->loop->gate_ns[clock_of(lane->run, op)], __ATOMIC_ACQUIRE);
}
