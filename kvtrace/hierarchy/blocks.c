/* Blocks of requests: contexts cut into blocks, groups of a source's smaller ones. */
#include "hierarchy.h"

/* Each group's chained hash: of the group before it and its members. `counts` groups of `group` ids
 * per request, whose ids begin at `begin`. */
KV_EXPORT void kv_group_ids(const int64_t *ids, const int64_t *begin, const int64_t *counts,
			    int64_t requests, int64_t group, int64_t *out)
{
	for (int64_t i = 0; i < requests; i++) {
		const int64_t *id = ids + begin[i];
		uint64_t chained = 0x9E3779B97F4A7C15ull;

		for (int64_t j = 0; j < counts[i]; j++) {
			for (int64_t k = 0; k < group; k++) {
				chained ^= (uint64_t)*id++;
				chained *= 0xFF51AFD7ED558CCDull;
				chained ^= chained >> 32;
				chained *= 0xC4CEB9FE1A85EC53ull;
				chained ^= chained >> 29;
			}
			*out++ = (int64_t)chained;
		}
	}
}

/* What identities have that blocks of system prompts and of documents share. */
#define PREFIX (1ll << 62)
#define DOCUMENT (1ll << 61)

/* Requests whose contexts are cut into blocks; the arrays have a value per request. */
struct kv_cut {
	int64_t block_tokens, state_interval, index_bits;
	const int64_t *session, *input_tokens, *total_blocks, *prompt_blocks;
	/* Of system prompts and documents; `prefix` is NULL without any. */
	const int64_t *prefix, *prefix_tokens, *chunk_count, *chunks;
	int64_t chunk_tokens;
	/* Whose the parts of a context are: those of request `i` from `part_begin[i]` on; NULL where
	 * all of it is its session's. */
	const int64_t *part_begin, *part_starts, *part_owners;
};

struct kv_cut_blocks {
	int64_t *ident, *at, *flags;
};

/* The first of the identities of what is numbered `number`. */
static int64_t numbered(const struct kv_cut *cut, int64_t number)
{
	return (int64_t)((uint64_t)number << cut->index_bits);
}

static void put(struct kv_cut_blocks *out, int64_t ident, int64_t at, int64_t flags)
{
	*out->ident++ = ident;
	*out->at++ = at;
	*out->flags++ = flags;
}

/* A document's chunk: a run of its own. */
static void put_chunk(const struct kv_cut *cut, struct kv_cut_blocks *out, int64_t chunk)
{
	int64_t count = cut->chunk_tokens / cut->block_tokens;

	for (int64_t k = 0; k < count; k++)
		put(out, DOCUMENT + numbered(cut, chunk) + k, (k + 1) * cut->block_tokens,
		    KV_SHARED | (k == 0 ? KV_RUN : 0) | (k == count - 1 ? KV_CHECKPOINT : 0));
}

/* The blocks of request `i`'s own context, which is `context` tokens long. */
static void put_context(const struct kv_cut *cut, struct kv_cut_blocks *out, int64_t i,
			int64_t context)
{
	int64_t size = cut->block_tokens, every = cut->state_interval;
	int64_t shared = cut->prefix ? cut->prefix_tokens[i] : -1;
	int64_t part = cut->part_begin ? cut->part_begin[i] : 0;
	int64_t last_part = cut->part_begin ? cut->part_begin[i + 1] - 1 : 0;

	for (int64_t k = 0; k < cut->total_blocks[i]; k++) {
		int64_t end = (k + 1) * size, flags = k == 0 ? KV_RUN : 0;
		int64_t owner = cut->session[i];

		/* A block is of whom its last token is: all before it are part of what it holds. */
		while (part < last_part && cut->part_starts[part + 1] < end)
			part++;
		if (cut->part_begin)
			owner = cut->part_owners[part];

		int64_t ident = numbered(cut, owner) + k;

		if (k == cut->prompt_blocks[i] - 1 || (every && end / every > k * size / every))
			flags |= KV_CHECKPOINT;
		if (end <= shared) {
			ident = PREFIX + numbered(cut, cut->prefix[i]) + k;
			flags |= KV_SHARED;
		}
		put(out, ident, k < cut->prompt_blocks[i] ? end : end - context, flags);
	}
}

KV_EXPORT void kv_cut_contexts(const struct kv_cut *cut, int64_t requests, int64_t *ident,
			       int64_t *at, int64_t *flags)
{
	struct kv_cut_blocks out = {ident, at, flags};
	const int64_t *chunk = cut->chunks;

	for (int64_t i = 0; i < requests; i++) {
		int64_t chunks = cut->prefix ? cut->chunk_count[i] : 0;

		for (int64_t j = 0; j < chunks; j++)
			put_chunk(cut, &out, *chunk++);
		put_context(cut, &out, i, cut->input_tokens[i] - chunks * cut->chunk_tokens);
	}
}

/* Put columns of blocks into rows, of which a look-up sets the slot. */
KV_EXPORT void kv_load_blocks(struct kv_block *blocks, int64_t count, const int64_t *ident,
			      const int64_t *tokens, const int64_t *at, const int64_t *flags)
{
	for (int64_t i = 0; i < count; i++)
		blocks[i] = (struct kv_block){ident[i], tokens[i], at[i], flags[i], KV_MISSING};
}
