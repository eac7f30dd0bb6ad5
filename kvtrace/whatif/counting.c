/* Ops and bytes of block events as their objects would make them. */
#include "../trace/cell.h"
#include "core.h"

struct kv_sizes {
	const int64_t *part_bytes; /* a block of n tokens becomes objects of n · part / divisor */
	int64_t parts, divisor, align_bytes;
	int64_t constant_bytes, window_token_bytes, window_tokens, state_align_bytes, state_objects;
};

static int64_t rounded(int64_t bytes, int64_t align)
{
	return (bytes + align - 1) / align * align;
}

/* The bytes of a block's objects, or of a checkpoint's behind -`tokens`. */
KV_EXPORT int64_t kv_object_bytes(const struct kv_sizes *sizes, int64_t tokens)
{
	int64_t total = 0;

	if (tokens < 0) {
		int64_t window = -tokens < sizes->window_tokens ? -tokens : sizes->window_tokens;
		int64_t kept = sizes->constant_bytes + window * sizes->window_token_bytes;

		return sizes->state_objects * rounded(kept, sizes->state_align_bytes);
	}
	for (int64_t i = 0; i < sizes->parts; i++)
		total += rounded(tokens * sizes->part_bytes[i] / sizes->divisor, sizes->align_bytes);
	return total;
}

/* Add events to the ops and bytes of each cell. */
KV_EXPORT void kv_count_events(const struct kv_sizes *sizes, const uint8_t *op, const uint8_t *tier,
			       const uint8_t *phase, const int64_t *tokens, int64_t count,
			       int64_t (*cells)[2])
{
	int64_t last = 0, bytes = kv_object_bytes(sizes, 0);

	for (int64_t i = 0; i < count; i++) {
		int64_t *cell = cells[kv_cell(tier[i], phase[i], op[i])];

		if (tokens[i] != last) {
			last = tokens[i];
			bytes = kv_object_bytes(sizes, last);
		}
		cell[0] += last >= 0 ? sizes->parts : sizes->state_objects;
		if (op[i] != KV_OP_LOOKUP)
			cell[1] += bytes;
	}
}
