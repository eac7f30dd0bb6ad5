/* Deletes that a log doesn't have, of what no longer fits: see capacity.py. */
#include "core.h"
#include "../../trace/cell.h"

enum { UNKNOWN, LIVE, DEAD };
enum { FINE, DEAD_READ, TOO_LARGE, NOT_THERE };

/* An object in a ring in order of use, entry 0 being its end: indices of its neighbours. */
struct object {
	uint64_t key;
	int64_t size;
	int64_t before;
	int64_t after;
	int64_t state;
};

struct kv_capacity {
	struct object *objects;
	int64_t entries;       /* of objects */
	int64_t capacity;
	int64_t used;
	int64_t deleted;
	int64_t live;
	int64_t status;        /* why the last call stopped */
	int64_t row;           /* and where */
};

struct kv_deletes {
	int64_t *row;          /* before which each goes */
	uint64_t *key;
	uint64_t *size;
	int64_t room;
};

KV_SIZE(capacity, struct kv_capacity)
KV_SIZE(deletes, struct kv_deletes)

static void unlink_object(struct object *objects, int64_t at)
{
	objects[objects[at].before].after = objects[at].after;
	objects[objects[at].after].before = objects[at].before;
}

static void append(struct object *objects, int64_t at)
{
	int64_t last = objects[0].before;

	objects[at].before = last;
	objects[at].after = 0;
	objects[last].after = at;
	objects[0].before = at;
}

/* Delete the object that wasn't used longest; return whether there is one. */
static bool delete_oldest(struct kv_capacity *tier, struct kv_deletes *deletes, int64_t count,
			  int64_t row)
{
	int64_t oldest = tier->objects[0].after;
	struct object *object = &tier->objects[oldest];

	if (!oldest || count == deletes->room)
		return false;
	unlink_object(tier->objects, oldest);
	object->state = DEAD;
	tier->used -= object->size;
	tier->deleted++;
	tier->live--;
	deletes->row[count] = row;
	deletes->key[count] = object->key;
	deletes->size[count] = (uint64_t)object->size;
	return true;
}

static int64_t stopped(struct kv_capacity *tier, int64_t count, int status, int64_t row)
{
	tier->status = status;
	tier->row = row;
	return count;
}

/* Fill in what must go before each row; return how many. Sizes are those of a trace: below 2^41. */
KV_EXPORT int64_t kv_capacity_use(struct kv_capacity *tier, const uint8_t *op, const uint64_t *size,
				  const uint64_t *key, const int32_t *index, int64_t rows,
				  struct kv_deletes *deletes)
{
	int64_t count = 0;

	for (int64_t row = 0; row < rows; row++) {
		int64_t at = (int64_t)index[row] + 1;
		int64_t length = (int64_t)size[row];
		struct object *object;

		if (at < 1 || at >= tier->entries)
			return stopped(tier, count, NOT_THERE, row);
		object = &tier->objects[at];
		if (op[row] == KV_OP_READ && object->state == DEAD)
			return stopped(tier, count, DEAD_READ, row);
		if (object->state == LIVE) {
			unlink_object(tier->objects, at);
			if (length < object->size)
				length = object->size;
			tier->used -= object->size;
		} else {
			object->key = key[row];
			tier->live++;
		}
		while (tier->used > tier->capacity - length) {
			if (!delete_oldest(tier, deletes, count, row))
				return stopped(tier, count, TOO_LARGE, row);
			count++;
		}
		object->size = length;
		object->state = LIVE;
		tier->used += length;
		append(tier->objects, at);
	}
	return stopped(tier, count, FINE, 0);
}
