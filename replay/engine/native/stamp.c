/* Stamps: 16 bytes at the start of each sector that say whose sector it is. */
#include "loop.h"

#include <endian.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#ifdef __x86_64__
#include <emmintrin.h>
#endif

#define STAMP_BYTES 16u
#define SECTOR_MASK 0x7fffffffu
#define GENERATION_MASK 0x1ffffu
#define PREFETCH_SECTORS 8
#define TRIAL_BYTES (16u << 20)
#define TRIALS 3

/* sector index (31 bits) | generation (17) | run id (16) */
static inline uint64_t stamp_word(uint32_t sector, uint32_t generation, uint32_t run_id)
{
	return (uint64_t)(sector & SECTOR_MASK) | (uint64_t)(generation & GENERATION_MASK) << 31 |
	       (uint64_t)(run_id & 0xffffu) << 48;
}

static void put_stamps(uint8_t *data, uint64_t bytes, uint64_t key, uint32_t sector,
		       uint32_t generation, uint32_t run_id)
{
	for (uint64_t at = 0; at < bytes; at += SECTOR_BYTES, sector++) {
		uint64_t stamp[2] = {htole64(key),
				     htole64(stamp_word(sector, generation, run_id))};
		__builtin_prefetch(data + at + PREFETCH_SECTORS * SECTOR_BYTES, 1);
		memcpy(data + at, stamp, STAMP_BYTES);
	}
}

#ifdef __x86_64__
static void put_stamps_past_cache(uint8_t *data, uint64_t bytes, uint64_t key, uint32_t sector,
				  uint32_t generation, uint32_t run_id)
{
	for (uint64_t at = 0; at < bytes; at += SECTOR_BYTES, sector++) {
		uint64_t word = stamp_word(sector, generation, run_id);
		_mm_stream_si64((long long *)(data + at), (long long)key);
		_mm_stream_si64((long long *)(data + at + 8), (long long)word);
	}
	_mm_sfence(); /* before the device, or the copier of a memory target, reads it */
}

/* The bytes go to the device next, not to this CPU, so that storing past the cache saves fetching
 * lines that nobody reads. Yet of a line it stores a quarter, and there CPUs differ: per sector of
 * cold memory 9.5 ns against 13.2 on a Zen, but 85 against 12 on a Sapphire Rapids. So it is tried. */
static bool past_cache;
static pthread_once_t chosen = PTHREAD_ONCE_INIT;

static int64_t fastest_ns(uint8_t *data, void (*put)(uint8_t *, uint64_t, uint64_t, uint32_t,
						     uint32_t, uint32_t))
{
	int64_t best_ns = INT64_MAX;
	for (uint32_t i = 0; i < TRIALS; i++) {
		int64_t begin_ns = now_ns();
		put(data, TRIAL_BYTES, i, 0, 0, 0);
		best_ns = min_ns(best_ns, now_ns() - begin_ns);
	}
	return best_ns;
}

static void choose(void)
{
	uint8_t *data = malloc(TRIAL_BYTES + PREFETCH_SECTORS * SECTOR_BYTES);
	if (!data)
		return;
	memset(data, 1, TRIAL_BYTES); /* its pages are there */
	past_cache = fastest_ns(data, put_stamps_past_cache) < fastest_ns(data, put_stamps);
	free(data);
}
#endif

void stamp_prepare(void)
{
#ifdef __x86_64__
	pthread_once(&chosen, choose);
#endif
}

void kv_stamp(uint8_t *data, uint64_t bytes, uint64_t key, uint32_t sector, uint32_t generation,
	      uint32_t run_id)
{
#ifdef __x86_64__
	if (past_cache) {
		put_stamps_past_cache(data, bytes, key, sector, generation, run_id);
		return;
	}
#endif
	put_stamps(data, bytes, key, sector, generation, run_id);
}

bool verifies_body(const struct kv_run *run, uint32_t op)
{
	if (run->verify != KV_VERIFY_SAMPLE)
		return run->verify == KV_VERIFY_FULL;
	return mixed((uint64_t)op | (uint64_t)run->run_id << 32) % KV_SAMPLE_ONE_IN == 0;
}

int64_t kv_check(const uint8_t *data, uint64_t bytes, uint64_t key, uint32_t sector,
		 uint32_t generation, uint32_t run_id, const uint8_t *body, uint64_t body_bytes,
		 uint64_t body_offset, uint64_t *bad_count)
{
	int64_t first_bad = -1;
	uint64_t body_at = body ? body_offset % body_bytes : 0;
	for (uint64_t at = 0; at + STAMP_BYTES <= bytes; at += SECTOR_BYTES, sector++) {
		uint64_t here = bytes - at < SECTOR_BYTES ? bytes - at : SECTOR_BYTES;
		uint64_t stamp[2] = {htole64(key), htole64(stamp_word(sector, generation, run_id))};
		__builtin_prefetch(data + at + PREFETCH_SECTORS * SECTOR_BYTES);
		bool good = memcmp(data + at, stamp, STAMP_BYTES) == 0;
		if (body) {
			good = good && memcmp(data + at + STAMP_BYTES, body + body_at + STAMP_BYTES,
					      here - STAMP_BYTES) == 0;
			body_at += SECTOR_BYTES;
			if (body_at == body_bytes)
				body_at = 0;
		}
		if (!good) {
			if (first_bad < 0)
				first_bad = (int64_t)(at / SECTOR_BYTES);
			++*bad_count;
		}
	}
	return first_bad;
}
