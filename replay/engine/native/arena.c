/* Two writes in flight never share arena bytes: the later one's stamps would land in the earlier
 * one's data. A bit per sector says which are taken, by any lane and in any order. */
#include "loop.h"

static inline uint64_t word_mask(uint64_t word, uint64_t begin, uint64_t end)
{
	uint64_t first = word * 64;
	uint64_t low = begin > first ? begin - first : 0;
	uint64_t high = end < first + 64 ? end - first : 64;
	uint64_t mask = high == 64 ? ~0ull : (1ull << high) - 1;
	return mask & ~((1ull << low) - 1);
}

static bool word_take(uint64_t *word, uint64_t mask)
{
	uint64_t seen = __atomic_load_n(word, __ATOMIC_RELAXED);
	do {
		if (seen & mask)
			return false;
	} while (!__atomic_compare_exchange_n(word, &seen, seen | mask, true, __ATOMIC_SEQ_CST,
					      __ATOMIC_RELAXED));
	return true;
}

static void words_release(struct claims *claims, uint64_t begin, uint64_t end)
{
	for (uint64_t word = begin / 64; word * 64 < end; word++)
		__atomic_fetch_and(&claims->words[word], ~word_mask(word, begin, end),
				   __ATOMIC_SEQ_CST);
}

static bool all_free(const struct claims *claims, uint64_t begin, uint64_t end)
{
	for (uint64_t word = begin / 64; word * 64 < end; word++)
		if (__atomic_load_n(&claims->words[word], __ATOMIC_SEQ_CST) &
		    word_mask(word, begin, end))
			return false;
	return true;
}

/* Words are taken in ascending order, so of two that want the same one always gets it. Looking
 * first keeps lanes that wait for a third from taking and giving back in turn, for ever. */
bool claims_take(struct claims *claims, uint64_t first_sector, uint64_t count)
{
	uint64_t end = first_sector + count;
	if (!all_free(claims, first_sector, end))
		return false;
	for (uint64_t word = first_sector / 64; word * 64 < end; word++) {
		if (!word_take(&claims->words[word], word_mask(word, first_sector, end))) {
			if (word * 64 > first_sector)
				words_release(claims, first_sector, word * 64);
			return false;
		}
	}
	return true;
}

void claims_release(struct claims *claims, uint64_t first_sector, uint64_t count)
{
	words_release(claims, first_sector, first_sector + count);
}
