/* Pass 1: the lives of objects, row by row; see objects.py. */
#include "keys.h"
#include "rows.h"

/* `written` of an object that was there before the run: all of it. */
#define ORIGINAL_BYTES ((int64_t)1 << 62)
/* A length with its lane: length << LANE_BITS | lane. */
#define LANE_BITS 8
/* Rows whose objects are looked up together. */
#define AT_ONCE 32

enum { UNKNOWN = 0, LIVE = 1, DEAD = 2 };

/* One (key, lane); OBJECT of objects.py. */
struct object {
	int64_t length;
	int64_t written;
	int64_t life;
	int32_t slot;
	uint8_t state;
	uint8_t original;
	uint8_t grown;
};

/* An object that is there before the first row; ORIGINAL of objects.py. */
struct original {
	uint64_t key;
	int64_t length;
	int64_t row;
	int64_t ended;
	uint8_t lane;
	uint8_t initial;
	uint8_t resident;
	uint8_t touched;
	uint8_t deleted;
};

/* Tally of objects.py. */
struct kv_survey {
	uint64_t *entries; /* the table of keys */
	int64_t mask;
	uint64_t *keys;
	int64_t key_count;
	struct object *objects; /* per key and lane */
	int64_t lanes;
	struct original *originals;
	int64_t *cell_ops;
	int64_t *cell_bytes;
	int64_t *lives; /* of the slice at hand, as are the next two */
	int64_t *changes;
	int64_t *grown; /* pairs: life, length with lane */
	int32_t *spare_slots;
	int64_t first_change; /* changes before the slice */
	int64_t change_count; /* in the slice */
	int64_t grown_count;
	int64_t life_count; /* in all, as are those that follow */
	int64_t original_count;
	int64_t slot_count;
	int64_t spare_count;
	int64_t executed;
	int64_t original_reads;
	int64_t beyond_reads;
	int64_t bad_row; /* a read of a deleted object, or -1 */
};

KV_SIZE(rows, struct kv_rows)
KV_SIZE(object, struct object)
KV_SIZE(original, struct original)
KV_SIZE(survey, struct kv_survey)

static int64_t packed(int64_t length, int64_t lane)
{
	return length * (1 << LANE_BITS) + lane;
}

static struct original *new_original(struct kv_survey *survey, struct object *item, uint64_t key,
				     int64_t lane)
{
	struct original *original = &survey->originals[survey->original_count];

	original->key = key;
	original->lane = (uint8_t)lane;
	item->life = -1 - survey->original_count++;
	item->state = LIVE;
	item->original = 1;
	item->written = ORIGINAL_BYTES;
	item->length = 0;
	return original;
}

static struct object *object_of(struct kv_survey *survey, struct kv_keys *keys, uint64_t key,
				int64_t lane)
{
	return &survey->objects[kv_find_or_add(keys, key) * survey->lanes + lane];
}

/* Make objects live that are declared to be there at the start. */
KV_EXPORT void kv_survey_residents(struct kv_survey *survey, const uint64_t *key, const int64_t *lane,
				   const int64_t *size, int64_t count)
{
	struct kv_keys keys =
		kv_keys_of(survey->entries, survey->mask, survey->keys, survey->key_count);

	for (int64_t at = 0; at < count; at++) {
		struct object *item = object_of(survey, &keys, key[at], lane[at]);

		if (item->state == UNKNOWN)
			new_original(survey, item, key[at], lane[at])->resident = 1;
		if (item->length < size[at])
			item->length = size[at];
	}
	survey->key_count = keys.count;
}

static void note_change(struct kv_survey *survey, int64_t change)
{
	survey->changes[survey->change_count++] = change;
}

static void begin_life(struct kv_survey *survey, struct object *item, int64_t end, int64_t lane,
		       int64_t first_life)
{
	if (survey->spare_count > 0)
		item->slot = survey->spare_slots[--survey->spare_count];
	else
		item->slot = (int32_t)survey->slot_count++;
	item->state = LIVE;
	item->life = survey->life_count++;
	item->length = end;
	item->written = 0;
	item->original = 0;
	item->grown = 0;
	survey->lives[item->life - first_life] = packed(end, lane);
	note_change(survey, 2 * (int64_t)item->slot);
}

