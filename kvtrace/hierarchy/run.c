/* What happens next, in order of (time, request, step). */
#include "hierarchy.h"

#define MAX_STEP ((1 << 16) - 1)

static bool before(const struct kv_next *a, const struct kv_next *b)
{
	return a->time_ns < b->time_ns || (a->time_ns == b->time_ns && a->order < b->order);
}

void kv_push(struct kv_hierarchy *h, struct kv_next next)
{
	int64_t at = h->heap_size++;

	for (; at > 0 && before(&next, &h->heap[(at - 1) >> 1]); at = (at - 1) >> 1)
		h->heap[at] = h->heap[(at - 1) >> 1];
	h->heap[at] = next;
}

static void pop(struct kv_hierarchy *h)
{
	struct kv_next last = h->heap[--h->heap_size];
	int64_t at = 0, size = h->heap_size;

	for (;;) {
		int64_t child = 2 * at + 1;

		if (child + 1 < size && before(&h->heap[child + 1], &h->heap[child]))
			child++;
		if (child >= size || !before(&h->heap[child], &last))
			break;
		h->heap[at] = h->heap[child];
		at = child;
	}
	if (size)
		h->heap[at] = last;
}

static struct kv_request *request_at(const struct kv_hierarchy *h, int64_t row)
{
	return &h->requests[row - h->request_base];
}

/* End a request: forget an ended session's blocks, let the next one of its chain follow. */
static void finish(struct kv_hierarchy *h, struct kv_request *request, int64_t row)
{
	request->step = KV_NONE;
	if (request->last_turn)
		kv_retire(h, request);
	if (request->follow > KV_NO_FOLLOWER) {
		int64_t following = row + request->follow;
		int64_t arrival_ns = h->now_ns + request_at(h, following)->think_ns;

		kv_push(h, (struct kv_next){arrival_ns, KV_ARRIVAL + following, following});
	}
}

/* Do the request's step; return the step that follows, KV_NONE when it is done. */
static int64_t do_step(struct kv_hierarchy *h, struct kv_request *request)
{
	switch (request->step) {
	case KV_LOOK_UP:
		kv_ask(h, request);
		return KV_LOAD;
	case KV_LOAD:
		kv_load(h, request);
		return request->hit_blocks < request->prompt_blocks ? KV_STORE : KV_FIRST_DECODE;
	case KV_STORE:
		kv_store_prompt(h, request);
		return KV_FIRST_DECODE;
	}

	int64_t index = request->step - KV_FIRST_DECODE;

	if (index >= kv_decodes(h, request))
		return KV_NONE;
	kv_decode(h, request, index);
	return request->step + 1;
}

/* Do all that a request does now, then put it on the heap for what comes next. */
static void advance(struct kv_hierarchy *h, int64_t row)
{
	struct kv_request *request = request_at(h, row);
	int64_t next_ns = h->now_ns;

	h->now_request = request->number;
	h->now_session = request->session;
	h->now_qos = request->qos;
	/* It may do many steps at once, each of which makes as many events as there is room for. */
	while (next_ns == h->now_ns && h->events < h->events_limit) {
		int64_t step;

		h->now_step = request->step < MAX_STEP ? request->step : MAX_STEP;
		step = do_step(h, request);
		if (step == KV_NONE) {
			finish(h, request, row);
			return;
		}
		request->step = step;
		if (step == KV_STORE)
			next_ns = request->prefilled_ns;
		else if (step >= KV_FIRST_DECODE)
			next_ns = kv_decode_ns(h, request, step - KV_FIRST_DECODE);
	}
	kv_push(h, (struct kv_next){next_ns, request->number, row});
}

/* Move to the next loaded row with an arrival of its own; return whether there is one. */
static bool next_of_stream(struct kv_hierarchy *h)
{
	for (; h->stream < h->loaded; h->stream++)
		if (request_at(h, h->stream)->arrival_ns >= 0)
			return true;
	return false;
}

/* Whether the stream's next arrival comes before all that the heap holds. */
static bool stream_is_next(const struct kv_hierarchy *h)
{
	struct kv_next arrival = {request_at(h, h->stream)->arrival_ns, KV_ARRIVAL + h->stream, 0};

	return !h->heap_size || before(&arrival, &h->heap[0]);
}

