/* Memory on 2 MiB pages where the system has them: reserved ones, else transparent ones. */
#include "loop.h"

#include <sys/mman.h>

#define HUGE_BYTES (2ull << 20)

static uint64_t rounded(uint64_t bytes)
{
	return (bytes + HUGE_BYTES - 1) & ~(HUGE_BYTES - 1);
}

static void touch(volatile uint8_t *data, uint64_t bytes)
{
	for (uint64_t at = 0; at < bytes; at += 4096)
		data[at] = 0;
}

/* Map `bytes` at a multiple of 2 MiB, so that transparent huge pages fit. */
static uint8_t *map_aligned(uint64_t bytes)
{
	uint8_t *data = mmap(NULL, bytes + HUGE_BYTES, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (data == MAP_FAILED)
		return NULL;
	uint64_t head = -(uint64_t)(uintptr_t)data & (HUGE_BYTES - 1);
	if (head)
		munmap(data, head);
	munmap(data + head + bytes, HUGE_BYTES - head);
	return data + head;
}

uint8_t *pages_allocate(uint64_t bytes, bool *huge)
{
	bytes = rounded(bytes);
	uint8_t *data = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
	*huge = true;
	if (data == MAP_FAILED) {
		data = map_aligned(bytes);
		if (!data)
			return NULL;
		*huge = madvise(data, bytes, MADV_HUGEPAGE) == 0;
	}
	touch(data, bytes);
	return data;
}

void pages_free(uint8_t *data, uint64_t bytes)
{
	munmap(data, rounded(bytes));
}
