/* Ops and bytes per cell. */
#include "cell.h"
#include "core.h"

/* Add rows to the counts of their cells, whose order is that of a trace's totals. */
KV_EXPORT void kv_count_rows(const uint8_t *op, const uint8_t *tier, const uint8_t *phase,
			     const uint64_t *size, int64_t rows, int64_t *ops, uint64_t *bytes)
{
	for (int64_t i = 0; i < rows; i++) {
		uint32_t cell = kv_cell(tier[i] & 3, phase[i] & 3, op[i] & 3);

		ops[cell]++;
		bytes[cell] += size[i];
	}
}
