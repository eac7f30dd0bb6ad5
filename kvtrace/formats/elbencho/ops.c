/* Puts the start and the end of each op of elbencho's log together: see ops.py. */
#include "../common/names.h"
#include "hashmap.h"
#include "xxh3.h"

#define NOWHERE (-1)
#define PRIME 0x9E3779B97F4A7C15ull

/* What a word of the log is: a set of these. */
enum { IS_OPEN = 1, IS_CLOSE = 2, IS_ASYNC = 4, IS_TAKEN = 8 };

struct start {
	int64_t ident;
	int64_t ns;
};

struct kv_log_rows {
	const struct kv_parts *names;
	const uint8_t *kinds;     /* of each of 256 words */
	const int64_t *rank;
	const uint8_t *word;
	const int64_t *offset;
	const int64_t *length;
	const bool *is_finished;
	const bool *is_error;
	const int64_t *ns;
};

struct kv_open {
	int64_t workers;
	int64_t *count;           /* files that each worker has open */
	int64_t *begin;           /* where the name of the last one is, or NOWHERE */
	int64_t *end;
};

KV_SIZE(log_rows, struct kv_log_rows)
KV_SIZE(open, struct kv_open)

/* What tells an op from all others, and from `equal` ones that started before it. */
static int64_t ident_of(uint64_t name, const struct kv_log_rows *rows, int64_t i, int64_t equal)
{
	uint64_t parts[] = {(uint64_t)rows->word[i], (uint64_t)rows->offset[i],
			    (uint64_t)rows->length[i], (uint64_t)equal};
	uint64_t value = (name ^ (uint64_t)rows->rank[i]) * PRIME;

	for (int part = 0; part < 4; part++)
		value = (value ^ value >> 29 ^ parts[part]) * PRIME;
	return (int64_t)(value ^ value >> 32);
}

/* The slot of the last one started of equal ops that run, or KV_MISSING; `ident`: the next one's. */
static int64_t last_started(const struct kv_pool *starts, const struct kv_log_rows *rows, int64_t i,
			    int64_t *ident)
{
	const uint8_t *begin = rows->names->data + rows->names->begin[i];
	uint64_t name = kv_xxh3(begin, (size_t)(rows->names->end[i] - rows->names->begin[i]));
	int64_t slot = KV_MISSING;

	for (int64_t equal = 0;; equal++) {
		int64_t above;

		*ident = ident_of(name, rows, i, equal);
		above = kv_find(&starts->table, *ident);
		if (above == KV_MISSING)
			return slot;
		slot = above;
	}
}

/* Find the ops that end in these lines: their last lines, `over`, and when they began.
 *
 * Of equal ops of one worker that run at once the last one started ends first. One of which the log
 * has the start only is over at once. Returns how many, or NOWHERE − the line of an end without a
 * start, or INT64_MIN if names aren't within their bytes or there isn't room for the starts.
 */
KV_EXPORT int64_t kv_log_pair(struct kv_pool *starts, const struct kv_log_rows *rows,
			      int64_t *left_out, int64_t *over, int64_t *begun)
{
	int64_t ops = 0, ident;

	if (!kv_parts_fit(rows->names) || !kv_has_room(starts, rows->names->count))
		return INT64_MIN;
	for (int64_t i = 0; i < rows->names->count; i++) {
		uint8_t kinds = rows->kinds[rows->word[i]];
		int64_t slot;

		if (!(kinds & IS_TAKEN)) {
			*left_out += rows->is_finished[i];
			continue;
		}
		if (kinds & IS_ASYNC) {
			if (!rows->is_finished[i]) {
				over[ops] = i;
				begun[ops++] = rows->ns[i];
			}
			continue;
		}
		slot = last_started(starts, rows, i, &ident);
		if (!rows->is_finished[i]) {
			slot = kv_take(starts, ident);
			((struct start *)kv_slot(starts, slot))->ns = rows->ns[i];
		} else if (slot == KV_MISSING) {
			return NOWHERE - i;
		} else {
			over[ops] = i;
			begun[ops++] = ((struct start *)kv_slot(starts, slot))->ns;
			kv_give_back(starts, slot);
		}
	}
	return ops;
}

static bool is_number(const uint8_t *at, const uint8_t *end)
{
	if (at == end)
		return false;
	for (; at < end; at++) {
		if (*at < '0' || *at > '9')
			return false;
	}
	return true;
}

/* Replace the number of a descriptor by the file that its worker has open, if that is one; other
 * numbers are descriptors. `begin`, `end`: where the names are. Returns false at a worker that there
 * isn't, and for names that aren't within their bytes.
 */
KV_EXPORT bool kv_log_resolve(struct kv_open *open, const struct kv_log_rows *rows,
			      const int64_t *worker, int64_t *begin, int64_t *end, bool *descriptor)
{
	if (!kv_parts_fit(rows->names))
		return false;
	for (int64_t i = 0; i < rows->names->count; i++) {
		int64_t by = worker[i], name = rows->names->begin[i], behind = rows->names->end[i];
		const uint8_t *data = rows->names->data;
		uint8_t kinds = rows->kinds[rows->word[i]];
		bool done = rows->is_finished[i] && !rows->is_error[i];

		if (by < 0 || by >= open->workers)
			return false;
		if (done && kinds & IS_OPEN) {
			open->count[by]++;
			open->begin[by] = name;
			open->end[by] = behind;
		} else if (done && kinds & IS_CLOSE) {
			open->count[by]--;
		}
		begin[i] = name;
		end[i] = behind;
		descriptor[i] = false;
		if (!is_number(data + name, data + behind))
			continue;
		descriptor[i] = open->count[by] != 1 || open->begin[by] == NOWHERE;
		if (!descriptor[i]) {
			begin[i] = open->begin[by];
			end[i] = open->end[by];
		}
	}
	return true;
}
