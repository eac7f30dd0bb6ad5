/* Spans of time side by side: see lanes.py. */
#include "core.h"

/* Give each span, in order of its start, the first lane that is free. `free_at`: when each lane is
 * free. Return how many lanes are in use, of which there were `used`; −1: there isn't room. */
KV_EXPORT int64_t kv_lanes(const int64_t *start, const int64_t *end, int64_t count,
			   int64_t *free_at, int64_t room, int64_t used, int64_t *lane)
{
	for (int64_t i = 0; i < count; i++) {
		int64_t at = 0;

		while (at < used && free_at[at] > start[i])
			at++;
		if (at == room)
			return -1;
		if (at == used)
			used++;
		free_at[at] = end[i];
		lane[i] = at;
	}
	return used;
}
