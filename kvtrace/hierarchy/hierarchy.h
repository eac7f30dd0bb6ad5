/* The tier state machine in virtual time: requests in, block events out.
 *
 * `kv_hierarchy_run` works until it needs something that only its caller can give (requests, room)
 * and says so by its status; called again it goes on where it stopped, so that the events don't
 * depend on how the requests were cut into batches. The rules are those of docs/workload.md, "The
 * hierarchy". native.py has the same structures for Python.
 */
#ifndef KV_HIERARCHY_H
#define KV_HIERARCHY_H

#include "../policies/policy.h"
#include "../trace/cell.h"
#include "core.h"
#include "hashmap.h"

/* Why `kv_hierarchy_run` stopped. */
enum kv_status { KV_DONE, KV_NEED_REQUESTS, KV_NEED_CHAIN, KV_NEED_SLOTS, KV_EVENTS_FULL, KV_PAUSED };

/* In `where`, beside the bits of policy.h: never asked for again, forgotten when no tier holds it;
 * stored before, or meant to be; asked for since; stored since the engine began. */
#define KV_HELD ((1u << KV_TIERS) - 1)
#define KV_RETIRED (1u << 8)
#define KV_SEEN (1u << 9)
#define KV_AGAIN (1u << 10)
#define KV_STORED (1u << 11)
/* Who knows the block: tiers, policies, sessions that may ask for it again. */
#define KV_KNOWN ((1u << 9) - 1)

/* Flags of a block. A run is a prefix of its own: what is resident behind its first hole is no hit.
 * A checkpoint is the constant state of a hybrid model behind the block; its identity is the
 * block's, inverted. A hit ends at a checkpoint: KV_HIT_END marks where. */
#define KV_RUN 1
#define KV_SHARED 2
#define KV_CHECKPOINT 4
#define KV_HIT_END 8

#define KV_NO_FOLLOWER 0
#define KV_ASK_FOLLOWER (-1)

/* A loaded request. Steps: KV_LOOK_UP and so on, KV_NONE when it is done. */
enum { KV_LOOK_UP, KV_LOAD, KV_STORE, KV_FIRST_DECODE };

struct kv_request {
	int64_t arrival_ns; /* negative: it follows another one of its chain */
	int64_t think_ns, follow, chain, session, last_turn;
	int64_t input_tokens, output_tokens, qos;
	int64_t prompt_blocks; /* of its context; the generated ones follow up to `end` */
	int64_t begin, end;    /* of its blocks, counted from the first that was ever loaded */
	int64_t number, step, hit_blocks;
	int64_t prefilled_ns, decoding_ns; /* its prompt is computed; it begins to generate */
};

struct kv_block {
	int64_t ident, tokens;
	int64_t at;    /* of a prompt: tokens from the start of its run to its end; of a generated
			* one: tokens generated when it is complete */
	int64_t flags;
	int64_t slot;  /* as the request's look-up saw it; KV_MISSING: no hit */
};

/* What happens next to a request; at most one entry each. */
struct kv_next {
	int64_t time_ns, order, row;
};

/* Arrivals come after everything that earlier requests do at the same time. */
#define KV_ARRIVAL (1ll << 62)

/* Histograms of durations: bins for each power of two of microseconds, of which the first are
 * exact. */
#define KV_SUB_BINS 32
#define KV_BINS (38 * KV_SUB_BINS)

struct kv_hierarchy {
	struct kv_tier tiers[KV_TIERS];
	struct kv_slot *slots;
	uint64_t *entries; /* of the table; NULL: a block's identity is its slot */
	uint64_t mask;
	struct kv_request *requests; /* those loaded and not dropped: `request_base` is the first */
	struct kv_block *blocks;
	int64_t block_count;
	struct kv_next *heap;

	/* Events, by column; their owner keeps room for `events_limit` and the longest step. */
	int64_t *time_ns, *key, *tokens, *request, *session;
	uint16_t *step;
	uint8_t *op, *tier, *phase, *qos;
	int64_t events, events_limit;

	/* Settings. */
	int64_t write_through, promote, tail_first, second_use, hybrid, lookups;
	int64_t generation_ns, prefill_ps, reread_tokens;
	int64_t prefill_slots, decode_slots;
	int64_t *prefill_free_ns, *decode_free_ns; /* when each slot is free */
	int64_t max_requests, end_ns;
	int64_t pause_ns, pause_requests, pause_tier;
	int64_t tallied_tokens; /* blocks of so many make no events: `tally` counts them by cell */

	/* Where it is. Rows grow for ever. */
	int64_t stream, loaded, no_more, heap_size;
	int64_t first_free, fresh, free_slots;
	int64_t request_base, block_base;
	int64_t asked; /* what a status is about: the chain's row, the slots needed */

