/* Closed loops: which op opens a group of a request, and what that waits for; see gates.py. */
#include "plan.h"

KV_SIZE(stream, struct kv_stream)
KV_SIZE(groups, struct kv_groups)

static struct kv_stream *stream_of(const struct kv_plan *plan)
{
	int32_t stream = plan->groups->stream[plan->row];

	return stream < 0 ? NULL : &plan->groups->streams[stream];
}

int64_t kv_gating_of(const struct kv_plan *plan)
{
	const struct kv_stream *stream = stream_of(plan);

	return stream ? stream->gating : 0;
}

/* Whether rows of the phase belong to a request's own steps: they may begin a group, and gate. */
static bool serves(const struct kv_plan *plan)
{
	int phase = plan->rows->phase[plan->row];

	return phase != KV_EVICT && phase != KV_PROMOTE;
}

/* Whether the row is of another task than the group's first, submitted when all that the next gate
 * would wait for had completed. */
static bool begins_later(const struct kv_plan *plan, const struct kv_stream *stream)
{
	int64_t batch = plan->groups->batch[plan->row];

	return batch >= 0 && batch != stream->batch && stream->complete >= 0 &&
	       plan->rows->timestamp[plan->row] >= stream->complete;
}

static bool begins_group(const struct kv_plan *plan, const struct kv_stream *stream)
{
	const struct kv_groups *groups = plan->groups;

	if (!stream->known)
		return true;
	return serves(plan) &&
	       (groups->request[plan->row] != stream->request ||
		groups->step[plan->row] > stream->step || begins_later(plan, stream));
}

static void begin_group(struct kv_plan *plan, struct kv_stream *stream, int64_t now)
{
	stream->gate = plan->ring->planned;
	stream->gating = 0;
	stream->request = plan->groups->request[plan->row];
	stream->step = plan->groups->step[plan->row];
	stream->batch = plan->groups->batch[plan->row];
	stream->begin = now;
	stream->complete = -1;
	stream->known = 1;
}

void kv_open_group(struct kv_plan *plan, int64_t thread)
{
	struct kv_stream *stream = stream_of(plan);
	struct kv_ring *ring = plan->ring;
	int64_t now = plan->rows->timestamp[plan->row], before = 0;

	if (!stream || !begins_group(plan, stream))
		return;
	if (stream->known)
		before = stream->complete > stream->begin ? stream->complete : stream->begin;
	int64_t gap_ns = kv_at_speed(now > before ? now - before : 0, plan->speed);
	int64_t waited = kv_joined(plan->lists, ring, -stream->gating, gap_ns, thread);
	int64_t first = ring->edge_end;
	uint32_t clock = (uint32_t)plan->groups->stream[plan->row] | KV_GATING;

	kv_begin_extra(ring, KV_GATE, gap_ns, thread, clock);
	kv_wait(plan->lists, ring, waited, first);
	kv_wait(plan->lists, ring, stream->gate, first);
	kv_finish_op(ring);
	begin_group(plan, stream, now);
}

/* Whether the stream's next gate waits for the row. */
static bool gates(const struct kv_plan *plan)
{
	int what = plan->rows->op[plan->row];

	return plan->sync_stores ||
	       (serves(plan) && (what == KV_ROW_READ || what == KV_ROW_LOOKUP));
}

void kv_attach(struct kv_plan *plan, int64_t lane, int64_t ref)
{
	struct kv_stream *stream = stream_of(plan);
	struct kv_ring *ring = plan->ring;
	uint64_t at = kv_newest(ring);

	if (!stream) {
		if (lane >= 0)
			ring->clock[at] = KV_NO_CLOCK;
		return;
	}
	bool gating = gates(plan);
	int64_t complete = plan->groups->complete[plan->row];

	if (gating && complete > stream->complete)
		stream->complete = complete;
	if (lane >= 0) {
		ring->due_ns[at] = KV_NO_TIME_NS;
		ring->clock[at] = (uint32_t)plan->groups->stream[plan->row] |
				  (gating ? KV_GATING : 0);
		*kv_edge_at(ring, ring->edge_end++) = (uint32_t)(stream->gate - 1);
		if (gating)
			stream->gating = kv_cons(plan->lists, ring->planned, stream->gating);
	} else if (gating) {
		int64_t merged = kv_merge(plan->lists, -stream->gating, ref);

		stream->gating = kv_list_of(plan->lists, merged);
	}
}
