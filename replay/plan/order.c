/* Pass 2: rows in, a ring of ops and what each waits for out; see order.py.
 *
 * All rules of order are here. A row of a tier that isn't executed stands for what it waits for.
 * Lists share their tails and never change, so a ref stays good. Ops below the ring's floor were
 * taken out of it before the slice began: refs to them are dropped.
 */
#include "plan.h"

/* Ops that one row may become at most: itself, a gate, joins. */
#define SLOTS_PER_ROW 6
/* How far ahead of a row what it needs is asked for. */
#define AHEAD 12
#define URGENCY_BITS 2

enum {
	DONE = 0,
	MORE_ROOM = 1,
	UNALIGNED = 2,
	RING_FULL = 3,
	MORE_BIRTHS = 4,
	DEAD_READ = 5,
	MORE_NODES = 6
};

/* The row at hand. */
struct row {
	int what;
	int tier;
	int phase;
	int64_t lane; /* below 0: it isn't executed */
	int64_t index; /* of its key */
	struct kv_order *order;
	struct kv_place *place; /* NULL where it isn't executed */
};

KV_SIZE(plan, struct kv_plan)
KV_SIZE(ring, struct kv_ring)
KV_SIZE(lists, struct kv_lists)
KV_SIZE(link, struct kv_link)
KV_SIZE(order, struct kv_order)

static struct kv_order *order_of(const struct kv_plan *plan, int64_t index, int tier)
{
	return &plan->order[index * KV_TIERS + tier];
}

static struct row row_at(const struct kv_plan *plan, int64_t at)
{
	const struct kv_rows *rows = plan->rows;
	struct row row = {
		.what = rows->op[at],
		.tier = rows->tier[at],
		.phase = rows->phase[at],
		.lane = plan->lane_of_tier[rows->tier[at]],
		.index = plan->key_index[at],
	};

	row.order = order_of(plan, row.index, row.tier);
	if (row.lane >= 0)
		row.place = &plan->place[row.index * plan->lanes + row.lane];
	return row;
}

static bool is_birth(const struct row *row)
{
	return row->place && row->what == KV_ROW_WRITE && !row->place->live;
}

static int64_t due_of(const struct kv_plan *plan)
{
	return kv_at_speed(plan->rows->timestamp[plan->row], plan->speed);
}

/* The ref of the latest evict write of a key on a slower tier. */
static int64_t evict_below(const struct kv_plan *plan, const struct row *row)
{
	int64_t ref = 0, latest = 0;

	for (int lower = row->tier + 1; lower < KV_TIERS; lower++) {
		const struct kv_order *order = order_of(plan, row->index, lower);

		if (order->evict_row > latest) {
			latest = order->evict_row;
			ref = order->evict_write;
		}
	}
	return ref;
}

/* Take `length` bytes of the payload; return where they begin. */
static int64_t take_arena(struct kv_plan *plan, int64_t length)
{
	int64_t begin = kv_reserve_arena(plan->arena, length, plan->arena_bytes, plan->io_bytes);

	plan->arena = begin + length;
	return begin;
}

/* Give a new life's object its length; its extents come with its order. */
static void be_born(struct kv_plan *plan, struct row *row)
{
	row->place->length =
		kv_align_up(plan->born_length[plan->born++], plan->align[row->lane]);
	row->place->written = 0;
	row->place->live = 0;
}

/* Note what a write makes of the object: new bytes from its start on are a new generation. */
static void note_write(struct kv_plan *plan, struct kv_place *place, int64_t begin, int64_t end)
{
	if (place->live && (begin != 0 || end < place->written)) {
		if (place->written < end)
			place->written = end;
		return;
	}
	place->generation++;
	if (!plan->fresh)
		place->arena = take_arena(plan, place->length);
	place->written = end;
}

/* Fill in what a read or write moves; return false where it isn't aligned. */
static bool transfer(struct kv_plan *plan, const struct row *row)
{
	struct kv_ring *ring = plan->ring;
	struct kv_place *place = row->place;
	uint64_t at = kv_newest(ring);
	int64_t align = plan->align[row->lane];
	int64_t begin = kv_row_begin(plan->rows, plan->row);
	int64_t end = kv_row_end(plan->rows, plan->row);
	int64_t low = begin / align * align, high = kv_align_up(end, align);
	bool writes = row->what == KV_ROW_WRITE;

	if (writes) {
		if (low != begin || (high != end && high != place->length))
			return false;
		note_write(plan, place, begin, end);
	}
	ring->action[at] = writes ? KV_WRITE : KV_READ;
	ring->offset_bytes[at] = (uint64_t)low;
	ring->length_sectors[at] = (uint32_t)((high - low) / KV_SECTOR_BYTES);
	ring->pad_bytes[at] = (uint32_t)((uint64_t)(high - low) - plan->rows->size[plan->row]);
	ring->sector[at] = (uint32_t)(low / KV_SECTOR_BYTES);
	ring->arena_bytes[at] = (uint64_t)(plan->fresh && writes ? take_arena(plan, high - low)
								 : place->arena + low);
	return true;
}

