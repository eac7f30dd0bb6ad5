/* Cuts lines into words and turns words into numbers: see words.py. */
#include "core.h"

#define WORDS_MAX 14
#define FNV_BASIS 0xCBF29CE484222325ull
#define FNV_PRIME 0x100000001B3ull
#define NUMBER_MAX (((uint64_t)1 << 63) - 1)
#define BAD UINT64_MAX

struct kv_lines {
	int32_t *begin;    /* WORDS_MAX of each line */
	int32_t *end;
	int32_t *count;    /* words of each line */
	int64_t room;      /* lines */
};

/* Words by where they begin and end in `data`. */
struct kv_words {
	const uint8_t *data;
	int64_t size;
	const int32_t *begin;
	const int32_t *end;
	int64_t count;
};

KV_SIZE(lines, struct kv_lines)
KV_SIZE(words, struct kv_words)

static bool is_gap(uint8_t byte, bool commas)
{
	return byte == ' ' || byte == '\t' || byte == '\r' || (commas && byte == ',');
}

/* Fill in where the words of each line are, and how many. Return the number of lines, −1 if there
 * isn't room for them. */
KV_EXPORT int64_t kv_lines_cut(struct kv_lines *lines, const uint8_t *data, int64_t size, bool commas)
{
	int64_t line = 0;
	int32_t words = 0;
	bool inside = false;

	for (int64_t at = 0; at < size; at++) {
		bool ends = data[at] == '\n';

		if (line == lines->room)
			return -1;
		if (ends || is_gap(data[at], commas)) {
			if (inside && words <= WORDS_MAX)
				lines->end[line * WORDS_MAX + words - 1] = (int32_t)at;
			inside = false;
			if (ends) {
				lines->count[line++] = words;
				words = 0;
			}
		} else if (!inside) {
			inside = true;
			if (words < WORDS_MAX)
				lines->begin[line * WORDS_MAX + words] = (int32_t)at;
			words++;
		}
	}
	return line;
}

static bool fit(const struct kv_words *words)
{
	for (int64_t i = 0; i < words->count; i++) {
		if (words->begin[i] < 0 || words->end[i] < words->begin[i] ||
		    words->end[i] > words->size)
			return false;
	}
	return true;
}

static uint64_t number_of(const uint8_t *at, const uint8_t *end)
{
	uint64_t value = 0;

	if (at == end || end - at > 19)
		return BAD;
	for (; at < end; at++) {
		if (*at < '0' || *at > '9')
			return BAD;
		value = value * 10 + (uint64_t)(*at - '0');
	}
	return value <= NUMBER_MAX ? value : BAD;
}

/* Up to 10 digits before a dot, and up to 9 behind it, as nanoseconds. */
static uint64_t seconds_of(const uint8_t *at, const uint8_t *end)
{
	int digits = 0, behind = 0, dots = 0;
	uint64_t value = 0;

	if (at == end || end - at > 20)
		return BAD;
	for (; at < end; at++) {
		if (*at == '.') {
			dots++;
			continue;
		}
		if (*at < '0' || *at > '9')
			return BAD;
		value = value * 10 + (uint64_t)(*at - '0');
		digits++;
		behind += dots;
	}
	if (dots > 1 || behind > 9 || digits - behind < 1 || digits - behind > 10 ||
	    (dots && !behind))
		return BAD;
	for (; behind < 9; behind++)
		value *= 10;
	return value <= NUMBER_MAX ? value : BAD;
}

/* Source: FNV-1a, G. Fowler, L. C. Noll and K.-P. Vo. */
static uint64_t hash_of(const uint8_t *at, const uint8_t *end)
{
	uint64_t value = FNV_BASIS;

	for (; at < end; at++)
		value = (value ^ *at) * FNV_PRIME;
	return value;
}

/* The three loops return false for words that aren't within the bytes. */
KV_EXPORT bool kv_words_numbers(const struct kv_words *words, uint64_t *out)
{
	if (!fit(words))
		return false;
	for (int64_t i = 0; i < words->count; i++)
		out[i] = number_of(words->data + words->begin[i], words->data + words->end[i]);
	return true;
}

KV_EXPORT bool kv_words_seconds(const struct kv_words *words, uint64_t *out)
{
	if (!fit(words))
		return false;
	for (int64_t i = 0; i < words->count; i++)
		out[i] = seconds_of(words->data + words->begin[i], words->data + words->end[i]);
	return true;
}

KV_EXPORT bool kv_words_hashes(const struct kv_words *words, uint64_t *out)
{
	if (!fit(words))
		return false;
	for (int64_t i = 0; i < words->count; i++)
		out[i] = hash_of(words->data + words->begin[i], words->data + words->end[i]);
	return true;
}
