/* Ops as pieces: memory for each, stamps before a write, what came back, verification. */
#include "loop.h"

#include <errno.h>

/* Where in the endless arena the piece's bytes are. */
static uint64_t arena_offset(const struct kv_run *run, const struct active *active,
			     const struct piece *piece)
{
	return run->arena_bytes[slot_of(run, active->op)] + piece->op_offset;
}

static void wake_arena_waiters(struct lane *lane)
{
	struct claims *claims = &lane->loop->claims;
	if (!__atomic_load_n(&claims->waiters, __ATOMIC_SEQ_CST))
		return;
	uint64_t waiters = __atomic_exchange_n(&claims->waiters, 0, __ATOMIC_SEQ_CST);
	for (uint32_t i = 0; i < lane->loop->lane_count; i++)
		if ((waiters >> i & 1) && i != lane->index)
			lane_wake(&lane->loop->lanes[i]);
}

/* The second look comes after the lane is on the list, so a release in between isn't missed. */
static bool claim(struct lane *lane, uint64_t place, uint64_t bytes)
{
	struct claims *claims = &lane->loop->claims;
	uint64_t first = place / SECTOR_BYTES, count = bytes / SECTOR_BYTES;
	if (claims_take(claims, first, count))
		return true;
	__atomic_fetch_or(&claims->waiters, 1ull << lane->index, __ATOMIC_SEQ_CST);
	return claims_take(claims, first, count);
}

/* Whether the payload has been made; how often it had not is counted. */
static bool payload_there(struct lane *lane, uint64_t end)
{
	const uint64_t *filled = lane->run->filled_bytes;
	if (!filled || end <= __atomic_load_n(filled, __ATOMIC_ACQUIRE)) {
		lane->payload_stalled = false;
		return true;
	}
	lane->spec->payload_stalls += !lane->payload_stalled;
	lane->payload_stalled = true;
	return false;
}

/* Bytes that aren't stamped are only read, and can be part of several writes at once. */
static bool take_payload(struct lane *lane, struct piece *piece, const struct active *active)
{
	const struct kv_run *run = lane->run;
	uint64_t offset = arena_offset(run, active, piece);
	if (!payload_there(lane, offset + piece->bytes))
		return false;
	piece->data = run->arena + offset % run->arena_size_bytes;
	return !run->stamp || claim(lane, offset % run->arena_size_bytes, piece->bytes);
}

static bool take_memory(struct lane *lane, struct piece *piece, const struct active *active)
{
	piece->data = NULL;
	if (piece->action == KV_DELETE)
		return true;
	if (piece->action == KV_WRITE)
		return take_payload(lane, piece, active);
	piece->buffer = buffers_take(&lane->buffers, piece->bytes);
	if (piece->buffer == NONE_U32)
		return false;
	piece->data = buffers_data(&lane->buffers, piece->buffer);
	return true;
}

static void give_memory_back(struct lane *lane, struct piece *piece)
{
	if (piece->action == KV_READ)
		buffers_release(&lane->buffers, piece->buffer);
	if (piece->action != KV_WRITE || !lane->run->stamp)
		return;
	uint64_t place = (uint64_t)(piece->data - lane->run->arena);
	claims_release(&lane->loop->claims, place / SECTOR_BYTES, piece->bytes / SECTOR_BYTES);
	wake_arena_waiters(lane);
}

static void stamp_piece(const struct lane *lane, const struct piece *piece, uint32_t op)
{
	const struct kv_run *run = lane->run;
	uint32_t slot = slot_of(run, op);
	kv_stamp(piece->data, piece->bytes, run->key[slot],
		 run->sector[slot] + (uint32_t)(piece->op_offset / SECTOR_BYTES),
		 run->generation[slot], run->run_id);
}

/* Make the first ready op the current one. It stays on the heap until a piece could be issued. */
static void start_op(struct lane *lane)
{
	uint32_t index = lane->free_active;
	struct active *active = &lane->actives[index];
	lane->free_active = active->next_free;
	*active = (struct active){.op = lane->ready.entries[0].op,
				  .submit_ns = INT64_MAX,
				  .complete_ns = KV_NO_TIME_NS,
				  .bad_sector = -1};
	lane->current = index;
}

static void note_slot(struct lane *lane, uint32_t op)
{
	const struct kv_run *run = lane->run;
	uint32_t slot = slot_of(run, op);
	int64_t eligible_ns = max_ns(lane_due_ns(lane, op), run->ready_ns[slot]);
	run->slot_ns[slot] = max_ns(eligible_ns, lane->freed_ns);
}

