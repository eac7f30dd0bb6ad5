/* A binary heap of ops by (key, number), smallest first. */
#include "loop.h"

#include <errno.h>
#include <stdlib.h>

static inline bool before(const struct entry *a, const struct entry *b)
{
	return a->key < b->key || (a->key == b->key && a->op < b->op);
}

/* Pages are taken as the heap grows, not now. */
int heap_open(struct heap *heap, uint64_t capacity)
{
	heap->entries = malloc((capacity + 1) * sizeof *heap->entries);
	return heap->entries ? 0 : ENOMEM;
}

void heap_close(struct heap *heap)
{
	free(heap->entries);
}

void heap_push(struct heap *heap, int64_t key, uint32_t op)
{
	struct entry pushed = {.key = key, .op = op};
	uint32_t at = heap->count++;
	while (at > 0) {
		uint32_t parent = (at - 1) / 2;
		if (before(&heap->entries[parent], &pushed))
			break;
		heap->entries[at] = heap->entries[parent];
		at = parent;
	}
	heap->entries[at] = pushed;
}

struct entry heap_pop(struct heap *heap)
{
	struct entry smallest = heap->entries[0];
	struct entry last = heap->entries[--heap->count];
	uint32_t at = 0;
	for (;;) {
		uint32_t child = 2 * at + 1;
		if (child >= heap->count)
			break;
		if (child + 1 < heap->count &&
		    before(&heap->entries[child + 1], &heap->entries[child]))
			child++;
		if (before(&last, &heap->entries[child]))
			break;
		heap->entries[at] = heap->entries[child];
		at = child;
	}
	heap->entries[at] = last;
	return smallest;
}
