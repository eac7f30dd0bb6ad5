/* What a run, its lanes and each op must be like so that no I/O reaches beyond the memory it is
 * meant for. Ops are looked at when they are visited: there may be no end of them. */
#include "loop.h"

#include <errno.h>
#include <stdio.h>

#define QUEUE_DEPTH_MAX 16384u
#define IO_BYTES_MAX ((2ull << 30) - 4096)

void op_refuse(struct lane *lane, uint64_t op, const char *what)
{
	char message[160];
	snprintf(message, sizeof message, "op %llu: %s", (unsigned long long)op, what);
	loop_abort(lane->loop, EINVAL, message);
}

/* Whether the op is more than bookkeeping for the lane's target. */
static bool is_work(const struct lane *lane, uint32_t slot)
{
	uint8_t action = lane->run->action[slot];
	if (action == KV_DELETE)
		return lane_deletes(lane->spec);
	return (action == KV_READ || action == KV_WRITE) && lane->spec->kind != KV_NULL;
}

static bool fits_arena(const struct lane *lane, uint32_t op)
{
	const struct kv_run *run = lane->run;
	uint64_t io_bytes = lane->spec->io_bytes, length = length_of(run, op);
	for (uint64_t at = 0; at < length; at += io_bytes) {
		uint64_t bytes = length - at < io_bytes ? length - at : io_bytes;
		uint64_t place = (run->arena_bytes[slot_of(run, op)] + at) % run->arena_size_bytes;
		if (place % SECTOR_BYTES || place + bytes > run->arena_size_bytes)
			return false;
	}
	return true;
}

/* What is wrong with where in memory an op's bytes are, or NULL. */
static const char *wrong_with_memory(const struct lane *lane, uint32_t op)
{
	const struct kv_run *run = lane->run;
	const struct kv_lane *spec = lane->spec;
	uint32_t slot = slot_of(run, op);
	bool write = run->action[slot] == KV_WRITE;
	bool full = !write && verifies_body(run, op);
	if (!write && spec->longest_bytes && length_of(run, op) > spec->longest_bytes &&
	    spec->longest_bytes < spec->io_bytes)
		return "is longer than the longest read of its lane";
	if ((write || full) && run->arena_size_bytes == 0)
		return "needs an arena, and there is none";
	if (full && run->arena_bytes[slot] % SECTOR_BYTES)
		return "arena place is no multiple of 512";
	if (write && !fits_arena(lane, op))
		return "a piece straddles the arena's end or a sector";
	return NULL;
}

/* What is wrong with an op on a file of its own, or NULL. */
static const char *wrong_with_object(const struct lane *lane, uint32_t op)
{
	if (lane->run->action[slot_of(lane->run, op)] == KV_DELETE)
		return NULL;
	if (length_of(lane->run, op) > lane->spec->io_bytes)
		return "is longer than one I/O of its lane, and objects of a folder go in one";
	if (lane->run->pad_bytes[slot_of(lane->run, op)] > length_of(lane->run, op))
		return "has more padding than bytes";
	return NULL;
}

/* What is wrong with the extents of a divided op that is in range, or NULL. */
static const char *wrong_with_extents(const struct lane *lane, uint32_t op)
{
	const struct kv_run *run = lane->run;
	uint32_t slot = slot_of(run, op);
	uint64_t left = length_of(run, op);
	if (lane->spec->kind == KV_DIR)
		return "has several extents, and objects of a folder are files";
	for (uint64_t nth = 0; left; nth++) {
		const uint64_t *extent = extent_of(run, slot, nth);
		if (extent[0] % SECTOR_BYTES || extent[1] % SECTOR_BYTES || extent[1] == 0)
			return "an extent isn't of whole sectors";
		left -= extent[1] < left ? extent[1] : left;
	}
	return NULL;
}

/* What is wrong with where an op's bytes come from and go to, or NULL. */
static const char *wrong_with_bytes(const struct lane *lane, uint32_t op)
{
	const struct kv_run *run = lane->run;
	const struct kv_lane *spec = lane->spec;
	uint32_t slot = slot_of(run, op);
	const char *wrong = NULL;
	if (!in_range(lane, op))
		return NULL; /* it ends with ERANGE */
	if (is_divided(run, slot))
		wrong = wrong_with_extents(lane, op);
	else if (run->offset_bytes[slot] % SECTOR_BYTES)
		return "offset is no multiple of 512";
	if (wrong)
		return wrong;
	if (spec->kind == KV_DIR)
		wrong = wrong_with_object(lane, op);
	return wrong || run->action[slot] == KV_DELETE ? wrong : wrong_with_memory(lane, op);
}

