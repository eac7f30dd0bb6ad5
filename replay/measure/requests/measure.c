/* Storage time of each request, over all its ops; see measure.py. */
#include "../histogram.h"

/* In a request's state. */
enum { FAILED = 1, BEGUN = 4 };

/* Ops, and the columns of their requests; Gathered of measure.py. */
struct kv_gathered {
	int64_t count;
	const int32_t *index;
	const int64_t *state; /* what each op adds to its request's */
	const int64_t *begin_ns;
	const int64_t *service_ns;
	const int64_t *complete_ns;
	const uint8_t *is_read;
	int64_t *begins; /* per request, as are those that follow */
	int64_t *ends;
	int64_t *io_ns;
	int64_t *waited_ns;
	int64_t *states;
	int64_t *reads;
};

KV_SIZE(gathered, struct kv_gathered)

/* Add each op to its request's columns. */
KV_EXPORT void kv_gather_requests(const struct kv_gathered *ops)
{
	for (int64_t at = 0; at < ops->count; at++) {
		int32_t to = ops->index[at];
		int64_t begin = ops->begin_ns[at], end = ops->complete_ns[at];
		int64_t known = ops->states[to];

		ops->states[to] = known | ops->state[at];
		if (ops->state[at] & FAILED)
			continue;
		if (!(known & BEGUN) || begin < ops->begins[to])
			ops->begins[to] = begin;
		int64_t waited = kv_larger(0, end - kv_larger(begin, ops->ends[to]));

		ops->waited_ns[to] = kv_sum(ops->waited_ns[to], waited);
		ops->ends[to] = kv_larger(end, ops->ends[to]);
		ops->io_ns[to] = kv_sum(ops->io_ns[to], ops->service_ns[at]);
		ops->reads[to] += ops->is_read[at];
		ops->states[to] |= BEGUN;
	}
}
