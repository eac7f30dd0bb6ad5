/* What Python hands to the library and gets back: plain columns, no CPython. */
#ifndef KV_ABI_H
#define KV_ABI_H

#include "columns.h"
#include "core.h"

#define KV_ABI_VERSION 9

enum kv_lane_kind {
	KV_NULL = 0,
	KV_MEMORY = 1,
	KV_FILE = 2,
	KV_DIR = 3,
	KV_EXTERNAL = 4,
	KV_SIMULATED = 5
};
enum kv_action { KV_NONE = 0, KV_READ = 1, KV_WRITE = 2, KV_DELETE = 3, KV_GATE = 4 };
enum kv_mode { KV_OPEN = 0, KV_MAX = 1, KV_CLOSED = 2 };
enum kv_verify {
	KV_VERIFY_NONE = 0,
	KV_VERIFY_STAMPS = 1,
	KV_VERIFY_FULL = 2,
	KV_VERIFY_SAMPLE = 3
};
enum kv_engine { KV_URING = 0, KV_THREADS = 1 };
enum kv_fsync { KV_FSYNC_NONE = 0, KV_FSYNC_FILE = 1, KV_FSYNC_DIR = 2 };

/* Results of an op that are not an errno. */
enum { KV_DEPENDENCY_FAILED = -1, KV_VERIFY_FAILED = -2, KV_INTERRUPTED = -3 };

/* Low half of an op's state; the high half is its number. */
#define KV_NO_WAITER 0xffffffffu
#define KV_FINISHED 0xfffffffeu
#define KV_FAILED 0xfffffffdu

/* KV_VERIFY_SAMPLE compares every byte of one read in 128. */
#define KV_SAMPLE_ONE_IN 128

#define KV_NO_TIME_NS ((int64_t)-1)
#define KV_GATING 0x80000000u
#define KV_NO_CLOCK 0x7fffffffu
#define KV_DIVIDED (1ull << 63) /* in an op's offset: the rest is its first pair of `extents` */

/* Latencies of single I/Os: size class floor(log2(bytes)), then a log-linear bucket with
 * 2^KV_IO_BITS parts per power of two (replay/measure/histogram.py, COARSE_BITS). */
#define KV_IO_SIZE_CLASSES 32
#define KV_IO_BITS 5
#define KV_IO_BUCKETS ((1 << KV_IO_BITS) * (64 - KV_IO_BITS))

/* One loop thread, and what was counted on it. Fields are documented in replay/ops/contract.py. */
struct kv_lane {
	int32_t kind;
	int32_t fd;
	uint32_t queue_depth;
	uint32_t features; /* out: KV_FEATURE_* */
	uint64_t io_bytes;
	uint64_t longest_bytes;
	uint8_t *pool;
	uint64_t pool_bytes;
	void *mailbox;
	uint32_t trim_bytes;
	uint32_t fsync;
	const int64_t *script_delay_ns;
	const int64_t *script_result;
	uint64_t script_count;
	uint64_t script_channels;
	int64_t stall_begin_ns;
	int64_t stall_end_ns;
	uint64_t begin_bytes; /* no op of the lane reaches outside of [begin, end) */
	uint64_t end_bytes;
	int64_t *io_counts; /* KV_IO_SIZE_CLASSES x KV_IO_BUCKETS, or NULL */
	uint64_t retries;   /* out, as all that follow */
	uint64_t short_transfers;
	uint64_t bad_sectors;
	uint64_t in_flight_max;
	uint64_t in_flight_ns; /* summed over I/Os, from submit to completion */
	uint64_t planner_stalls;
	uint64_t payload_stalls;
	uint64_t enter_calls;
	uint64_t timed_submits;
	uint64_t timed_submit_ns;
	uint64_t checked_bytes;
	uint64_t body_bytes;
	uint64_t body_reads;
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

/* One engine call. */
struct kv_run {
	uint32_t engine;
	uint32_t mode;
	uint32_t verify;
	uint32_t run_id;
	int64_t spin_ns;
	uint64_t read_buffer_bytes; /* per lane */
	uint8_t *arena;
	uint64_t arena_size_bytes;
	const uint64_t *filled_bytes; /* or NULL */
	uint32_t stamp;
	uint32_t virtual_time;
	uint32_t spin_adapts;
	uint32_t reserved;
	struct kv_lane *lanes;
	uint64_t lane_count;

	uint64_t capacity; /* powers of two */
	uint64_t edge_capacity;
	KV_OP_COLUMNS
	uint64_t extent_words; /* two per pair, a power of two */
	uint64_t clock_count; /* 0, and `clock` NULL, unless closed */

