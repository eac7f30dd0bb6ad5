/* Further turns of earlier requests, invented: see invent.py. */
#include "core.h"

#define WAITING 256

/* A session that waits for its next turn; session −1: none. */
struct waiting {
	int64_t session;
	int64_t turn;
	int64_t context;    /* tokens */
	int64_t ready_ns;
};

struct kv_inventing {
	struct waiting waiting[WAITING];
	int64_t next_session;
	int64_t next_place;
};

struct kv_invented_rows {
	const int64_t *time_ns;
	const int64_t *prompt;      /* tokens */
	const int64_t *answer;
	const int64_t *ready_ns;    /* when the answer has been generated */
	const int64_t *start;       /* the place to look at first, below WAITING */
	const bool *goes_on;
	int64_t *session;
	int64_t *turn;
};

KV_SIZE(inventing, struct kv_inventing)
KV_SIZE(invented_rows, struct kv_invented_rows)

/* The first session from a place on whose next turn the request may be; NULL: none is. */
static struct waiting *fitting(struct kv_inventing *state, const struct kv_invented_rows *rows,
			       int64_t i)
{
	for (uint64_t k = 0; k < WAITING; k++) {
		struct waiting *at = &state->waiting[((uint64_t)rows->start[i] + k) % WAITING];

		if (at->session >= 0 && at->context < rows->prompt[i] &&
		    at->ready_ns <= rows->time_ns[i])
			return at;
	}
	return NULL;
}

/* Fill in session and turn of each request. */
KV_EXPORT void kv_invent(struct kv_inventing *state, const struct kv_invented_rows *rows,
			 int64_t count)
{
	for (int64_t i = 0; i < count; i++) {
		struct waiting *place = fitting(state, rows, i);

		rows->session[i] = place ? place->session : state->next_session++;
		rows->turn[i] = place ? place->turn + 1 : 0;
		if (place)
			place->session = -1;
		if (!rows->goes_on[i])
			continue;
		if (!place) {
			place = &state->waiting[(uint64_t)state->next_place % WAITING];
			state->next_place = (state->next_place + 1) % WAITING;
		}
		place->session = rows->session[i];
		place->turn = rows->turn[i];
		place->context = (int64_t)((uint64_t)rows->prompt[i] + (uint64_t)rows->answer[i]);
		place->ready_ns = rows->ready_ns[i];
	}
}
