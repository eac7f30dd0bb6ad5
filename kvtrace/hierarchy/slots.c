/* Slots: taken by blocks that appear, free again when nothing knows the block any more. */
#include "hierarchy.h"

int64_t kv_take_slot(struct kv_hierarchy *h, int64_t ident, int64_t tokens)
{
	int64_t slot = ident;

	if (h->entries) {
		slot = h->first_free;
		if (slot != KV_NONE)
			h->first_free = h->slots[slot].key;
		else
			slot = h->fresh++;
		h->free_slots--;
	}
	h->slots[slot].ident = ident;
	h->slots[slot].key = KV_NONE;
	h->slots[slot].tokens = tokens;
	h->slots[slot].where = 0;
	if (h->entries) {
		struct kv_table table = kv_table_of(h);

		kv_insert(&table, slot);
	}
	return slot;
}

void kv_free_if_unknown(struct kv_hierarchy *h, int64_t slot)
{
	if ((h->slots[slot].where & KV_KNOWN) != KV_RETIRED)
		return;
	if (!h->entries) {
		h->slots[slot].ident = 0;
		return;
	}

	struct kv_table table = kv_table_of(h);

	kv_remove(&table, slot);
	h->slots[slot].key = h->first_free;
	h->first_free = slot;
	h->free_slots++;
}

int64_t kv_name(struct kv_hierarchy *h, int64_t slot)
{
	if (h->slots[slot].key == KV_NONE) {
		h->slots[slot].key = h->keys++;
		h->states += h->slots[slot].tokens < 0;
	}
	return h->slots[slot].key;
}
