/* Stamps: 16 bytes at the start of each sector that say whose sector it is. */
#include "loop.h"

#include <endian.h>
#include <string.h>
#ifdef __x86_64__
#include <emmintrin.h>
#endif

#define STAMP_BYTES 16u
#define SECTOR_MASK 0x7fffffffu
#define GENERATION_MASK 0x1ffffu

/* sector index (31 bits) | generation (17) | run id (16) */
static inline uint64_t stamp_word(uint32_t sector, uint32_t generation, uint32_t run_id)
{
	return (uint64_t)(sector & SECTOR_MASK) | (uint64_t)(generation & GENERATION_MASK) << 31 |
	       (uint64_t)(run_id & 0xffffu) << 48;
}

/* The bytes go to the device next, not to this CPU: where it can, the stamp is stored past the cache,
 * without fetching a line that nobody will read (measured on cold memory: 4.1 us for 384 KiB instead
 * of 7.3). */
static inline void put_stamp(uint8_t *at, uint64_t key, uint64_t word)
{
#ifdef __x86_64__
	_mm_stream_si64((long long *)at, (long long)key);
	_mm_stream_si64((long long *)(at + 8), (long long)word);
#else
	uint64_t stamp[2] = {htole64(key), htole64(word)};
	memcpy(at, stamp, STAMP_BYTES);
#endif
}

void kv_stamp(uint8_t *data, uint64_t bytes, uint64_t key, uint32_t sector, uint32_t generation,
	      uint32_t run_id)
{
	for (uint64_t at = 0; at < bytes; at += SECTOR_BYTES, sector++)
		put_stamp(data + at, key, stamp_word(sector, generation, run_id));
#ifdef __x86_64__
	_mm_sfence(); /* before the device, or the copier of a memory target, reads it */
#endif
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
