/* Next accesses, from the last access to the first: see accesses.py. */
#include "hashmap.h"

#define NEVER (-1)
#define PENDING (-2)

struct object {
	int64_t key;
	int64_t next;
};

/* Write down where the object's next access is. `most`: objects that are followed at a time. Return
 * how many accesses are left PENDING, since there are as many, or −1 without room for them. */
KV_EXPORT int64_t kv_link(struct kv_pool *pool, const int64_t *key, int64_t count, int64_t first,
			  int64_t most, int64_t *following)
{
	int64_t left = 0;

	for (int64_t i = count - 1; i >= 0; i--) {
		int64_t slot;
		struct object *object;

		if (following[i] != PENDING)
			continue;
		slot = kv_find(&pool->table, key[i]);
		if (slot == KV_MISSING && pool->used >= most) {
			left++;
			continue;
		}
		if (slot == KV_MISSING) {
			if (!kv_has_room(pool, 1))
				return -1;
			object = kv_slot(pool, kv_take(pool, key[i]));
			following[i] = NEVER;
		} else {
			object = kv_slot(pool, slot);
			following[i] = object->next;
		}
		object->next = first + i;
	}
	return left;
}
