/* Scans lines of JSON that look as their writers print them: see jsonscan.py. */
#include <stdlib.h>

#include "core.h"

#define DEPTH_MAX 16
#define DIGITS_MAX 18
#define U64_CUT (UINT64_MAX / 10)

/* Kinds of wanted fields; a constant is text that each line has. */
enum { OBJECT, NUMBER, DECIMAL, LIST, TEXT, CONSTANT };

struct kv_json {
	const uint8_t *data;
	int64_t size;
	/* Of each wanted field: its name in `names`, the field that it lies in (−1: the line), its
	 * kind, its column, and a constant's text in `texts`. */
	const uint8_t *names, *texts;
	const int64_t *name_ends, *text_ends, *parent, *kind, *column;
	int64_t fields;
	/* Per line: numbers, begin and end of texts, ids of the list, whether all was as expected. */
	int64_t number_columns, text_columns;
	int64_t *numbers, *spans, *counts;
	uint64_t *ids;
	uint64_t *seen; /* which fields a line has, a bit each */
	uint8_t *is_plain;
};

KV_SIZE(json, struct kv_json)

struct kv_scan {
	const struct kv_json *json;
	int64_t at, line, ids;
	uint64_t seen; /* fields that this line has had */
};

static bool value_of(struct kv_scan *scan, int64_t field, int depth);

static int peek(const struct kv_scan *scan)
{
	return scan->at < scan->json->size ? scan->json->data[scan->at] : '\n';
}

static int behind_space(struct kv_scan *scan)
{
	int byte = peek(scan);

	while (byte == ' ' || byte == '\t' || byte == '\r') {
		scan->at++;
		byte = peek(scan);
	}
	return byte;
}

/* Go behind a byte that must come next, after any space. */
static bool take(struct kv_scan *scan, int byte)
{
	if (behind_space(scan) != byte)
		return false;
	scan->at++;
	return true;
}

/* A string without escapes; give where its text begins and ends. */
static bool text(struct kv_scan *scan, int64_t *begin, int64_t *end)
{
	if (!take(scan, '"'))
		return false;
	*begin = scan->at;
	while (peek(scan) != '"') {
		if (peek(scan) < ' ' || peek(scan) == '\\')
			return false;
		scan->at++;
	}
	*end = scan->at++;
	return true;
}

static bool is_digit(int byte)
{
	return byte >= '0' && byte <= '9';
}

/* Digits without a leading zero; false at more than fit into 64 bits. */
static bool digits(struct kv_scan *scan, uint64_t *value)
{
	const uint8_t *begin = scan->json->data + scan->at, *end = scan->json->data + scan->json->size;
	const uint8_t *next = begin;
	uint64_t sum = 0;

	/* So many digits always fit. */
	for (; next < end && next < begin + DIGITS_MAX + 1 && is_digit(*next); next++)
		sum = sum * 10 + (uint64_t)(*next - '0');
	for (; next < end && is_digit(*next); next++) {
		uint64_t digit = (uint64_t)(*next - '0');

		if (sum > U64_CUT || (sum == U64_CUT && digit > UINT64_MAX % 10))
			return false;
		sum = sum * 10 + digit;
	}
	*value = sum;
	scan->at += next - begin;
	return next > begin && (*begin != '0' || next == begin + 1);
}

static bool is_end_of_value(const struct kv_scan *scan)
{
	int byte = peek(scan);

	return byte == ',' || byte == '}' || byte == ']' || byte == ' ' || byte == '\n';
}

/* A number that isn't wanted. */
static bool skip_number(struct kv_scan *scan)
{
	uint64_t value;

	if (peek(scan) == '-')
		scan->at++;
	if (!digits(scan, &value))
		return false;
	if (peek(scan) == '.') {
		scan->at++;
		if (!is_digit(peek(scan)))
			return false;
		while (is_digit(peek(scan)))
			scan->at++;
	}
	return is_end_of_value(scan);
}

static bool skip_word(struct kv_scan *scan)
{
	static const char *const words[] = {"true", "false", "null"};

	for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
		int64_t bytes = (int64_t)strlen(words[i]);

		if (scan->json->size - scan->at >= bytes &&
		    !memcmp(scan->json->data + scan->at, words[i], (size_t)bytes)) {
			scan->at += bytes;
			return is_end_of_value(scan);
		}
	}
	return false;
}

/* The wanted field of `parent` that is called like the text, or −1. */
static int64_t field_of(const struct kv_scan *scan, int64_t parent, int64_t begin, int64_t end)
{
	const struct kv_json *json = scan->json;

	for (int64_t i = 0; i < json->fields; i++) {
		int64_t first = i ? json->name_ends[i - 1] : 0, bytes = json->name_ends[i] - first;

		if (json->parent[i] == parent && bytes == end - begin &&
		    !memcmp(json->names + first, json->data + begin, (size_t)bytes))
			return i;
	}
	return -1;
}

