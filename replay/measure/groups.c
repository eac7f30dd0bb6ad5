/* Counts, bytes and latencies of ops by what they are; see groups.py. */
#include "histogram.h"

#define MIB (1 << 20)
#define BUCKETS ((1 << KV_FINE_BITS) * (64 - KV_FINE_BITS))

enum { SERVICE = 0, RESPONSE = 1, PACE = 2, TIMES = 3 };

struct counts {
	int64_t ops;
	int64_t bytes;
	int64_t errors;
	int64_t moving;
};

struct stats {
	int64_t max;
	int64_t total;
};

/* Some ops, and the rows of what is counted; Counted of groups.py. */
struct kv_counted {
	int64_t count;
	const int64_t *row;
	const bool *good;
	const bool *moves;
	const int32_t *error;
	const int64_t *size;
	const int64_t *service_ns;
	const int64_t *response_ns;
	struct counts *counts;
	int64_t (*times)[TIMES][BUCKETS];
	struct stats (*stats)[TIMES];
};

KV_SIZE(counted, struct kv_counted)

static void add(const struct kv_counted *counted, int64_t row, int which, int64_t value)
{
	struct stats *stats = &counted->stats[row][which];

	counted->times[row][which][kv_bucket_of(value, KV_FINE_BITS)]++;
	stats->max = kv_larger(stats->max, value);
	stats->total = kv_sum(stats->total, value);
}

/* Count each op in its row; times below 0 as 0. */
KV_EXPORT void kv_count_groups(const struct kv_counted *counted)
{
	for (int64_t at = 0; at < counted->count; at++) {
		int64_t row = counted->row[at];
		struct counts *counts = &counted->counts[row];
		bool good = counted->good[at], moves = counted->moves[at];

		counts->ops += good;
		counts->errors += counted->error[at] != 0;
		counts->moving |= moves;
		if (!good || !moves)
			continue;
		int64_t took = kv_larger(0, counted->service_ns[at]);
		int64_t size = counted->size[at];

		counts->bytes += size;
		add(counted, row, SERVICE, took);
		add(counted, row, RESPONSE, kv_larger(0, counted->response_ns[at]));
		add(counted, row, PACE,
		    (int64_t)((double)took * ((double)MIB / (double)kv_larger(size, MIB))));
	}
}
