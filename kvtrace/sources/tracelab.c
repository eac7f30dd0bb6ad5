/* Of whom the parts of sessions' contexts are: see tracelab.py. */
#include "core.h"

struct kv_parts {
	int64_t *starts, *owners;
	int64_t depth, next_owner;
};

/* Go on from a context of `before` tokens to one that shares its first `prefix` tokens with it. */
static void go_on(struct kv_parts *parts, int64_t prefix, int64_t before)
{
	int64_t shared = prefix < before ? prefix : before;

	if (shared == before && parts->depth)
		return;
	while (parts->depth && parts->starts[parts->depth - 1] >= shared)
		parts->depth--;
	parts->starts[parts->depth] = shared;
	parts->owners[parts->depth++] = parts->next_owner++;
}

/* Count the parts of each round's context, and put them where `starts` and `owners` are; return how
 * many owners the session of the most has. `whole`: tokens of a round's prompt and answer;
 * `turns`: rounds of each session; `stack`: room for twice the longest session's. */
KV_EXPORT int64_t kv_lineage(const int64_t *prefix, const int64_t *whole, const int64_t *turns,
			     int64_t sessions, int64_t *stack, int64_t room, int64_t *counts,
			     int64_t *starts, int64_t *owners)
{
	int64_t most = 1;

	for (int64_t i = 0; i < sessions; i++) {
		struct kv_parts parts = {stack, stack + room, 0, 0};

		for (int64_t j = 0; j < turns[i]; j++, prefix++, whole++) {
			go_on(&parts, j ? *prefix : 0, j ? whole[-1] : 0);
			*counts++ = parts.depth;
			if (!starts)
				continue;
			memcpy(starts, parts.starts, (size_t)parts.depth * sizeof *starts);
			memcpy(owners, parts.owners, (size_t)parts.depth * sizeof *owners);
			starts += parts.depth;
			owners += parts.depth;
		}
		if (parts.next_owner > most)
			most = parts.next_owner;
	}
	return most;
}
