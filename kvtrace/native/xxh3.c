/* XXH3's 64-bit hash: see xxh3.h. Bytes are read lowest first, whatever the machine's order. */
#include "xxh3.h"

#define P32_1 0x9E3779B1ull
#define P32_2 0x85EBCA77ull
#define P32_3 0xC2B2AE3Dull
#define P1 0x9E3779B185EBCA87ull
#define P2 0xC2B2AE3D27D4EB4Full
#define P3 0x165667B19E3779F9ull
#define P4 0x85EBCA77C2B2AE63ull
#define P5 0x27D4EB2F165667C5ull
#define PRIME_MX1 0x165667919E3779F9ull
#define PRIME_MX2 0x9FB21C651E98DF25ull

#define LANES 8
#define STRIPE 64
#define BLOCK_STRIPES 16

static const uint8_t secret[192] = {
	0xb8, 0xfe, 0x6c, 0x39, 0x23, 0xa4, 0x4b, 0xbe, 0x7c, 0x01, 0x81, 0x2c,
	0xf7, 0x21, 0xad, 0x1c, 0xde, 0xd4, 0x6d, 0xe9, 0x83, 0x90, 0x97, 0xdb,
	0x72, 0x40, 0xa4, 0xa4, 0xb7, 0xb3, 0x67, 0x1f, 0xcb, 0x79, 0xe6, 0x4e,
	0xcc, 0xc0, 0xe5, 0x78, 0x82, 0x5a, 0xd0, 0x7d, 0xcc, 0xff, 0x72, 0x21,
	0xb8, 0x08, 0x46, 0x74, 0xf7, 0x43, 0x24, 0x8e, 0xe0, 0x35, 0x90, 0xe6,
	0x81, 0x3a, 0x26, 0x4c, 0x3c, 0x28, 0x52, 0xbb, 0x91, 0xc3, 0x00, 0xcb,
	0x88, 0xd0, 0x65, 0x8b, 0x1b, 0x53, 0x2e, 0xa3, 0x71, 0x64, 0x48, 0x97,
	0xa2, 0x0d, 0xf9, 0x4e, 0x38, 0x19, 0xef, 0x46, 0xa9, 0xde, 0xac, 0xd8,
	0xa8, 0xfa, 0x76, 0x3f, 0xe3, 0x9c, 0x34, 0x3f, 0xf9, 0xdc, 0xbb, 0xc7,
	0xc7, 0x0b, 0x4f, 0x1d, 0x8a, 0x51, 0xe0, 0x4b, 0xcd, 0xb4, 0x59, 0x31,
	0xc8, 0x9f, 0x7e, 0xc9, 0xd9, 0x78, 0x73, 0x64, 0xea, 0xc5, 0xac, 0x83,
	0x34, 0xd3, 0xeb, 0xc3, 0xc5, 0x81, 0xa0, 0xff, 0xfa, 0x13, 0x63, 0xeb,
	0x17, 0x0d, 0xdd, 0x51, 0xb7, 0xf0, 0xda, 0x49, 0xd3, 0x16, 0x55, 0x26,
	0x29, 0xd4, 0x68, 0x9e, 0x2b, 0x16, 0xbe, 0x58, 0x7d, 0x47, 0xa1, 0xfc,
	0x8f, 0xf8, 0xb8, 0xd1, 0x7a, 0xd0, 0x31, 0xce, 0x45, 0xcb, 0x3a, 0x8f,
	0x95, 0x16, 0x04, 0x28, 0xaf, 0xd7, 0xfb, 0xca, 0xbb, 0x4b, 0x40, 0x7e,
};

static uint64_t u64_at(const uint8_t *data)
{
	uint64_t value;

	memcpy(&value, data, sizeof value);
	return __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__ ? __builtin_bswap64(value) : value;
}

static uint64_t u32_at(const uint8_t *data)
{
	uint32_t value;

	memcpy(&value, data, sizeof value);
	return __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__ ? __builtin_bswap32(value) : value;
}

static uint64_t rotated(uint64_t value, int bits)
{
	return value << bits | value >> (64 - bits);
}

/* The halves of the product of 128 bits, one xor the other. */
static uint64_t folded(uint64_t one, uint64_t other)
{
	__extension__ typedef unsigned __int128 wide;
	wide product = (wide)one * other;

	return (uint64_t)product ^ (uint64_t)(product >> 64);
}

static uint64_t mixed(const uint8_t *data, const uint8_t *key)
{
	return folded(u64_at(data) ^ u64_at(key), u64_at(data + 8) ^ u64_at(key + 8));
}

