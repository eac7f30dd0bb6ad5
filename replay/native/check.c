/* What columns must be like so that no I/O reaches beyond the memory it is meant for. */
#include "loop.h"

#include <errno.h>
#include <stdio.h>

#define QUEUE_DEPTH_MAX 16384u
#define IO_BYTES_MAX ((2ull << 30) - 4096)

static int refuse(struct kv_run *run, int error, uint64_t row, const char *what)
{
	snprintf(run->message, sizeof run->message, "op %llu: %s", (unsigned long long)row, what);
	return error;
}

static bool moves_bytes(const struct kv_run *run, uint64_t row)
{
	return run->action[row] != KV_NONE && run->lanes[run->lane[row]].kind != KV_NULL;
}

static bool fits_arena(const struct kv_run *run, uint64_t row)
{
	uint64_t io_bytes = run->lanes[run->lane[row]].io_bytes;
	for (uint64_t at = 0; at < run->length_bytes[row]; at += io_bytes) {
		uint64_t left = run->length_bytes[row] - at;
		uint64_t bytes = left < io_bytes ? left : io_bytes;
		uint64_t place = (run->arena_offset_bytes[row] + at) % run->arena_bytes;
		if (place % SECTOR_BYTES || place + bytes > run->arena_bytes)
			return false;
	}
	return true;
}

static int check_op(struct kv_run *run, uint64_t row)
{
	const struct kv_lane *lane = &run->lanes[run->lane[row]];
	uint64_t end = run->offset_bytes[row] + run->length_bytes[row];
	bool full = run->verify == KV_VERIFY_FULL && run->action[row] == KV_READ;
	if ((run->offset_bytes[row] | run->length_bytes[row]) % SECTOR_BYTES)
		return refuse(run, EINVAL, row, "offset or length is no multiple of 512");
	if (end < run->offset_bytes[row] || end > INT64_MAX)
		return refuse(run, EINVAL, row, "offset + length overflows");
	if (lane->kind == KV_MEMORY && end > lane->pool_bytes)
		return refuse(run, EINVAL, row, "reaches beyond the memory target's pool");
	if ((run->action[row] == KV_WRITE || full) && run->arena_bytes == 0)
		return refuse(run, EINVAL, row, "needs an arena, and there is none");
	if (full && run->arena_offset_bytes[row] % SECTOR_BYTES)
		return refuse(run, EINVAL, row, "arena place is no multiple of 512");
	if (run->action[row] == KV_WRITE && !fits_arena(run, row))
		return refuse(run, EINVAL, row, "a piece straddles the arena's end or a sector");
	return 0;
}

static int check_successors(struct kv_run *run, uint64_t row)
{
	uint64_t begin = run->successor_begin[row], end = run->successor_begin[row + 1];
	if (begin > end || end > run->successor_begin[run->op_count])
		return refuse(run, EINVAL, row, "successors out of range");
	for (uint64_t i = begin; i < end; i++)
		if (run->successors[i] <= row || run->successors[i] >= run->op_count)
			return refuse(run, EINVAL, row, "a successor isn't a later op");
	return 0;
}

static int check_lane(struct kv_run *run, uint32_t index)
{
	const struct kv_lane *lane = &run->lanes[index];
	const char *wrong = NULL;
	if (lane->queue_depth == 0 || lane->queue_depth > QUEUE_DEPTH_MAX)
		wrong = "queue depth isn't within 1 to 16384";
	else if (lane->io_bytes == 0 || lane->io_bytes % SECTOR_BYTES ||
		 lane->io_bytes > IO_BYTES_MAX)
		wrong = "I/O size isn't a multiple of 512 up to 2 GiB - 4 KiB";
	if (!wrong)
		return 0;
	snprintf(run->message, sizeof run->message, "lane %u: %s", index, wrong);
	return EINVAL;
}

int columns_check(struct kv_run *run)
{
	int failed = 0;
	if (run->lane_count == 0 || run->lane_count > MAX_LANES || run->op_count >= NONE_U32 ||
	    run->arena_bytes % SECTOR_BYTES) {
		snprintf(run->message, sizeof run->message,
			 "takes 1 to %u lanes, below 2^32 - 1 ops, an arena of whole sectors",
			 MAX_LANES);
		return EINVAL;
	}
	for (uint32_t i = 0; i < run->lane_count && !failed; i++)
		failed = check_lane(run, i);
	for (uint64_t row = 0; row < run->op_count && !failed; row++) {
		if (run->lane[row] >= run->lane_count || run->action[row] > KV_WRITE)
			failed = refuse(run, EINVAL, row, "no such lane or action");
		else if (moves_bytes(run, row))
			failed = check_op(run, row);
		if (!failed)
			failed = check_successors(run, row);
	}
	return failed;
}
