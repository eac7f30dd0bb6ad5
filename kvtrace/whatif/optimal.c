/* Hits of a cache that knows the future: optimal.py says by which rule. */
#include "core.h"

#define NEVER ((1ll << 62) - 1)

struct use {
	int64_t next, key;
};

/* Set `out` to the later group that asks for each key next; NEVER if none does, or if one stores it
 * anew before that. `following`: NEVER for each key. */
KV_EXPORT void kv_next_uses(const int64_t *key, const bool *asked, const int64_t *group,
			    int64_t count, int64_t *following, int64_t *out)
{
	for (int64_t end = count, begin; end > 0; end = begin) {
		begin = end - 1;
		while (begin > 0 && group[begin - 1] == group[end - 1])
			begin--;
		for (int64_t i = begin; i < end; i++)
			out[i] = following[key[i]];
		for (int64_t i = begin; i < end; i++)
			following[key[i]] = NEVER; /* stored anew anyway, unless also asked for */
		for (int64_t i = begin; i < end; i++)
			if (asked[i])
				following[key[i]] = group[i];
	}
}

static void push(struct use *heap, int64_t size, struct use use)
{
	int64_t at = size;

	for (; at > 0 && heap[(at - 1) >> 1].next < use.next; at = (at - 1) >> 1)
		heap[at] = heap[(at - 1) >> 1];
	heap[at] = use;
}

/* Take out the latest of `size` entries. */
static void pop(struct use *heap, int64_t size)
{
	struct use last = heap[size - 1];
	int64_t at = 0;

	for (;;) {
		int64_t child = 2 * at + 1;

		if (child + 1 < size - 1 && heap[child + 1].next > heap[child].next)
			child++;
		if (child >= size - 1 || heap[child].next <= last.next)
			break;
		heap[at] = heap[child];
		at = child;
	}
	heap[at] = last;
}

/* The hits of a cache of `room` blocks. `held`: the next use of each key that is kept, -1 of others;
 * `heap`: room for an entry per access. */
KV_EXPORT int64_t kv_optimal_hits(const int64_t *key, const bool *asked, const int64_t *group,
				  const int64_t *next_use, int64_t count, int64_t room,
				  int64_t *held, struct use *heap)
{
	int64_t hits = 0, kept = 0, size = 0;

	for (int64_t begin = 0, end; begin < count; begin = end) {
		for (end = begin; end < count && group[end] == group[begin]; end++)
			hits += asked[end] && held[key[end]] >= 0;
		for (int64_t i = begin; i < end; i++) {
			int64_t before = held[key[i]], after = next_use[i];

			if (after == NEVER) {
				kept -= before >= 0;
				held[key[i]] = -1;
			} else if (before != after) {
				kept += before < 0;
				held[key[i]] = after;
				push(heap, size++, (struct use){after, key[i]});
			}
		}
		while (kept > room) {
			struct use latest = heap[0];

			pop(heap, size--);
			if (held[latest.key] == latest.next) {
				held[latest.key] = -1;
				kept--;
			}
		}
	}
	return hits;
}
