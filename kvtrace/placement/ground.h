/* The space of each lane, as extents in use and holes between them: see ground.py. */
#ifndef KV_GROUND_H
#define KV_GROUND_H

#include "../native/core.h"

enum kv_space_kind { KV_UNBOUNDED = 0, KV_UNIFORM = 1, KV_MIXED = 2 };

/* The space of one lane; LANE of ground.py. */
struct kv_space {
	int64_t kind;
	int64_t top;   /* where never-used space begins: used up to */
	int64_t limit; /* before any is used again, and up to */
	int64_t cap;   /* before objects are divided at will */
	int64_t part;  /* what else objects are divided into multiples of */
	int64_t last;  /* the node below `top` */
	int64_t head;  /* queue of a uniform lane */
	int64_t tail;
	int64_t free; /* free nodes */
};

/* An extent, in use or free; NODE of ground.py. */
struct kv_node {
	int64_t begin;
	int64_t length;
	int64_t ref;  /* of what freed it */
	int64_t hole; /* of a hole's first node: the hole's length, and its neighbours in the bin */
	int32_t below;
	int32_t above;
	int32_t older;
	int32_t newer;
	int32_t other; /* a hole's last node in its first one, and the reverse */
	int32_t next;  /* the object's next extent; the next node of a queue, or of spare ones */
	int32_t free;
};

/* Each power of two has 2^KV_STEP_BITS bins. */
#define KV_STEP_BITS 4
#define KV_BINS (64 << KV_STEP_BITS)
#define KV_BIN_WORDS (KV_BINS / 64)
/* Holes of the wanted length's own bin, in which not all are long enough, that are looked at. */
#define KV_LOOKS 8

/* Holes of one lane by length; BINS of ground.py. */
struct kv_bins {
	int32_t oldest[KV_BINS];
	int32_t newest[KV_BINS];
	uint64_t words[KV_BIN_WORDS]; /* a bit for each bin that has holes */
};

struct kv_ground {
	struct kv_space *lanes;
	struct kv_bins *bins;
	struct kv_node *nodes; /* node 0 is none */
	int64_t *refs;	       /* what freed the parts that an object took */
	int64_t room;	       /* nodes and refs there is memory for */
	int64_t used;	       /* nodes that were ever used, node 0 among them */
	int64_t spare;	       /* first node to be used again */
	int64_t ref_count;
};

/* Whether there are nodes for one more object of a length, and for an end of one. */
static inline bool kv_nodes_have_room(const struct kv_ground *ground, int64_t lane, int64_t length)
{
	const struct kv_space *space = &ground->lanes[lane];
	int64_t divided = length / space->part;

	if (divided > space->free)
		divided = space->free;
	return ground->used + divided + 4 <= ground->room;
}

static inline int kv_log2(uint64_t value)
{
	return 63 - __builtin_clzll(value);
}

/* The bin of holes of a length, at least 1. */
static inline int kv_bin_of(int64_t length)
{
	int exponent = kv_log2((uint64_t)length);

	if (exponent < KV_STEP_BITS)
		return (int)length;
	return exponent << KV_STEP_BITS |
	       (int)(length >> (exponent - KV_STEP_BITS) & ((1 << KV_STEP_BITS) - 1));
}

/* Put a hole last into its bin. */
static inline void kv_insert_hole(struct kv_ground *ground, int64_t lane, int32_t head)
{
	struct kv_bins *bins = &ground->bins[lane];
	struct kv_node *node = &ground->nodes[head];
	int bin = kv_bin_of(node->hole);
	int32_t last = bins->newest[bin];

	node->older = last;
	node->newer = 0;
	if (last)
		ground->nodes[last].newer = head;
	else
		bins->oldest[bin] = head;
	bins->newest[bin] = head;
	bins->words[bin / 64] |= 1ull << bin % 64;
}

/* Take a hole out of its bin. */
static inline void kv_remove_hole(struct kv_ground *ground, int64_t lane, int32_t head)
{
	struct kv_bins *bins = &ground->bins[lane];
	struct kv_node *node = &ground->nodes[head];
	int bin = kv_bin_of(node->hole);

	if (node->older)
		ground->nodes[node->older].newer = node->newer;
	else
		bins->oldest[bin] = node->newer;
	if (node->newer)
		ground->nodes[node->newer].older = node->older;
	else
		bins->newest[bin] = node->older;
	if (!bins->oldest[bin])
		bins->words[bin / 64] &= ~(1ull << bin % 64);
}

/* A hole that holds `length`, the oldest of the shortest such bin; 0 if there is none. */
static inline int32_t kv_find_hole(const struct kv_ground *ground, int64_t lane, int64_t length)
{
	const struct kv_bins *bins = &ground->bins[lane];
	int bin = kv_bin_of(length);
	int32_t head = bins->oldest[bin];

	for (int looks = 0; head && looks < KV_LOOKS; looks++) {
		if (ground->nodes[head].hole >= length)
			return head;
		head = ground->nodes[head].newer;
	}
	int word = (bin + 1) / 64;
	uint64_t bits = bins->words[word] & ~0ull << (bin + 1) % 64;

	while (!bits) {
		if (++word == KV_BIN_WORDS)
			return 0;
		bits = bins->words[word];
	}
	return bins->oldest[word * 64 + __builtin_ctzll(bits)];
}

/* The oldest hole of the longest bin; 0 if there is none. */
static inline int32_t kv_largest_hole(const struct kv_ground *ground, int64_t lane)
{
	const struct kv_bins *bins = &ground->bins[lane];

	for (int word = KV_BIN_WORDS - 1; word >= 0; word--)
		if (bins->words[word])
			return bins->oldest[word * 64 + kv_log2(bins->words[word])];
	return 0;
}

#endif