static uint64_t avalanche(uint64_t value)
{
	value = (value ^ value >> 37) * PRIME_MX1;
	return value ^ value >> 32;
}

static uint64_t avalanche_64(uint64_t value)
{
	value = (value ^ value >> 33) * P2;
	value = (value ^ value >> 29) * P3;
	return value ^ value >> 32;
}

static uint64_t up_to_16(const uint8_t *data, size_t length)
{
	uint64_t value;

	if (length > 8) {
		uint64_t low = u64_at(data) ^ u64_at(secret + 24) ^ u64_at(secret + 32);
		uint64_t high = u64_at(data + length - 8) ^ u64_at(secret + 40) ^ u64_at(secret + 48);

		return avalanche(length + __builtin_bswap64(low) + high + folded(low, high));
	}
	if (length >= 4) {
		value = u32_at(data + length - 4) + (u32_at(data) << 32);
		value ^= u64_at(secret + 8) ^ u64_at(secret + 16);
		value ^= rotated(value, 49) ^ rotated(value, 24);
		value *= PRIME_MX2;
		value = (value ^ ((value >> 35) + length)) * PRIME_MX2;
		return value ^ value >> 28;
	}
	if (!length)
		return avalanche_64(u64_at(secret + 56) ^ u64_at(secret + 64));
	value = (uint64_t)data[0] << 16 | (uint64_t)data[length >> 1] << 24;
	value |= (uint64_t)data[length - 1] | (uint64_t)length << 8;
	return avalanche_64(value ^ u32_at(secret) ^ u32_at(secret + 4));
}

static uint64_t up_to_240(const uint8_t *data, size_t length)
{
	const uint8_t *last = data + length - 16;
	uint64_t total = length * P1;

	if (length <= 128) {
		for (size_t pair = (length - 1) / 32 + 1; pair-- > 0;) {
			total += mixed(data + 16 * pair, secret + 32 * pair);
			total += mixed(last - 16 * pair, secret + 32 * pair + 16);
		}
		return avalanche(total);
	}
	for (size_t part = 0; part < 8; part++)
		total += mixed(data + 16 * part, secret + 16 * part);
	total = avalanche(total);
	for (size_t part = 8; part < length / 16; part++)
		total += mixed(data + 16 * part, secret + 16 * (part - 8) + 3);
	return avalanche(total + mixed(last, secret + 119));
}

static void take_stripe(const uint8_t *data, const uint8_t *key, uint64_t *lanes)
{
	for (int lane = 0; lane < LANES; lane++) {
		uint64_t value = u64_at(data + 8 * lane);
		uint64_t keyed = value ^ u64_at(key + 8 * lane);

		lanes[lane ^ 1] += value;
		lanes[lane] += (keyed & 0xFFFFFFFF) * (keyed >> 32);
	}
}

static uint64_t longer(const uint8_t *data, size_t length)
{
	uint64_t lanes[LANES] = {P32_3, P1, P2, P3, P4, P32_2, P5, P32_1};
	uint64_t total = length * P1;

	for (size_t stripe = 0; stripe < (length - 1) / STRIPE; stripe++) {
		size_t within = stripe % BLOCK_STRIPES;

		take_stripe(data + stripe * STRIPE, secret + 8 * within, lanes);
		if (within < BLOCK_STRIPES - 1)
			continue;
		for (int lane = 0; lane < LANES; lane++) {
			uint64_t value = lanes[lane] ^ lanes[lane] >> 47;

			lanes[lane] = (value ^ u64_at(secret + 128 + 8 * lane)) * P32_1;
		}
	}
	take_stripe(data + length - STRIPE, secret + 121, lanes);
	for (int pair = 0; pair < LANES; pair += 2)
		total += folded(lanes[pair] ^ u64_at(secret + 11 + 8 * pair),
				lanes[pair + 1] ^ u64_at(secret + 19 + 8 * pair));
	return avalanche(total);
}

uint64_t kv_xxh3(const uint8_t *data, size_t length)
{
	if (length <= 16)
		return up_to_16(data, length);
	return length <= 240 ? up_to_240(data, length) : longer(data, length);
}

/* The hash of each part of `data`; return false at one that isn't within it. */
KV_EXPORT bool kv_xxh3_parts(const uint8_t *data, int64_t size, const int64_t *begin,
			     const int64_t *end, int64_t count, uint64_t *out)
{
	for (int64_t i = 0; i < count; i++) {
		if (begin[i] < 0 || begin[i] > end[i] || end[i] > size)
			return false;
		out[i] = kv_xxh3(data + begin[i], (size_t)(end[i] - begin[i]));
	}
	return true;
}
