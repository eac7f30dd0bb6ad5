/* Pieces that threads other than the lane's have finished: any of them pushes, the lane takes all. */
#include "loop.h"

void handback_push(struct lane *lane, uint32_t index)
{
	uint32_t head = __atomic_load_n(&lane->handed_back, __ATOMIC_RELAXED);
	do {
		lane->pieces[index].next = head;
	} while (!__atomic_compare_exchange_n(&lane->handed_back, &head, index, true,
					      __ATOMIC_SEQ_CST, __ATOMIC_RELAXED));
	lane_wake(lane);
}

void handback_collect(struct lane *lane)
{
	if (!handback_pending(lane))
		return;
	uint32_t index = __atomic_exchange_n(&lane->handed_back, NONE_U32, __ATOMIC_SEQ_CST);
	while (index != NONE_U32) {
		struct piece *piece = &lane->pieces[index];
		uint32_t next = piece->next;
		io_collect(lane, index, piece->result, piece->complete_ns);
		index = next;
	}
}

bool handback_pending(struct lane *lane)
{
	return __atomic_load_n(&lane->handed_back, __ATOMIC_RELAXED) != NONE_U32;
}