/* Fill in all columns of an executed row but what it moves and what it waits for. */
static void fill(struct kv_plan *plan, const struct row *row)
{
	struct kv_ring *ring = plan->ring;
	uint64_t at = kv_newest(ring);
	int64_t turn = plan->next_thread[row->lane]++;
	int cell = kv_cell(row->tier, row->phase, row->what);

	ring->cell[at] = (uint8_t)(cell << URGENCY_BITS | plan->qos[plan->row]);
	ring->due_ns[at] = due_of(plan);
	ring->lane[at] =
		(uint8_t)(plan->first_thread[row->lane] + turn % plan->threads[row->lane]);
	ring->key[at] = plan->rows->key[plan->row];
	ring->action[at] = KV_NONE;
	ring->offset_bytes[at] = 0;
	ring->length_sectors[at] = 0;
	ring->pad_bytes[at] = 0;
	ring->sector[at] = 0;
	ring->arena_bytes[at] = 0;
	ring->edge_begin[at] = (uint32_t)ring->edge_end;
}

/* Let the newest op wait as its row must; `freed`: what freed its space. */
static void wait_in_order(struct kv_plan *plan, const struct row *row, int64_t freed)
{
	struct kv_ring *ring = plan->ring;
	struct kv_order *order = row->order;
	int64_t number = ring->planned, first = ring->edge_end;

	/* A gate comes first among what an op waits for; it isn't looked at again. */
	kv_wait(plan->lists, ring, order->exclusive, first);
	if (row->what == KV_ROW_READ) {
		order->reads = kv_cons(plan->lists, number, order->reads);
		return;
	}
	kv_wait(plan->lists, ring, -order->reads, first);
	order->reads = 0;
	order->exclusive = number + 1;
	if (row->what == KV_ROW_WRITE) {
		kv_wait(plan->lists, ring, plan->transfer_read[row->index], first);
		kv_wait(plan->lists, ring, freed, first);
	} else {
		kv_wait(plan->lists, ring, evict_below(plan, row), first);
	}
}

/* Give the newest op its waits and its place; return its ref. */
static int64_t order_executed(struct kv_plan *plan, const struct row *row, int64_t freed)
{
	struct kv_ring *ring = plan->ring;
	struct kv_place *place = row->place;
	uint64_t at = kv_newest(ring);
	int64_t number = ring->planned;
	bool dies = row->what == KV_ROW_DELETE && place->live;

	wait_in_order(plan, row, freed);
	if (row->what == KV_ROW_WRITE)
		place->live = 1;
	if (dies) {
		place->live = 0;
		if (plan->deletes[row->lane] && place->length > 0) {
			ring->action[at] = KV_DELETE;
			ring->length_sectors[at] = (uint32_t)(place->length / KV_SECTOR_BYTES);
		}
	}
	if (ring->length_sectors[at] > 0 && !plan->per_object[row->lane])
		kv_locate(place, plan->ground, ring);
	if (dies)
		kv_leave(plan->ground, row->lane, place, number + 1, ring->floor);
	ring->generation[at] = (uint32_t)place->generation & plan->generation_mask;
	return number + 1;
}

/* Note what a row of a tier that isn't executed stands for; return its ref. */
static int64_t order_skipped(struct kv_plan *plan, const struct row *row)
{
	struct kv_order *order = row->order;

	if (row->what == KV_ROW_WRITE)
		order->exclusive = kv_merge(plan->lists, order->exclusive,
					    plan->transfer_read[row->index]);
	else if (row->what == KV_ROW_DELETE)
		order->exclusive =
			kv_merge(plan->lists, order->exclusive, evict_below(plan, row));
	return order->exclusive;
}

/* Let an op of its own stand for a list that has become too long to wait for. */
static void join_long(struct kv_plan *plan, struct kv_order *order, int64_t due_ns, int64_t thread)
{
	struct kv_lists *lists = plan->lists;

	order->exclusive = kv_joined(lists, plan->ring, order->exclusive, due_ns, thread);
	order->reads = kv_list_of(lists, kv_joined(lists, plan->ring, -order->reads, due_ns, thread));
}

/* Whether there are births, nodes and extents for a row that is executed and isn't a lookup;
 * `*freed`: how many ops may have freed its space. */
static int space_has_room(const struct kv_plan *plan, const struct row *row, int64_t *freed)
{
	bool birth = is_birth(row);
	int64_t length = 0;

	if (birth) {
		int64_t align = plan->align[row->lane], free = plan->ground->lanes[row->lane].free;

		if (plan->born >= plan->born_count)
			return MORE_BIRTHS;
		length = kv_align_up(plan->born_length[plan->born], align);
		*freed = length / align + 1 < free ? length / align + 1 : free;
	}
	if (!kv_nodes_have_room(plan->ground, row->lane, length))
		return MORE_NODES;
	int64_t extents = kv_extents_of(plan->ground, row->place, row->lane, birth, length);

	return kv_extents_have_room(plan->ring, extents) ? DONE : RING_FULL;
}

