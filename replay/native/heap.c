/* A binary heap of rows, smallest first. */
#include "loop.h"

void heap_push(struct heap *heap, uint32_t row)
{
	uint32_t at = heap->count++;
	while (at > 0) {
		uint32_t parent = (at - 1) / 2;
		if (heap->rows[parent] <= row)
			break;
		heap->rows[at] = heap->rows[parent];
		at = parent;
	}
	heap->rows[at] = row;
}

uint32_t heap_pop(struct heap *heap)
{
	uint32_t smallest = heap->rows[0];
	uint32_t last = heap->rows[--heap->count];
	uint32_t at = 0;
	for (;;) {
		uint32_t child = 2 * at + 1;
		if (child >= heap->count)
			break;
		if (child + 1 < heap->count && heap->rows[child + 1] < heap->rows[child])
			child++;
		if (last <= heap->rows[child])
			break;
		heap->rows[at] = heap->rows[child];
		at = child;
	}
	heap->rows[at] = last;
	return smallest;
}
