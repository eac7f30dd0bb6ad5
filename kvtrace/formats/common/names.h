/* Parts of a byte array that are names. */
#ifndef KV_NAMES_H
#define KV_NAMES_H

#include "core.h"

struct kv_parts {
	const uint8_t *data;
	int64_t size;
	const int64_t *begin;
	const int64_t *end;
	int64_t count;
};

/* Whether all parts lie within the bytes: to be asked once before a loop over them. */
static inline bool kv_parts_fit(const struct kv_parts *parts)
{
	for (int64_t i = 0; i < parts->count; i++) {
		if (parts->begin[i] < 0 || parts->begin[i] > parts->end[i] ||
		    parts->end[i] > parts->size)
			return false;
	}
	return true;
}

#endif