	const int32_t *stop; /* this and all that follow up to start_ns are shared while it runs */
	const uint64_t *planned;
	const uint64_t *drained;
	const int32_t *final;
	int64_t *started_ns;
	int64_t *completed_ops;
	int64_t *completed_bytes;

	KV_TIME_COLUMNS

	int64_t start_ns; /* out, as all that follow */
	int64_t cpu_ns;
	int64_t verify_cpu_ns;
	char message[256];
};

/* What an EXTERNAL lane asks of whoever empties its mailbox: a read or write of `bytes` at `data`, a
 * delete, or to know of memory that jobs will refer to (KV_JOB_MEMORY) or no longer (KV_JOB_FORGET). */
enum { KV_JOB_MEMORY = 16, KV_JOB_FORGET = 17 };

struct kv_job {
	uint64_t piece; /* names it in kv_mailbox_done */
	uint64_t key;
	uint64_t offset;
	uint64_t bytes;
	uint8_t *data;
	uint64_t action;
};

struct kv_mailbox;

/* A lane's trial of polling: see polling.c. Begins as zeros. */
struct kv_polling {
	int64_t until_ns;
	int64_t since_ns;
	uint64_t since_bytes;
	uint64_t gained[2]; /* bytes per millisecond, summed over turns: not polling, polling */
	uint64_t seen_bytes; /* moved when the turn's time was over */
	uint32_t turn; /* of the trial, from 1 on; 0: between trials */
	bool on;
	bool ending; /* its time is over: it ends with the next completion */
};


/* Version and struct sizes, compared by the binding before anything else. */
KV_EXPORT uint32_t kv_abi_version(void);
KV_EXPORT uint64_t kv_run_size(void);
KV_EXPORT uint64_t kv_lane_size(void);

/* Run all ops to their end or to *stop. Returns 0, or an errno with the reason in `message`. */
KV_EXPORT int kv_run(struct kv_run *run);

/* A mailbox for so many jobs (a power of two), or NULL. Lanes may share one. */
KV_EXPORT struct kv_mailbox *kv_mailbox_new(uint32_t capacity);
/* Let every job that nobody has taken, and all that come, fail with ECANCELED. */
KV_EXPORT void kv_mailbox_close(struct kv_mailbox *mailbox);
/* No lane may use it any more. */
KV_EXPORT void kv_mailbox_free(struct kv_mailbox *mailbox);
/* Take the oldest job. Returns 1, 0 if none came in time, -1 if the mailbox is closed. */
KV_EXPORT int kv_mailbox_take(struct kv_mailbox *mailbox, struct kv_job *job, int64_t timeout_ns);
/* Say what came of a job that was taken: bytes or -errno. Returns EINVAL if there is no such job. */
KV_EXPORT int kv_mailbox_done(struct kv_mailbox *mailbox, uint64_t piece, int64_t result,
			      int64_t submit_ns, int64_t complete_ns);
KV_EXPORT uint64_t kv_job_size(void);

/* Store after everything that was stored before: for `planned` and `drained`, and for `final`. */
KV_EXPORT void kv_publish(uint64_t *counter, uint64_t value);
KV_EXPORT void kv_publish_flag(int32_t *flag, int32_t value);

/* Return 0 if io_uring can be used here, else the errno of what was refused. */
KV_EXPORT int kv_uring_available(void);

/* Whether to poll now, after `moved_bytes` since the run began. A function of its arguments alone, so
 * that tests can be the device. */
KV_EXPORT bool kv_polling_pays(struct kv_polling *polling, int64_t now_ns, uint64_t moved_bytes);

/* Write a stamp into each 512-byte sector of `data`, the first being `sector` of its object. */
KV_EXPORT void kv_stamp(uint8_t *data, uint64_t bytes, uint64_t key, uint32_t sector,
			uint32_t generation, uint32_t run_id);

/* Compare each sector's stamp (and, with `body`, its other bytes with those at
 * `body[body_offset % body_bytes]`) with what is expected; of a last sector that is cut, what is
 * there, if that is its stamp at least. Returns the first bad sector counted
 * from `data`, or -1; adds the number of bad sectors to `*bad_count`. */
KV_EXPORT int64_t kv_check(const uint8_t *data, uint64_t bytes, uint64_t key, uint32_t sector,
			   uint32_t generation, uint32_t run_id, const uint8_t *body,
			   uint64_t body_bytes, uint64_t body_offset, uint64_t *bad_count);

#endif