/* The piece begins where its op's bytes go on, and ends with the extent at the latest. */
static void stay_in_extent(const struct kv_run *run, uint32_t slot, struct piece *piece,
			   struct active *active)
{
	const uint64_t *extent = extent_of(run, slot, active->extent);
	while (piece->op_offset - active->extent_begin >= extent[1]) {
		active->extent_begin += extent[1];
		extent = extent_of(run, slot, ++active->extent);
	}
	uint64_t within = piece->op_offset - active->extent_begin;
	piece->file_offset = extent[0] + within;
	if (piece->bytes > extent[1] - within)
		piece->bytes = extent[1] - within;
}

static void fill_piece(struct lane *lane, struct piece *piece, struct active *active)
{
	const struct kv_run *run = lane->run;
	uint32_t slot = slot_of(run, active->op);
	uint64_t issued = active->issued_bytes, left = length_of(run, active->op) - issued;
	uint64_t most = lane->spec->io_bytes - issued % lane->spec->io_bytes;
	piece->op_offset = issued;
	piece->file_offset = run->offset_bytes[slot] + issued;
	piece->bytes = run->action[slot] == KV_DELETE || left < most ? left : most;
	if (is_divided(run, slot))
		stay_in_extent(run, slot, piece, active);
	piece->done_bytes = 0;
	piece->there_bytes = piece->bytes;
	piece->missing = false;
	piece->first_submit_ns = INT64_MAX;
	piece->active = lane->current;
	piece->action = run->action[slot];
}

static void account_issued(struct lane *lane, struct active *active, const struct piece *piece)
{
	if (active->issued_bytes == 0) {
		lane->visited--;
		heap_pop(&lane->ready);
		note_slot(lane, active->op);
	}
	active->issued_bytes += piece->bytes;
	active->outstanding++;
	if (active->issued_bytes == length_of(lane->run, active->op))
		lane->current = NONE_U32;
	if (++lane->in_flight > lane->spec->in_flight_max)
		lane->spec->in_flight_max = lane->in_flight;
}

/* A new op may have become ready before the one that waits for memory, and goes first. */
static void choose_op(struct lane *lane)
{
	if (lane->current == NONE_U32)
		start_op(lane);
	else if (lane->actives[lane->current].issued_bytes == 0)
		lane->actives[lane->current].op = lane->ready.entries[0].op;
}

bool io_issue(struct lane *lane)
{
	if ((lane->current == NONE_U32 && lane->ready.count == 0) ||
	    lane->in_flight >= lane->depth || lane->free_piece == NONE_U32)
		return false;
	choose_op(lane);
	struct active *active = &lane->actives[lane->current];
	uint32_t index = lane->free_piece;
	struct piece *piece = &lane->pieces[index];
	fill_piece(lane, piece, active);
	if (!take_memory(lane, piece, active)) {
		lane->stalled = true;
		return false;
	}
	lane->free_piece = piece->next;
	if (lane->stalled) {
		lane->stalled = false;
		lane->freed_ns = lane->now_ns;
	}
	account_issued(lane, active, piece);
	if (piece->action == KV_WRITE && lane->run->stamp)
		stamp_piece(lane, piece, active->op);
	lane->backend->submit(lane, index);
	return true;
}

void io_collect(struct lane *lane, uint32_t index, int64_t result, int64_t complete_ns)
{
	lane->pieces[index].result = result;
	lane->pieces[index].complete_ns = complete_ns;
	fifo_push(&lane->finished, index);
}

static void finish_op(struct lane *lane, uint32_t index)
{
	struct active *active = &lane->actives[index];
	const struct kv_run *run = lane->run;
	uint32_t slot = slot_of(run, active->op);
	int32_t error = active->error;
	if (error == 0 && active->bad_sector >= 0)
		error = KV_VERIFY_FAILED;
	run->submit_ns[slot] = active->submit_ns;
	__atomic_store_n(&run->complete_ns[slot], active->complete_ns, __ATOMIC_RELAXED);
	run->bad_sector[slot] = active->bad_sector;
	active->next_free = lane->free_active;
	lane->free_active = index;
	lane_finish(lane, active->op, error, active->complete_ns);
}

