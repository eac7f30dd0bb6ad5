/* What Python hands to the library and gets back: plain columns, no CPython. */
#ifndef KV_ABI_H
#define KV_ABI_H

#include <stdint.h>

#define KV_ABI_VERSION 1

enum kv_lane_kind { KV_NULL = 0, KV_MEMORY = 1, KV_FILE = 2 };
enum kv_action { KV_NONE = 0, KV_READ = 1, KV_WRITE = 2 };
enum kv_mode { KV_OPEN = 0, KV_MAX = 1 };
enum kv_verify { KV_VERIFY_NONE = 0, KV_VERIFY_STAMPS = 1, KV_VERIFY_FULL = 2 };
enum kv_engine { KV_URING = 0, KV_THREADS = 1 };

/* Results of an op that are not an errno. */
enum { KV_DEPENDENCY_FAILED = -1, KV_VERIFY_FAILED = -2, KV_INTERRUPTED = -3 };

#define KV_NO_TIME_NS ((int64_t)-1)

/* One executed tier, and what was counted on it. */
struct kv_lane {
	int32_t kind;
	int32_t fd;
	uint32_t queue_depth;
	uint32_t features; /* out: KV_FEATURE_* */
	uint64_t io_bytes;
	uint8_t *pool;
	uint64_t pool_bytes;
	uint64_t retries; /* out, as all that follow */
	uint64_t short_transfers;
	uint64_t bad_sectors;
	uint64_t in_flight_max;
};

/* What a lane obtained from the kernel. */
enum {
	KV_FEATURE_SINGLE_ISSUER = 1 << 0,
	KV_FEATURE_DEFER_TASKRUN = 1 << 1,
	KV_FEATURE_COOP_TASKRUN = 1 << 2,
	KV_FEATURE_FIXED_FILE = 1 << 3,
	KV_FEATURE_FIXED_ARENA = 1 << 4,
	KV_FEATURE_FIXED_READS = 1 << 5,
	KV_FEATURE_HUGE_READS = 1 << 6,
};

/* One engine call. Columns are documented in replay/loop.py. */
struct kv_run {
	uint32_t engine;
	uint32_t mode;
	uint32_t verify;
	uint32_t run_id;
	int64_t spin_ns;
	uint64_t read_buffer_bytes; /* per lane */
	uint8_t *arena;
	uint64_t arena_bytes;
	struct kv_lane *lanes;
	uint64_t lane_count;

	uint64_t op_count;
	const int64_t *due_ns;
	const uint8_t *lane;
	const uint8_t *action;
	const uint64_t *offset_bytes;
	const uint64_t *length_bytes;
	const uint64_t *key;
	const uint32_t *sector;
	const uint32_t *generation;
	const uint64_t *arena_offset_bytes;
	const uint32_t *wait_count;
	const uint64_t *successor_begin;
	const uint32_t *successors;

	int32_t *stop;
	int64_t *completed_ops;
	int64_t *completed_bytes;

	int64_t *ready_ns;
	int64_t *slot_ns;
	int64_t *submit_ns;
	int64_t *complete_ns;
	int32_t *error;
	int64_t *bad_sector;

	int64_t start_ns; /* out, as all that follow */
	int64_t cpu_ns;
	int64_t verify_cpu_ns;
	char message[256];
};

#define KV_EXPORT __attribute__((visibility("default")))

/* Version and struct sizes, compared by the binding before anything else. */
KV_EXPORT uint32_t kv_abi_version(void);
KV_EXPORT uint64_t kv_run_size(void);
KV_EXPORT uint64_t kv_lane_size(void);

/* Run all ops to their end or to *stop. Returns 0, or an errno with the reason in `message`. */
KV_EXPORT int kv_run(struct kv_run *run);

/* Return 0 if io_uring can be used here, else the errno of what was refused. */
KV_EXPORT int kv_uring_available(void);

/* Write a stamp into each 512-byte sector of `data`, the first being `sector` of its object. */
KV_EXPORT void kv_stamp(uint8_t *data, uint64_t bytes, uint64_t key, uint32_t sector,
			uint32_t generation, uint32_t run_id);

/* Compare each sector's stamp (and, with `body`, its other bytes with those at
 * `body[body_offset % body_bytes]`) with what is expected. Returns the first bad sector counted
 * from `data`, or -1; adds the number of bad sectors to `*bad_count`. */
KV_EXPORT int64_t kv_check(const uint8_t *data, uint64_t bytes, uint64_t key, uint32_t sector,
			   uint32_t generation, uint32_t run_id, const uint8_t *body,
			   uint64_t body_bytes, uint64_t body_offset, uint64_t *bad_count);

#endif
