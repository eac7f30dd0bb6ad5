#include "histogram.h"

/* Count values, those below 0 as 0; their sum is added to `*total`. Return the largest. */
KV_EXPORT int64_t kv_count_values(int64_t *counts, int bits, const int64_t *values, int64_t count,
				  int64_t *total)
{
	int64_t largest = 0;

	for (int64_t at = 0; at < count; at++) {
		int64_t value = kv_larger(0, values[at]);

		largest = kv_larger(largest, value);
		*total = kv_sum(*total, value);
		counts[kv_bucket_of(value, bits)]++;
	}
	return largest;
}
