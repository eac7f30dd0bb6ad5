/* Lanes whose I/O is over when it has been started: null and memory. */
#include "loop.h"

#include <string.h>

static int inline_open(struct lane *lane, char *message, size_t message_size)
{
	(void)lane, (void)message, (void)message_size;
	return 0;
}

static void inline_close(struct lane *lane)
{
	(void)lane;
}

static void inline_submit(struct lane *lane, uint32_t index)
{
	struct piece *piece = &lane->pieces[index];
	uint8_t *stored = lane->spec->pool + piece->file_offset;
	piece->submit_ns = lane_now(lane);
	if (piece->action == KV_WRITE)
		memcpy(stored, piece->data, piece->bytes);
	else
		memcpy(piece->data, stored, piece->bytes);
	io_collect(lane, index, (int64_t)piece->bytes, lane_now(lane));
}

static void inline_collect(struct lane *lane)
{
	(void)lane;
}

static bool inline_pending(struct lane *lane)
{
	return !fifo_empty(&lane->finished);
}

static int64_t inline_cpu_ns(struct lane *lane)
{
	(void)lane;
	return 0;
}

const struct backend inline_backend = {
	.open = inline_open,
	.close = inline_close,
	.submit = inline_submit,
	.collect = inline_collect,
	.pending = inline_pending,
	.wait = lane_sleep,
	.kick = lane_rouse,
	.cpu_ns = inline_cpu_ns,
};
