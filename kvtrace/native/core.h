/* What every C file of the core includes. */
#ifndef KV_CORE_H
#define KV_CORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define KV_EXPORT __attribute__((visibility("default")))

#define KV_MISSING (-1)

/* gcc takes a function that only prefetches for one without effect, and leaves calls of it out. */
#define KV_PREFETCHING static inline __attribute__((always_inline))

/* Export a structure's size: a test holds its face in Python to it. */
#define KV_SIZE(name, type) \
	KV_EXPORT int64_t kv_##name##_size(void) \
	{ \
		return sizeof(type); \
	}

#endif