/* Whether the clock exists that the op is bound to advance, or to wait for. */
static bool has_its_clock(const struct kv_run *run, uint32_t slot)
{
	uint32_t clock = run->clock ? run->clock[slot] & ~KV_GATING : KV_NO_CLOCK;
	bool needed = run->action[slot] == KV_GATE || run->due_ns[slot] == KV_NO_TIME_NS;
	return clock < run->clock_count || (clock == KV_NO_CLOCK && !needed);
}

bool op_check(struct lane *lane, uint32_t op)
{
	const struct kv_run *run = lane->run;
	uint32_t slot = slot_of(run, op);
	uint8_t action = run->action[slot];
	const char *wrong = NULL;
	if (action > KV_GATE)
		wrong = "no such action";
	else if (action == KV_GATE && run->mode != KV_CLOSED)
		wrong = "gates are for closed mode";
	else if (run->mode == KV_CLOSED && !has_its_clock(run, slot))
		wrong = "no such clock";
	else if (is_work(lane, slot))
		wrong = wrong_with_bytes(lane, op);
	if (wrong)
		op_refuse(lane, op, wrong);
	return !wrong;
}

static const char *wrong_with_lane(const struct kv_lane *lane)
{
	if (lane->queue_depth == 0 || lane->queue_depth > QUEUE_DEPTH_MAX)
		return "queue depth isn't within 1 to 16384";
	if (lane->io_bytes == 0 || lane->io_bytes % SECTOR_BYTES || lane->io_bytes > IO_BYTES_MAX)
		return "I/O size isn't a multiple of 512 up to 2 GiB - 4 KiB";
	if (lane->begin_bytes > lane->end_bytes || lane->end_bytes > INT64_MAX)
		return "its range isn't one";
	if (lane->pool && lane->end_bytes > lane->pool_bytes)
		return "its range reaches beyond the pool";
	if (lane->kind < KV_NULL || lane->kind > KV_SIMULATED)
		return "no such kind";
	if (lane->trim_bytes && lane->kind != KV_FILE)
		return "only extents of a file are trimmed";
	if (lane->trim_bytes % SECTOR_BYTES)
		return "what deletes are aligned to isn't a multiple of 512";
	if (lane->kind == KV_EXTERNAL && !lane->mailbox)
		return "has no mailbox";
	if ((lane->kind == KV_MEMORY || lane->kind == KV_SIMULATED) && !lane->pool)
		return "has no pool";
	if (lane->kind == KV_SIMULATED &&
	    (!lane->script_delay_ns || !lane->script_result || lane->script_count == 0))
		return "has no script";
	return NULL;
}

static const char *wrong_with_run(const struct kv_run *run)
{
	uint64_t capacity = run->capacity, edges = run->edge_capacity;
	if (run->lane_count == 0 || run->lane_count > MAX_LANES)
		return "takes 1 to 64 lanes";
	if (capacity == 0 || capacity & (capacity - 1) || capacity > 1ull << 32 || edges == 0 ||
	    edges & (edges - 1))
		return "capacities aren't powers of two";
	if (run->extent_words < 2 || run->extent_words & (run->extent_words - 1))
		return "extents aren't pairs, a power of two of them";
	if (run->arena_size_bytes % SECTOR_BYTES)
		return "the arena isn't of whole sectors";
	if (run->clock_count >= KV_NO_CLOCK)
		return "too many clocks";
	if (run->virtual_time && (run->lane_count != 1 || run->lanes[0].kind != KV_SIMULATED))
		return "virtual time is for one simulated lane";
	return NULL;
}

int run_check(struct kv_run *run)
{
	const char *wrong = wrong_with_run(run);
	if (wrong) {
		snprintf(run->message, sizeof run->message, "%s", wrong);
		return EINVAL;
	}
	for (uint32_t i = 0; i < run->lane_count; i++) {
		wrong = wrong_with_lane(&run->lanes[i]);
		if (wrong) {
			snprintf(run->message, sizeof run->message, "lane %u: %s", i, wrong);
			return EINVAL;
		}
	}
	return 0;
}