/* The piece is over: its memory is free, and if it was the op's last, so is the op. */
static void retire(struct lane *lane, uint32_t index)
{
	struct piece *piece = &lane->pieces[index];
	uint32_t active_index = piece->active;
	struct active *active = &lane->actives[active_index];
	give_memory_back(lane, piece);
	piece->next = lane->free_piece;
	lane->free_piece = index;
	if (active->error && lane->current == active_index)
		lane->current = NONE_U32;
	if (--active->outstanding == 0 && lane->current != active_index)
		finish_op(lane, active_index);
}

static bool transient(int64_t result)
{
	return result == -EAGAIN || result == -EBUSY || result == -EINTR;
}

/* O_DIRECT can go on at a multiple of this on any device. */
#define CONTINUE_BYTES 4096u

/* What the piece's result means: 0, an errno, or -1 if the rest of it must be issued again, from
 * the last place where a direct transfer can begin. */
static int32_t judge(struct lane *lane, struct piece *piece)
{
	if (transient(piece->result)) {
		if (lane_stopping(lane))
			return KV_INTERRUPTED;
		lane->spec->retries++;
		return -1;
	}
	if (piece->result < 0)
		return (int32_t)-piece->result;
	uint64_t done = piece->done_bytes + (uint64_t)piece->result;
	if (done >= piece->bytes)
		return 0;
	uint64_t beyond = (piece->file_offset + done) % CONTINUE_BYTES;
	if (done < piece->done_bytes + beyond + 1)
		return EIO;
	done -= beyond;
	lane->spec->short_transfers++;
	piece->done_bytes = done;
	return -1;
}

static void note_bad(struct active *active, const struct piece *piece, uint64_t sector)
{
	int64_t bad = (int64_t)(piece->op_offset / SECTOR_BYTES + sector);
	if (active->bad_sector < 0 || bad < active->bad_sector)
		active->bad_sector = bad;
}

static void account_finished(struct lane *lane, const struct piece *piece, int32_t error)
{
	struct active *active = &lane->actives[piece->active];
	if (lane->in_flight == lane->depth && piece->complete_ns > lane->freed_ns)
		lane->freed_ns = piece->complete_ns;
	lane->in_flight--;
	if (piece->complete_ns > piece->first_submit_ns)
		lane->spec->in_flight_ns +=
			(uint64_t)(piece->complete_ns - piece->first_submit_ns);
	if (piece->complete_ns > active->complete_ns)
		active->complete_ns = piece->complete_ns;
	if (active->error == 0)
		active->error = error;
}

void io_handle_finished(struct lane *lane)
{
	uint32_t index = fifo_pop(&lane->finished);
	struct piece *piece = &lane->pieces[index];
	struct active *active = &lane->actives[piece->active];
	piece->first_submit_ns = min_ns(piece->first_submit_ns, piece->submit_ns);
	active->submit_ns = min_ns(active->submit_ns, piece->submit_ns);
	int32_t error = judge(lane, piece);
	if (error == -1) {
		lane->backend->submit(lane, index);
		return;
	}
	account_finished(lane, piece, error);
	if (error == 0 && piece->missing)
		note_bad(active, piece, piece->there_bytes / SECTOR_BYTES);
	else if (error == 0 && piece->action != KV_DELETE)
		latency_count(lane, piece);
	if (error == 0 && piece->action == KV_READ && lane->run->verify != KV_VERIFY_NONE)
		fifo_push(&lane->unverified, index);
	else
		retire(lane, index);
}

void io_verify_next(struct lane *lane)
{
	int64_t begin_ns = thread_cpu_ns();
	const struct kv_run *run = lane->run;
	uint32_t index = fifo_pop(&lane->unverified);
	struct piece *piece = &lane->pieces[index];
	struct active *active = &lane->actives[piece->active];
	uint32_t slot = slot_of(run, active->op);
	bool full = verifies_body(run, active->op);
	int64_t bad = kv_check(piece->data, piece->there_bytes, run->key[slot],
			       run->sector[slot] + (uint32_t)(piece->op_offset / SECTOR_BYTES),
			       run->generation[slot], run->run_id, full ? run->arena : NULL,
			       run->arena_size_bytes, arena_offset(run, active, piece),
			       &lane->spec->bad_sectors);
	if (bad >= 0)
		note_bad(active, piece, (uint64_t)bad);
	lane->spec->checked_bytes += piece->there_bytes;
	lane->spec->body_bytes += full ? piece->there_bytes : 0;
	lane->spec->body_reads += full && piece->op_offset == 0;
	lane->verify_cpu_ns += thread_cpu_ns() - begin_ns;
	retire(lane, index);
}
