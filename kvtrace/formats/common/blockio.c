/* I/O at offsets as rows of objects: see blockio.py. */
#include "core.h"
#include "../../trace/cell.h"

enum { NONE, MET, WRITTEN, DEAD };

/* What begins at one place. */
struct object {
	int64_t number;     /* the key */
	int64_t length;     /* how far it is known */
	int64_t resident;   /* its entry among the residents while nothing was written (MET) */
	int64_t state;
};

struct resident {
	int64_t number;
	int64_t length;
};

struct kv_block_io {
	struct object *objects;
	int64_t places;                /* of objects */
	struct resident *residents;
	int64_t room;                  /* residents that there is memory for */
	int64_t resident_count;
	int64_t numbers;               /* keys given away so far */
	int64_t dropped;               /* trims that match no object */
};

KV_SIZE(block_io, struct kv_block_io)

static bool trim(struct kv_block_io *io, struct object *object, int64_t *size)
{
	bool whole = (object->state == MET || object->state == WRITTEN) && *size >= object->length;

	if (!whole) {
		io->dropped++;
		return false;
	}
	*size = object->length;
	object->state = DEAD;
	return true;
}

static void write_to(struct kv_block_io *io, struct object *object, int64_t length)
{
	if (object->state == NONE)
		object->number = io->numbers++;
	if (object->state == NONE || object->state == DEAD)
		object->length = 0;
	if (length > object->length)
		object->length = length;
	object->state = WRITTEN;
}

/* A read of what was trimmed, or of more than was written, is of an object that was there all the
 * time and begins at the same place. */
static void read_from(struct kv_block_io *io, struct object *object, int64_t length)
{
	if (object->state == MET) {
		if (length > object->length)
			object->length = length;
		io->residents[object->resident].length = object->length;
	} else if (object->state != WRITTEN || length > object->length) {
		object->number = io->numbers++;
		object->resident = io->resident_count++;
		object->length = length;
		object->state = MET;
		io->residents[object->resident] = (struct resident){object->number, length};
	}
}

/* Fill in keys; `size` of a delete becomes the object's. A trim of less than that isn't kept.
 * Return false at a place that there isn't, or without room for residents. */
KV_EXPORT bool kv_block_io_rows(struct kv_block_io *io, const uint8_t *op, int64_t *size,
				const int32_t *index, int64_t count, uint64_t *keys, bool *kept)
{
	if (count > io->room - io->resident_count)
		return false;
	for (int64_t row = 0; row < count; row++) {
		struct object *object;

		if (index[row] < 0 || index[row] >= io->places)
			return false;
		object = &io->objects[index[row]];
		kept[row] = true;
		if (op[row] == KV_OP_DELETE)
			kept[row] = trim(io, object, &size[row]);
		else if (op[row] == KV_OP_WRITE)
			write_to(io, object, size[row]);
		else
			read_from(io, object, size[row]);
		keys[row] = kept[row] ? (uint64_t)object->number : 0;
	}
	return true;
}