/* Whether, once, the point is reached at which the caller wants to look. */
static bool pauses(struct kv_hierarchy *h)
{
	bool evicted = h->pause_tier != KV_NONE && h->tiers[h->pause_tier].evicted;

	if (h->now_ns < h->pause_ns && h->begun < h->pause_requests &&
	    (h->pause_tier == KV_NONE || !evicted))
		return false;
	h->pause_ns = h->pause_requests = KV_ARRIVAL;
	h->pause_tier = KV_NONE;
	return true;
}

static void begin(struct kv_hierarchy *h, struct kv_request *request)
{
	request->number = h->begun++;
	request->step = h->lookups ? KV_LOOK_UP : KV_LOAD;
	h->prompt_tokens += request->input_tokens;
	h->generated_tokens += request->output_tokens;
}

/* Give up a request that arrives when the recording is over. */
static void turn_away(struct kv_hierarchy *h, struct kv_request *request, bool from_stream)
{
	request->step = KV_NONE;
	if (from_stream) { /* those behind it arrive later still */
		h->stream = h->loaded;
		h->no_more = 1;
	}
}

/* What is needed before a request may go on; KV_DONE: nothing. */
static enum kv_status needs(struct kv_hierarchy *h, const struct kv_request *request, int64_t row,
			    bool accepted)
{
	int64_t slots = (request->end - request->begin) * (1 + h->hybrid);

	if (accepted && request->follow == KV_ASK_FOLLOWER) {
		h->asked = row;
		return KV_NEED_CHAIN;
	}
	if (h->entries && h->free_slots < slots) {
		h->asked = slots;
		return KV_NEED_SLOTS;
	}
	return KV_DONE;
}

KV_EXPORT int kv_hierarchy_run(struct kv_hierarchy *h)
{
	while (h->events < h->events_limit) {
		bool streams = next_of_stream(h), from_stream, arrives, accepted;
		struct kv_request *request;
		enum kv_status need;
		int64_t row;

		if (!streams && !h->no_more)
			return KV_NEED_REQUESTS;
		if (!streams && !h->heap_size)
			return KV_DONE;
		from_stream = streams && stream_is_next(h);
		row = from_stream ? h->stream : h->heap[0].row;
		request = request_at(h, row);
		h->now_ns = from_stream ? request->arrival_ns : h->heap[0].time_ns;
		arrives = from_stream || h->heap[0].order >= KV_ARRIVAL;
		accepted = !arrives || (h->now_ns < h->end_ns && h->begun < h->max_requests);
		if (accepted && pauses(h))
			return KV_PAUSED;
		need = needs(h, request, row, accepted);
		if (need != KV_DONE)
			return need;
		if (from_stream)
			h->stream++;
		else
			pop(h);
		if (!accepted) {
			turn_away(h, request, from_stream);
			continue;
		}
		if (arrives)
			begin(h, request);
		advance(h, row);
	}
	return KV_EVENTS_FULL;
}

/* Enter blocks that are there at the start; return how many fitted. Slots are free for all. */
KV_EXPORT int64_t kv_hierarchy_preload(struct kv_hierarchy *h, const int64_t *idents,
				       const int64_t *tokens, int64_t count, int64_t tier)
{
	struct kv_tier *filled = &h->tiers[tier];

	for (int64_t i = 0; i < count; i++) {
		int64_t slot;

		if (kv_size(filled, tokens[i]) > filled->high_bytes - filled->used_bytes)
			return i;
		slot = kv_take_slot(h, idents[i], tokens[i]);
		h->slots[slot].where |= KV_SEEN | KV_STORED;
		kv_name(h, slot);
		kv_expect(h, tier, slot);
		kv_enter(h, tier, slot);
	}
	return count;
}

/* Let a policy prepare its state of an empty tier. */
KV_EXPORT void kv_tier_setup(struct kv_tier *tier)
{
	if (tier->policy->setup)
		tier->policy->setup(tier, tier->high_bytes);
}

KV_SIZE(hierarchy, struct kv_hierarchy)