static void end_life(struct kv_survey *survey, struct object *item, int64_t lane)
{
	item->state = DEAD;
	if (item->life < 0) {
		struct original *original = &survey->originals[-1 - item->life];

		original->length = item->length;
		original->ended = survey->first_change + survey->change_count;
		note_change(survey, item->life - 1);
		return;
	}
	if (item->grown) {
		int64_t *pair = &survey->grown[2 * survey->grown_count++];

		pair[0] = item->life;
		pair[1] = packed(item->length, lane);
	}
	survey->spare_slots[survey->spare_count++] = item->slot;
	note_change(survey, 2 * (int64_t)item->slot + 1);
}

static void note_write(struct object *item, int64_t begin, int64_t end)
{
	if (begin == 0 && end == item->length)
		item->original = 0;
	if (item->written < end)
		item->written = end;
}

/* Note what a row does to an object that is live by now. */
static void touch(struct kv_survey *survey, struct object *item, int what, int64_t lane,
		  int64_t begin, int64_t end)
{
	if (end > item->length) {
		item->length = end;
		item->grown = 1;
	}
	if (item->life < 0)
		survey->originals[-1 - item->life].touched = 1;
	if (what == KV_ROW_WRITE) {
		note_write(item, begin, end);
	} else if (what == KV_ROW_READ) {
		survey->original_reads += item->original;
		survey->beyond_reads += item->written < end;
	} else {
		end_life(survey, item, lane);
	}
}

/* Take a row that isn't a lookup; return false where it reads what was deleted. */
static bool take_row(struct kv_survey *survey, struct object *item, const struct kv_rows *rows,
		     int64_t row, int64_t lane, int64_t first_life)
{
	int what = rows->op[row];
	int64_t begin = kv_row_begin(rows, row), end = kv_row_end(rows, row);

	if (what == KV_ROW_WRITE && item->state != LIVE) {
		begin_life(survey, item, end, lane, first_life);
	} else if (what != KV_ROW_WRITE && item->state == UNKNOWN) {
		struct original *original = new_original(survey, item, rows->key[row], lane);

		original->initial = 1;
		original->row = rows->first_row + row;
		original->deleted = what == KV_ROW_DELETE;
	} else if (item->state == DEAD) {
		return what != KV_ROW_READ;
	}
	touch(survey, item, what, lane, begin, end);
	return true;
}

static void count_row(struct kv_survey *survey, const struct kv_rows *rows, int64_t row)
{
	int cell = kv_cell(rows->tier[row], rows->phase[row], rows->op[row]);

	survey->cell_ops[cell]++;
	survey->cell_bytes[cell] += (int64_t)rows->size[row];
}

/* Find the objects that some rows are about, NULL for those that are about none; the objects are
 * asked for meanwhile. */
static void find_objects(struct kv_survey *survey, struct kv_keys *keys, const struct kv_rows *rows,
			 const int8_t *lane_of_tier, int64_t begin, int64_t end,
			 struct object **items)
{
	for (int64_t row = begin; row < end; row++) {
		int lane = lane_of_tier[rows->tier[row]];
		struct object *item = NULL;

		if (row + KV_KEYS_AHEAD < rows->count)
			kv_keys_prefetch(keys, rows->key[row + KV_KEYS_AHEAD]);
		if (lane >= 0 && rows->op[row] != KV_ROW_LOOKUP)
			item = object_of(survey, keys, rows->key[row], lane);
		__builtin_prefetch(item, 1);
		items[row - begin] = item;
	}
}

/* Take a slice of rows; `lives`, `changes` and `grown` are filled from their start. Ends early at a
 * read of a deleted object, its row in `bad_row`. */
KV_EXPORT void kv_survey_rows(struct kv_survey *survey, const struct kv_rows *rows,
			      const int8_t *lane_of_tier)
{
	struct kv_keys keys =
		kv_keys_of(survey->entries, survey->mask, survey->keys, survey->key_count);
	struct object *items[AT_ONCE];
	int64_t first_life = survey->life_count, end = 0;

	for (int64_t row = 0; row < rows->count && survey->bad_row < 0; row++) {
		int lane = lane_of_tier[rows->tier[row]];

		if (row == end) {
			end = row + AT_ONCE < rows->count ? row + AT_ONCE : rows->count;
			find_objects(survey, &keys, rows, lane_of_tier, row, end, items);
		}
		count_row(survey, rows, row);
		survey->executed += lane >= 0;
		struct object *item = items[row % AT_ONCE];

		if (item && !take_row(survey, item, rows, row, lane, first_life))
			survey->bad_row = row;
	}
	survey->key_count = keys.count;
}