/* How many waits a row may have at most, without those for its space. */
static int64_t most_waits(const struct kv_plan *plan, const struct row *row)
{
	const struct kv_lists *lists = plan->lists;
	int64_t most = kv_size_of(lists, -row->order->reads) +
		       kv_size_of(lists, row->order->exclusive) +
		       kv_size_of(lists, plan->transfer_read[row->index]);

	most += kv_size_of(lists, plan->closed ? -kv_gating_of(plan) : 0);
	for (int lower = row->tier + 1; lower < KV_TIERS; lower++)
		most += kv_size_of(lists, order_of(plan, row->index, lower)->evict_write);
	return most;
}

/* DONE if all is there that the row needs. */
static int has_room(const struct kv_plan *plan, const struct row *row)
{
	int64_t most = most_waits(plan, row), freed = 0;

	if (row->lane >= 0 && row->what != KV_ROW_LOOKUP) {
		int status = space_has_room(plan, row, &freed);

		if (status != DONE)
			return status;
	}
	most = 2 * (most + freed) + 16;
	if (!kv_lists_have_room(plan->lists, most))
		return MORE_ROOM;
	return kv_ring_has_room(plan->ring, SLOTS_PER_ROW + freed / KV_JOIN_COUNT, most)
		       ? DONE
		       : RING_FULL;
}

/* Plan an executed row that isn't a lookup, but for its end; its ref goes to `*ref`. */
static int plan_executed(struct kv_plan *plan, struct row *row, int64_t *ref)
{
	int64_t due_ns = due_of(plan), freed = 0;
	bool birth = is_birth(row);

	if (birth)
		be_born(plan, row);
	else if (row->what == KV_ROW_READ && !row->place->live)
		return DEAD_READ;
	join_long(plan, row->order, due_ns, row->lane);
	if (birth)
		freed = kv_allocate(plan->ground, plan->lists, plan->ring, row->place, row->lane,
				    due_ns, plan->first_thread[row->lane]);
	fill(plan, row);
	if (plan->closed)
		kv_attach(plan, row->lane, 0);
	if (row->what != KV_ROW_DELETE && !transfer(plan, row))
		return UNALIGNED;
	*ref = order_executed(plan, row, freed);
	return DONE;
}

static int64_t plan_skipped(struct kv_plan *plan, const struct row *row)
{
	join_long(plan, row->order, due_of(plan), 0);
	int64_t ref = order_skipped(plan, row);

	if (plan->closed)
		kv_attach(plan, row->lane, ref);
	return ref;
}

static int plan_row(struct kv_plan *plan, struct row *row)
{
	int64_t ref;

	if (row->lane < 0) {
		ref = plan_skipped(plan, row);
	} else {
		int status = plan_executed(plan, row, &ref);

		if (status != DONE)
			return status;
	}
	plan->touched[row->index] = plan->ring->planned;
	if (row->what == KV_ROW_READ && (row->phase == KV_EVICT || row->phase == KV_PROMOTE)) {
		plan->transfer_read[row->index] = ref;
	} else if (row->what == KV_ROW_WRITE && row->phase == KV_EVICT) {
		row->order->evict_write = ref;
		row->order->evict_row = plan->rows->first_row + plan->row + 1;
	}
	if (row->lane >= 0)
		kv_finish_op(plan->ring);
	return DONE;
}

static void plan_lookup(struct kv_plan *plan, const struct row *row)
{
	if (row->lane >= 0) {
		fill(plan, row);
		plan->ring->generation[kv_newest(plan->ring)] = 0;
	}
	if (plan->closed)
		kv_attach(plan, row->lane, 0);
	if (row->lane >= 0)
		kv_finish_op(plan->ring);
}

static void look_ahead(const struct kv_plan *plan, int64_t at)
{
	if (at < plan->rows->count) {
		struct row row = row_at(plan, at);

		__builtin_prefetch(row.order, 1);
		__builtin_prefetch(&plan->touched[row.index], 1);
		__builtin_prefetch(&plan->transfer_read[row.index]);
		if (row.place)
			__builtin_prefetch(row.place, 1);
	}
}

/* Plan the rows from `row` on. MORE_ROOM, MORE_NODES, RING_FULL, MORE_BIRTHS: make room and call
 * again. UNALIGNED: the row is a partial write that the target can't do; DEAD_READ: it reads what
 * was deleted. */
KV_EXPORT int kv_plan_rows(struct kv_plan *plan)
{
	for (; plan->row < plan->rows->count; plan->row++) {
		struct row row = row_at(plan, plan->row);
		int status = has_room(plan, &row);

		look_ahead(plan, plan->row + AHEAD);
		if (status != DONE)
			return status;
		if (plan->closed)
			kv_open_group(plan, plan->first_thread[row.lane < 0 ? 0 : row.lane]);
		if (row.what == KV_ROW_LOOKUP)
			plan_lookup(plan, &row);
		else if ((status = plan_row(plan, &row)) != DONE)
			return status;
	}
	return DONE;
}
