/* Objects as a foreign log shows them: see objects.py. */
#include "hashmap.h"
#include "../../trace/cell.h"

enum { FREE, READ_ONLY, WRITTEN, DEAD };

/* READ_ONLY: as long as only reads tell how long it is. */
struct object {
	int64_t key;
	int64_t size;
	int64_t state;
	int64_t at_start;   /* bytes that it had at the start of the log; 0: it wasn't there */
};

struct kv_log_ops {
	const uint8_t *op;
	const int64_t *key;
	int64_t *size;        /* deletes get that of their object */
	const int64_t *end;
	bool *kept;           /* false for rows that can't be */
};

KV_SIZE(log_ops, struct kv_log_ops)

static void enter(struct kv_pool *pool, int64_t key, int64_t state, int64_t size)
{
	struct object *object = kv_slot(pool, kv_take(pool, key));

	object->state = state;
	object->size = size;
	object->at_start = state == READ_ONLY ? size : 0;
}

static void first_op(struct kv_pool *pool, const struct kv_log_ops *rows, int64_t i)
{
	if (rows->op[i] == KV_OP_DELETE)
		rows->kept[i] = false;
	else
		enter(pool, rows->key[i], rows->op[i] == KV_OP_READ ? READ_ONLY : WRITTEN,
		      rows->end[i]);
}

static void next_op(struct object *object, const struct kv_log_ops *rows, int64_t i)
{
	if (rows->op[i] == KV_OP_WRITE) {
		if (object->state == DEAD || rows->end[i] > object->size)
			object->size = rows->end[i] > 0 ? rows->end[i] : 0;
		object->state = WRITTEN;
	} else if (object->state == DEAD) {
		rows->kept[i] = false;
	} else if (rows->op[i] == KV_OP_DELETE) {
		rows->size[i] = object->size;
		object->state = DEAD;
	} else if (object->state == READ_ONLY && rows->end[i] > object->size) {
		object->size = object->at_start = rows->end[i];
	}
}

/* Follow the objects; return false without room for them. */
KV_EXPORT bool kv_log_settle(struct kv_pool *pool, const struct kv_log_ops *rows, int64_t count)
{
	if (!kv_has_room(pool, count))
		return false;
	for (int64_t i = 0; i < count; i++) {
		int64_t slot;

		if (rows->op[i] > KV_OP_DELETE)
			continue;
		slot = kv_find(&pool->table, rows->key[i]);
		if (slot == KV_MISSING)
			first_op(pool, rows, i);
		else
			next_op(kv_slot(pool, slot), rows, i);
	}
	return true;
}
