/* What must hold in a trace, row by row: see check.py. */
#include "hashmap.h"
#include "cell.h"

#define NODE_SHIFT 48
#define SHOWN 5

enum { UNKNOWN, ALIVE, DEAD };

enum kind {
	READ_OF_DEAD,
	READ_BEFORE_WRITE,
	DELETE_OF_DEAD,
	READ_BEYOND_END,
	DELETE_SIZE,
	EVICT_WITHOUT_READ,
	EVICT_WITHOUT_WRITE,
	OVER_CAPACITY,
};

/* An object on a tier: its (tier, key) number, its size while it lives, its state. */
struct object {
	int64_t ident;
	int64_t size;
	int64_t state;
};

/* A demotion under way; bytes 0: none. */
struct demotion {
	int64_t key;
	int64_t bytes;
	int64_t tier;
	int64_t row;
};

struct held {
	int64_t now;
	int64_t most;
	int64_t allowed;
};

struct offence {
	int64_t count;
	int64_t rows[SHOWN];   /* the first ones */
};

struct kv_check {
	struct kv_pool *objects;
	struct kv_pool *demotions;
	struct held *held;         /* of each node's tiers */
	struct offence *offences;  /* of each kind */
	int64_t nodes;
	int64_t derive;            /* what is read first was resident */
	int64_t pairs;             /* demotions have both halves */
	int64_t rows;              /* checked so far */
	int64_t derived;           /* objects that were taken for resident */
};

struct kv_check_rows {
	const uint8_t *op;
	const uint8_t *tier;
	const uint8_t *phase;
	const int64_t *key;
	const int64_t *size;
	const int64_t *offset;
};

KV_SIZE(check, struct kv_check)

static void note(struct kv_check *check, enum kind kind, int64_t row)
{
	struct offence *offence = &check->offences[kind];

	if (offence->count < SHOWN)
		offence->rows[offence->count] = row;
	offence->count++;
}

/* The slot of `ident`; a new one is zero behind its identity. */
static void *slot_of(struct kv_pool *pool, int64_t ident)
{
	int64_t slot = kv_find(&pool->table, ident);

	return kv_slot(pool, slot == KV_MISSING ? kv_take(pool, ident) : slot);
}

static void check_read(struct kv_check *check, struct object *object, struct held *held,
		       int64_t end, int64_t row)
{
	if (object->state == DEAD) {
		note(check, READ_OF_DEAD, row);
	} else if (object->state == ALIVE) {
		if (end > object->size)
			note(check, READ_BEYOND_END, row);
	} else if (check->derive) {
		object->state = ALIVE;
		object->size = end;
		held->now += end;
		check->derived++;
	} else {
		note(check, READ_BEFORE_WRITE, row);
	}
}

static void check_write(struct object *object, struct held *held, int64_t end)
{
	if (object->state != ALIVE)
		object->size = 0;
	object->state = ALIVE;
	if (end > object->size) {
		held->now += end - object->size;
		object->size = end;
	}
}

static void check_delete(struct kv_check *check, struct object *object, struct held *held,
			 int64_t size, int64_t row)
{
	if (object->state == ALIVE) {
		if (object->size != size)
			note(check, DELETE_SIZE, row);
		held->now -= object->size;
	} else if (object->state == DEAD || !check->derive) {
		note(check, DELETE_OF_DEAD, row);
	}
	object->state = DEAD;
}

static void check_half(struct kv_check *check, const struct kv_check_rows *rows, int64_t i)
{
	struct demotion *demotion = slot_of(check->demotions, rows->key[i]);
	int64_t row = check->rows + i;

	if (rows->op[i] == KV_OP_READ) {
		if (demotion->bytes)
			note(check, EVICT_WITHOUT_WRITE, demotion->row);
		demotion->bytes = rows->size[i];
		demotion->tier = rows->tier[i];
		demotion->row = row;
	} else {
		if (demotion->bytes != rows->size[i] || demotion->tier >= rows->tier[i])
			note(check, EVICT_WITHOUT_READ, row);
		demotion->bytes = 0;
	}
}

/* A key of no node counts for the first. */
static struct held *held_of(const struct kv_check *check, int64_t key, uint8_t tier)
{
	int64_t node = key >> NODE_SHIFT;

	return &check->held[(node > 0 && node < check->nodes ? node * KV_TIERS : 0) + tier];
}

static void check_row(struct kv_check *check, const struct kv_check_rows *rows, int64_t i)
{
	uint8_t tier = rows->tier[i];
	struct held *held = held_of(check, rows->key[i], tier);
	struct object *object =
		slot_of(check->objects, (int64_t)((uint64_t)rows->key[i] * KV_TIERS + tier));
	int64_t end = rows->size[i] + rows->offset[i];
	int64_t row = check->rows + i;

	if (rows->op[i] == KV_OP_READ)
		check_read(check, object, held, end, row);
	else if (rows->op[i] == KV_OP_WRITE)
		check_write(object, held, end);
	else if (rows->op[i] == KV_OP_DELETE)
		check_delete(check, object, held, rows->size[i], row);
	if (held->now > held->most) {
		held->most = held->now;
		if (held->now > held->allowed)
			note(check, OVER_CAPACITY, row);
	}
	if (check->pairs && rows->phase[i] == KV_EVICT && rows->op[i] <= KV_OP_WRITE)
		check_half(check, rows, i);
}

/* Check rows; return false without room for their objects, or at a tier that there isn't. */
KV_EXPORT bool kv_check_rows(struct kv_check *check, const struct kv_check_rows *rows,
			     int64_t count, int64_t demotions)
{
	if (!kv_has_room(check->objects, count) || !kv_has_room(check->demotions, demotions))
		return false;
	for (int64_t i = 0; i < count; i++) {
		if (rows->tier[i] >= KV_TIERS)
			return false;
		check_row(check, rows, i);
	}
	check->rows += count;
	return true;
}
