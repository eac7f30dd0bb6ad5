/* Tier, phase and op in six bits: cell.py has the rules, schema.py the wire values. */
#ifndef KV_CELL_H
#define KV_CELL_H

#include <stdint.h>

enum kv_op { KV_OP_READ, KV_OP_WRITE, KV_OP_DELETE, KV_OP_LOOKUP };
enum kv_tier_number { KV_GPU, KV_CPU, KV_NVME, KV_OBJECT, KV_TIERS };
enum kv_phase { KV_PREFILL, KV_DECODE, KV_EVICT, KV_PROMOTE };

#define KV_CELLS 64

static inline uint32_t kv_cell(uint32_t tier, uint32_t phase, uint32_t op)
{
	return tier << 4 | phase << 2 | op;
}

static inline uint32_t kv_cell_tier(uint32_t cell) { return cell >> 4 & 3; }
static inline uint32_t kv_cell_phase(uint32_t cell) { return cell >> 2 & 3; }
static inline uint32_t kv_cell_op(uint32_t cell) { return cell & 3; }

#endif
