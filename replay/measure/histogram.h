/* Log-linear buckets of values that aren't negative; see histogram.py. */
#ifndef KV_HISTOGRAM_H
#define KV_HISTOGRAM_H

#include "../../kvtrace/native/core.h"

/* BITS and COARSE_BITS of histogram.py. */
#define KV_FINE_BITS 8
#define KV_COARSE_BITS 5

static inline int64_t kv_bucket_count(int bits)
{
	return ((int64_t)1 << bits) * (64 - bits);
}

/* Exact below 2^bits, and 2^bits buckets per power of two above. */
static inline int64_t kv_bucket_of(int64_t value, int bits)
{
	int64_t sub = (int64_t)1 << bits;

	if (value < 2 * sub)
		return value;
	int shift = 63 - __builtin_clzll((uint64_t)value) - bits;

	return shift * sub + (value >> shift);
}

/* A sum that wraps: a trace's times may be anything. */
static inline int64_t kv_sum(int64_t one, int64_t other)
{
	return (int64_t)((uint64_t)one + (uint64_t)other);
}

static inline int64_t kv_larger(int64_t one, int64_t other)
{
	return one > other ? one : other;
}

#endif
