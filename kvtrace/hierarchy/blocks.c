/* Identities of blocks that are groups of a source's smaller ones. */
#include "core.h"

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
