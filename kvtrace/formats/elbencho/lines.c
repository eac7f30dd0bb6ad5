/* Scans lines of elbencho's ops log that look as elbencho prints them: see lines.py. */
#include "core.h"

#define MISFIT (-1)
#define OTHER 255
#define DATE_BYTES 28
#define FIRST_YEAR 1970
#define LAST_YEAR 2261
#define SECOND_NS 1000000000ll
#define RANK_MAX ((1ll << 31) - 1)
#define DIGITS_MAX 18

struct kv_log {
	const uint8_t *data;
	int64_t size;
	const uint8_t *words;         /* names of ops, one behind the other */
	const int64_t *word_ends;     /* where each ends */
	int64_t word_count;
	int64_t size_max;             /* largest offset and length that are accepted */
	int64_t room;                 /* rows of each column below */
	int64_t *begin;               /* of the entry's name */
	int64_t *end;
	int64_t *rank;
	uint8_t *word;
	int64_t *offset;
	int64_t *length;
	bool *is_finished;
	bool *is_error;
	int64_t *ns;
	int64_t *op_begin;
	int64_t *op_end;
};

KV_SIZE(log, struct kv_log)

/* Where a fixed text that begins at `at` ends, or MISFIT. */
static int64_t behind(const struct kv_log *log, int64_t at, const char *text)
{
	int64_t bytes = (int64_t)strlen(text);

	if (at < 0 || log->size - at < bytes || memcmp(log->data + at, text, (size_t)bytes))
		return MISFIT;
	return at + bytes;
}

/* Where a number as JSON has it ends, or MISFIT. */
static int64_t number(const struct kv_log *log, int64_t at, int64_t most, int64_t *value)
{
	int64_t begin = at;

	*value = 0;
	if (at < 0)
		return MISFIT;
	while (at < log->size && log->data[at] >= '0' && log->data[at] <= '9' &&
	       at - begin < DIGITS_MAX)
		*value = *value * 10 + (log->data[at++] - '0');
	if (at == begin || (at - begin > 1 && log->data[begin] == '0') || *value > most)
		return MISFIT;
	return at;
}

/* Where the quote behind a string is, or MISFIT if it has what JSON escapes. */
static int64_t string_end(const struct kv_log *log, int64_t at)
{
	if (at < 0)
		return MISFIT;
	for (; at < log->size; at++) {
		uint8_t byte = log->data[at];

		if (byte == '"')
			return at;
		if (byte == '\\' || byte < ' ' || byte > 126)
			return MISFIT;
	}
	return MISFIT;
}

/* Where true or false ends, or MISFIT. */
static int64_t boolean(const struct kv_log *log, int64_t at, bool *value)
{
	*value = behind(log, at, "true") >= 0;
	return behind(log, at, *value ? "true" : "false");
}

static int64_t digits(const uint8_t *at, int count)
{
	int64_t value = 0;

	for (int place = 0; place < count; place++) {
		if (at[place] < '0' || at[place] > '9')
			return MISFIT;
		value = value * 10 + (at[place] - '0');
	}
	return value;
}

/* Days since 1970, or MISFIT for none of the calendar. */
static int64_t days(int64_t year, int64_t month, int64_t day)
{
	static const int before_month[] = {0,   31,  59,  90,  120, 151, 181,
					   212, 243, 273, 304, 334, 365};
	int64_t leaps = year / 4 - year / 100 + year / 400;
	bool is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);

	if (year < FIRST_YEAR || year > LAST_YEAR || month < 1 || month > 12 || day < 1)
		return MISFIT;
	if (day > before_month[month] - before_month[month - 1] + (is_leap && month == 2))
		return MISFIT;
	return 365 * (year - FIRST_YEAR) + leaps - 477 - (is_leap && month <= 2) +
	       before_month[month - 1] + day - 1;
}

