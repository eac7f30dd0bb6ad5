/* The node's time: prompts take turns at prefill, requests wait for a place to generate. */
#include "hierarchy.h"

/* The bin of a duration: exact below KV_SUB_BINS microseconds, then within 1 / KV_SUB_BINS. */
static int64_t bin_of(int64_t duration_ns)
{
	int64_t value = duration_ns / 1000, shift = 0;

	for (; value >= 2 * KV_SUB_BINS; value >>= 1)
		shift++;
	value += shift * KV_SUB_BINS;
	return value < KV_BINS ? value : KV_BINS - 1;
}

/* When work that is ready begins in the first slot that is free; occupy it. */
static int64_t take_turn(int64_t *free_ns, int64_t slots, int64_t ready_ns, int64_t takes_ns)
{
	int64_t chosen = 0, begin_ns;

	for (int64_t slot = 1; slot < slots; slot++)
		if (free_ns[slot] < free_ns[chosen])
			chosen = slot;
	begin_ns = ready_ns > free_ns[chosen] ? ready_ns : free_ns[chosen];
	free_ns[chosen] = begin_ns + takes_ns;
	return begin_ns;
}

/* Requests take turns in order of arrival: the node computes what it can, and no more. */
void kv_schedule(struct kv_hierarchy *h, struct kv_request *request, int64_t missed)
{
	int64_t now_ns = h->now_ns, begin_ns = now_ns, decoding_ns;
	int64_t takes_ns = missed * h->prefill_ps / 1000 * h->prefill_slots;
	int64_t generates_ns = request->output_tokens * h->generation_ns;

	if (takes_ns) {
		begin_ns = take_turn(h->prefill_free_ns, h->prefill_slots, now_ns, takes_ns);
		h->prefill_busy_ns += takes_ns / h->prefill_slots;
	}
	request->prefilled_ns = decoding_ns = begin_ns + takes_ns;
	if (h->decode_slots && generates_ns)
		decoding_ns = take_turn(h->decode_free_ns, h->decode_slots, request->prefilled_ns,
					generates_ns);
	request->decoding_ns = decoding_ns;
	h->prefill_tokens += missed;
	if (request->prefilled_ns > h->prefill_end_ns)
		h->prefill_end_ns = request->prefilled_ns;
	h->decode_wait_ns += decoding_ns - request->prefilled_ns;
	h->first_token[bin_of(request->prefilled_ns - now_ns)]++;
	h->prefill_wait[bin_of(begin_ns - now_ns)]++;
}
