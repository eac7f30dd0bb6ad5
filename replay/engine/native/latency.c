/* Latencies of single I/Os, counted as they finish: log-linear, as in replay/measure/histogram.py. */
#include "loop.h"

#define PARTS (1ull << KV_IO_BITS)

static inline uint32_t log2_floor(uint64_t value)
{
	return 63u - (uint32_t)__builtin_clzll(value);
}

static uint64_t bucket_of(int64_t latency_ns)
{
	uint64_t value = latency_ns > 0 ? (uint64_t)latency_ns : 0;
	if (value < PARTS)
		return value;
	uint32_t shift = log2_floor(value) - KV_IO_BITS;
	uint64_t bucket = shift * PARTS + (value >> shift);
	return bucket < KV_IO_BUCKETS ? bucket : KV_IO_BUCKETS - 1;
}

void latency_count(struct lane *lane, const struct piece *piece)
{
	int64_t *counts = lane->spec->io_counts;
	if (!counts)
		return;
	uint32_t size_class = log2_floor(piece->bytes);
	counts[size_class * (uint64_t)KV_IO_BUCKETS +
	       bucket_of(piece->complete_ns - piece->first_submit_ns)]++;
}
