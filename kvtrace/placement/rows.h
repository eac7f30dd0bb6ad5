/* Rows of a trace; the words' wire values are those of kvtrace/trace/schema.py. */
#ifndef KV_ROWS_H
#define KV_ROWS_H

#include "../native/core.h"

enum kv_row_op { KV_ROW_READ = 0, KV_ROW_WRITE = 1, KV_ROW_DELETE = 2, KV_ROW_LOOKUP = 3 };
enum kv_phase { KV_PREFILL = 0, KV_DECODE = 1, KV_EVICT = 2, KV_PROMOTE = 3 };

#define KV_TIERS 4
#define KV_PHASES 4
#define KV_ROW_OPS 4

/* Tier, phase and op in six bits, as kvtrace/trace/cell.py packs them. */
static inline int kv_cell(int tier, int phase, int op)
{
	return tier << 4 | phase << 2 | op;
}

struct kv_rows {
	const int64_t *timestamp;
	const uint8_t *op;
	const uint64_t *size;
	const uint8_t *tier;
	const uint64_t *key;
	const uint8_t *phase;
	const uint64_t *offset;
	int64_t first_row;
	int64_t count;
};

static inline int64_t kv_row_begin(const struct kv_rows *rows, int64_t row)
{
	return (int64_t)rows->offset[row];
}

static inline int64_t kv_row_end(const struct kv_rows *rows, int64_t row)
{
	return (int64_t)(rows->offset[row] + rows->size[row]);
}

#endif