/* An object; `field` is the wanted one that it is, −1 the line, −2 one that isn't wanted. */
static bool object(struct kv_scan *scan, int64_t field, int depth)
{
	int64_t begin, end;

	if (depth > DEPTH_MAX || !take(scan, '{'))
		return false;
	if (behind_space(scan) == '}')
		return take(scan, '}');
	do {
		behind_space(scan);
		if (!text(scan, &begin, &end) || !take(scan, ':'))
			return false;
		behind_space(scan);
		int64_t wanted = field == -2 ? -1 : field_of(scan, field, begin, end);

		if (!value_of(scan, wanted, depth))
			return false;
	} while (behind_space(scan) == ',' && take(scan, ','));
	return take(scan, '}');
}

static bool skip_list(struct kv_scan *scan, int depth)
{
	if (depth > DEPTH_MAX || !take(scan, '['))
		return false;
	if (behind_space(scan) == ']')
		return take(scan, ']');
	do {
		behind_space(scan);
		if (!value_of(scan, -1, depth))
			return false;
	} while (behind_space(scan) == ',' && take(scan, ','));
	return take(scan, ']');
}

static bool list_of_ids(struct kv_scan *scan)
{
	const struct kv_json *json = scan->json;
	int64_t before = scan->ids;

	if (!take(scan, '[') || behind_space(scan) == ']')
		return false;
	do {
		if (peek(scan) == ' ')
			behind_space(scan);
		if (!digits(scan, &json->ids[scan->ids++]))
			return false;
	} while (behind_space(scan) == ',' && take(scan, ','));
	json->counts[scan->line] = scan->ids - before;
	return take(scan, ']');
}

/* The value of a wanted field. */
static bool wanted_value(struct kv_scan *scan, int64_t field, int depth)
{
	const struct kv_json *json = scan->json;
	int64_t begin, end, before = field ? json->text_ends[field - 1] : 0;
	int64_t number = scan->line * json->number_columns + json->column[field];
	int64_t pair = 2 * (scan->line * json->text_columns + json->column[field]);
	double decimal;
	uint64_t value, bit = 1ull << field;

	if (scan->seen & bit)
		return false;
	scan->seen |= bit;
	switch (json->kind[field]) {
	case OBJECT:
		return object(scan, field, depth + 1);
	case NUMBER:
		begin = scan->at;
		if (!digits(scan, &value) || scan->at - begin > DIGITS_MAX || !is_end_of_value(scan))
			return false;
		json->numbers[number] = (int64_t)value;
		return true;
	case DECIMAL:
		begin = scan->at;
		if (!skip_number(scan) || json->data[begin] == '-')
			return false;
		/* Behind the last byte is a zero. */
		decimal = strtod((const char *)json->data + begin, NULL);
		memcpy(&json->numbers[number], &decimal, sizeof decimal);
		return true;
	case LIST:
		return list_of_ids(scan);
	case TEXT:
		return text(scan, &json->spans[pair], &json->spans[pair + 1]);
	default:
		return text(scan, &begin, &end) && end - begin == json->text_ends[field] - before &&
		       !memcmp(json->data + begin, json->texts + before, (size_t)(end - begin));
	}
}

/* Any value; `field` is −1 where it isn't wanted. */
static bool value_of(struct kv_scan *scan, int64_t field, int depth)
{
	int64_t begin, end;

	if (field >= 0)
		return wanted_value(scan, field, depth);
	switch (peek(scan)) {
	case '{':
		return object(scan, -2, depth + 1);
	case '[':
		return skip_list(scan, depth + 1);
	case '"':
		return text(scan, &begin, &end);
	case 't':
	case 'f':
	case 'n':
		return skip_word(scan);
	default:
		return skip_number(scan);
	}
}

/* Scan all lines; return how many ids they have. A line that isn't plain has none. */
KV_EXPORT int64_t kv_scan_json(const struct kv_json *json)
{
	struct kv_scan scan = {json, 0, 0, 0, 0};

	while (scan.at < json->size) {
		int64_t before = scan.ids;

		scan.seen = 0;
		json->is_plain[scan.line] = object(&scan, -1, 0) && behind_space(&scan) == '\n';
		json->seen[scan.line] = scan.seen;
		if (!json->is_plain[scan.line]) {
			scan.ids = before;
			json->counts[scan.line] = 0;
			while (peek(&scan) != '\n')
				scan.at++;
		}
		scan.at++;
		scan.line++;
	}
	return scan.ids;
}