	/* The context of the event being made. */
	int64_t now_ns, now_step, now_request, now_session, now_qos;

	/* Counters. */
	int64_t keys, states, begun, blocks_asked, hit_tokens, ideal_hits;
	int64_t prompt_tokens, generated_tokens;
	int64_t shared_blocks, shared_hits, shared_hit_tokens, shared_ideal_hits;
	int64_t prefill_tokens, prefill_busy_ns, prefill_end_ns, decode_wait_ns;
	int64_t tallied_ns; /* when the last tallied event happened */
	int64_t tally[KV_CELLS];
	int64_t first_token[KV_BINS], prefill_wait[KV_BINS];
};

/* run.c */
void kv_push(struct kv_hierarchy *h, struct kv_next next);
void kv_tier_setup(struct kv_tier *tier);

/* slots.c */
static inline struct kv_table kv_table_of(const struct kv_hierarchy *h)
{
	return (struct kv_table){h->entries, h->mask, (const char *)h->slots, sizeof *h->slots};
}

static inline int64_t kv_slot_of(const struct kv_hierarchy *h, int64_t ident)
{
	struct kv_table table = kv_table_of(h);

	if (h->entries)
		return kv_find(&table, ident);
	return h->slots[ident].ident == ident ? ident : KV_MISSING;
}

static inline bool kv_holds(const struct kv_hierarchy *h, int64_t tier, int64_t slot)
{
	return h->slots[slot].where >> tier & 1;
}

/* Whether some tier holds a block; none holds one whose slot is KV_MISSING. */
static inline bool kv_held(const struct kv_hierarchy *h, int64_t slot)
{
	return slot != KV_MISSING && (h->slots[slot].where & KV_HELD);
}

/* The fastest tier that holds a slot, or KV_NONE. */
static inline int64_t kv_fastest(const struct kv_hierarchy *h, int64_t slot)
{
	unsigned int held = h->slots[slot].where & KV_HELD;

	return held ? __builtin_ctz(held) : KV_NONE;
}

int64_t kv_take_slot(struct kv_hierarchy *h, int64_t ident, int64_t tokens);
/* Forget a block that won't be asked for again, unless a tier or its policy still knows it. */
void kv_free_if_unknown(struct kv_hierarchy *h, int64_t slot);
/* A block's key; it gets the next one when it first appears in the trace. */
int64_t kv_name(struct kv_hierarchy *h, int64_t slot);

/* moves.c: blocks enter tiers, move between them and leave. */
void kv_emit(struct kv_hierarchy *h, uint32_t op, int64_t tier, uint32_t phase, int64_t key,
	     int64_t tokens);
void kv_enter(struct kv_hierarchy *h, int64_t tier, int64_t slot);
/* The last tier that takes a block of `tokens`, or KV_NONE. */
int64_t kv_slowest(const struct kv_hierarchy *h, int64_t tokens);
/* Store a block that no tier holds: on the fastest, under write-through on all that take it.
 * `slot`: its slot, or KV_MISSING. */
void kv_store(struct kv_hierarchy *h, int64_t slot, int64_t ident, int64_t tokens, uint32_t phase);
/* Read a block from the fastest tier that holds it; promote it where that is on. */
void kv_hit(struct kv_hierarchy *h, int64_t slot, int64_t tier);
void kv_touch(struct kv_hierarchy *h, int64_t tier, int64_t slot);
void kv_expect(struct kv_hierarchy *h, int64_t tier, int64_t slot);

/* lookup.c, requests.c: the steps of a request. */
int64_t kv_look_up(struct kv_hierarchy *h, int64_t begin, int64_t end);
void kv_ask(struct kv_hierarchy *h, struct kv_request *request);
void kv_load(struct kv_hierarchy *h, struct kv_request *request);
void kv_store_prompt(struct kv_hierarchy *h, const struct kv_request *request);
void kv_decode(struct kv_hierarchy *h, const struct kv_request *request, int64_t index);
/* How many decode events a request has; when event `index` of them happens, or behind the last
 * when it ends. */
int64_t kv_decodes(const struct kv_hierarchy *h, const struct kv_request *request);
int64_t kv_decode_ns(const struct kv_hierarchy *h, const struct kv_request *request, int64_t index);
/* Forget the blocks of a session that has ended, as soon as no tier holds them. */
void kv_retire(struct kv_hierarchy *h, const struct kv_request *request);

/* schedule.c */
/* Note when a request's missed tokens are computed, and when it begins to generate. */
void kv_schedule(struct kv_hierarchy *h, struct kv_request *request, int64_t missed);

#endif
