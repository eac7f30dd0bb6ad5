/* Columns of struct kv_run, documented in replay/ops/columns.py: `make bless` writes this file
 * from there. */
#define KV_OP_COLUMNS \
	int64_t *due_ns; \
	const uint8_t *lane; \
	const uint8_t *action; \
	const uint64_t *offset_bytes; \
	const uint32_t *length_sectors; \
	const uint32_t *pad_bytes; \
	const uint64_t *key; \
	const uint32_t *sector; \
	const uint32_t *generation; \
	const uint64_t *arena_bytes; \
	const uint32_t *edge_begin; \
	const uint16_t *wait_count; \
	const uint32_t *edges; \
	const uint32_t *clock; \
	const uint64_t *extents;

#define KV_TIME_COLUMNS \
	int64_t *ready_ns; \
	int64_t *slot_ns; \
	int64_t *submit_ns; \
	int64_t *complete_ns; \
	int32_t *error; \
	int64_t *bad_sector; \
	uint64_t *state;

/* All columns of ops, as the planner writes them. */
#define KV_PLAN_COLUMNS \
	int64_t *due_ns; \
	uint8_t *lane; \
	uint8_t *action; \
	uint8_t *cell; \
	uint64_t *offset_bytes; \
	uint32_t *length_sectors; \
	uint32_t *pad_bytes; \
	uint64_t *key; \
	uint32_t *sector; \
	uint32_t *generation; \
	uint64_t *arena_bytes; \
	uint32_t *edge_begin; \
	uint16_t *wait_count; \
	uint32_t *edges; \
	uint32_t *clock; \
	uint64_t *extents;
