/* Buffers for reads in flight: a buddy allocator over one huge-page region. Small reads take
 * small blocks; what was freed last is taken first, so that few bytes stay warm in the cache. */
#include "loop.h"

#include <errno.h>
#include <stdlib.h>

#define GRANULE_SHIFT 12
#define ORDERS 32

static uint32_t order_of(uint64_t bytes)
{
	uint32_t order = 0;
	while ((1ull << (GRANULE_SHIFT + order)) < bytes)
		order++;
	return order;
}

static void list_push(struct buffers *buffers, uint32_t granule, uint32_t order)
{
	uint32_t head = buffers->free_list[order];
	buffers->next[granule] = head;
	buffers->previous[granule] = NONE_U32;
	if (head != NONE_U32)
		buffers->previous[head] = granule;
	buffers->free_list[order] = granule;
	buffers->order[granule] = (uint8_t)order;
	buffers->is_free[granule] = true;
}

static void list_remove(struct buffers *buffers, uint32_t granule)
{
	uint32_t next = buffers->next[granule];
	uint32_t previous = buffers->previous[granule];
	if (next != NONE_U32)
		buffers->previous[next] = previous;
	if (previous != NONE_U32)
		buffers->next[previous] = next;
	else
		buffers->free_list[buffers->order[granule]] = next;
	buffers->is_free[granule] = false;
}

static int allocate_tables(struct buffers *buffers, uint64_t granules)
{
	buffers->next = calloc(granules, sizeof *buffers->next);
	buffers->previous = calloc(granules, sizeof *buffers->previous);
	buffers->order = calloc(granules, sizeof *buffers->order);
	buffers->is_free = calloc(granules, sizeof *buffers->is_free);
	buffers->free_list = malloc(ORDERS * sizeof *buffers->free_list);
	return buffers->next && buffers->previous && buffers->order && buffers->is_free &&
			       buffers->free_list
		       ? 0
		       : ENOMEM;
}

int buffers_open(struct buffers *buffers, uint64_t bytes, uint64_t longest_bytes, bool *huge)
{
	buffers->top_order = order_of(longest_bytes);
	uint64_t block = 1ull << (GRANULE_SHIFT + buffers->top_order);
	uint64_t blocks = bytes / block ? bytes / block : 1;
	buffers->bytes = blocks * block;
	buffers->base = pages_allocate(buffers->bytes, huge);
	if (!buffers->base || allocate_tables(buffers, buffers->bytes >> GRANULE_SHIFT) != 0)
		return ENOMEM;
	for (uint32_t order = 0; order < ORDERS; order++)
		buffers->free_list[order] = NONE_U32;
	for (uint64_t i = blocks; i-- > 0;)
		list_push(buffers, (uint32_t)(i << buffers->top_order), buffers->top_order);
	return 0;
}

void buffers_close(struct buffers *buffers)
{
	if (buffers->base)
		pages_free(buffers->base, buffers->bytes);
	free(buffers->next);
	free(buffers->previous);
	free(buffers->order);
	free(buffers->is_free);
	free(buffers->free_list);
}

uint32_t buffers_take(struct buffers *buffers, uint64_t bytes)
{
	uint32_t wanted = order_of(bytes);
	uint32_t order = wanted;
	while (order <= buffers->top_order && buffers->free_list[order] == NONE_U32)
		order++;
	if (order > buffers->top_order)
		return NONE_U32;
	uint32_t granule = buffers->free_list[order];
	list_remove(buffers, granule);
	while (order > wanted) {
		order--;
		list_push(buffers, granule + (1u << order), order);
	}
	buffers->order[granule] = (uint8_t)wanted;
	return granule;
}

void buffers_release(struct buffers *buffers, uint32_t granule)
{
	uint32_t order = buffers->order[granule];
	while (order < buffers->top_order) {
		uint32_t buddy = granule ^ (1u << order);
		if (!buffers->is_free[buddy] || buffers->order[buddy] != order)
			break;
		list_remove(buffers, buddy);
		granule &= ~(1u << order);
		order++;
	}
	list_push(buffers, granule, order);
}

uint8_t *buffers_data(const struct buffers *buffers, uint32_t granule)
{
	return buffers->base + ((uint64_t)granule << GRANULE_SHIFT);
}