/* A date such as 2026-03-01T10:00:00.125+0100 in ns since 1970, or MISFIT. */
static int64_t date_ns(const uint8_t *at)
{
	bool marks = at[4] == '-' && at[7] == '-' && at[10] == 'T' && at[13] == ':' &&
		     at[16] == ':' && at[19] == '.';
	int64_t day = days(digits(at, 4), digits(at + 5, 2), digits(at + 8, 2));
	int64_t hour = digits(at + 11, 2), minute = digits(at + 14, 2);
	int64_t second = digits(at + 17, 2), ms = digits(at + 20, 3);
	int64_t east_hour = digits(at + 24, 2), east_minute = digits(at + 26, 2);
	int64_t seconds, east;

	if (!marks || (at[23] != '+' && at[23] != '-') || day < 0 || ms < 0)
		return MISFIT;
	if (hour < 0 || hour > 23 || minute < 0 || minute > 59 || second < 0 || second > 59)
		return MISFIT;
	if (east_hour < 0 || east_hour > 23 || east_minute < 0 || east_minute > 59)
		return MISFIT;
	seconds = (day * 24 + hour) * 3600 + minute * 60 + second;
	east = east_hour * 3600 + east_minute * 60;
	return (at[23] == '+' ? seconds - east : seconds + east) * SECOND_NS + ms * 1000000;
}

static bool is_word(const struct kv_log *log, int64_t word, const uint8_t *name, int64_t bytes)
{
	int64_t begin = word ? log->word_ends[word - 1] : 0;

	return log->word_ends[word] - begin == bytes &&
	       !memcmp(log->words + begin, name, (size_t)bytes);
}

/* The number of a word, the likely one being tried first. */
static uint8_t word_of(const struct kv_log *log, int64_t begin, int64_t end, uint8_t likely)
{
	const uint8_t *name = log->data + begin;

	if (likely != OTHER && is_word(log, likely, name, end - begin))
		return likely;
	for (int64_t word = 0; word < log->word_count; word++) {
		if (is_word(log, word, name, end - begin))
			return (uint8_t)word;
	}
	return OTHER;
}

/* Fill in a row; return where its line ends, or MISFIT. */
static int64_t scan_line(struct kv_log *log, int64_t at, int64_t row, uint8_t likely)
{
	at = behind(log, at, "{ \"date\": \"");
	if (at < 0 || log->size - at < DATE_BYTES)
		return MISFIT;
	log->ns[row] = date_ns(log->data + at);
	at = behind(log, at + DATE_BYTES, "\", \"worker_rank\": ");
	at = number(log, at, RANK_MAX, &log->rank[row]);
	log->op_begin[row] = behind(log, at, ", \"op_name\": \"");
	at = log->op_end[row] = string_end(log, log->op_begin[row]);
	log->begin[row] = behind(log, at, "\", \"entry_name\": \"");
	log->end[row] = string_end(log, log->begin[row]);
	if (log->ns[row] < 0 || log->end[row] < 0)
		return MISFIT;
	log->word[row] = word_of(log, log->op_begin[row], log->op_end[row], likely);
	at = behind(log, log->end[row], "\", \"offset\": ");
	at = number(log, at, log->size_max, &log->offset[row]);
	at = number(log, behind(log, at, ", \"length\": "), log->size_max, &log->length[row]);
	at = boolean(log, behind(log, at, ", \"is_finished\": "), &log->is_finished[row]);
	at = boolean(log, behind(log, at, ", \"is_error\": "), &log->is_error[row]);
	return behind(log, at, " }");
}

/* Fill in a row per line; return how many there are, or MISFIT at one of another shape. */
KV_EXPORT int64_t kv_log_scan(struct kv_log *log)
{
	uint8_t likely = OTHER;
	int64_t row = 0;

	for (int64_t at = 0; at < log->size; at++, row++) {
		if (row == log->room)
			return MISFIT;
		at = scan_line(log, at, row, likely);
		if (at < 0 || (at < log->size && log->data[at] != '\n'))
			return MISFIT;
		likely = log->word[row];
	}
	return row;
}
