/* A device made of a pool and a script: how long each I/O takes, and what comes of it. */
#include "loop.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct device {
	uint64_t submitted;
	struct heap flying; /* pieces by when they finish */
	struct heap channels; /* by when they are free; empty: as many as there are I/Os */
};

static void simulated_close(struct lane *lane)
{
	struct device *device = lane->backend_state;
	if (!device)
		return;
	heap_close(&device->flying);
	heap_close(&device->channels);
	free(device);
}

static int simulated_open(struct lane *lane, char *message, size_t message_size)
{
	(void)message, (void)message_size;
	uint64_t channels = lane->spec->script_channels;
	struct device *device = calloc(1, sizeof *device);
	lane->backend_state = device;
	if (!device || heap_open(&device->flying, lane->piece_count) ||
	    heap_open(&device->channels, lane->piece_count))
		return ENOMEM;
	for (uint32_t i = 0; channels < lane->piece_count && i < channels; i++)
		heap_push(&device->channels, 0, i);
	return 0;
}

/* When work that takes `delay_ns` and begins at `from_ns` is done: it rests while all stalls. */
static int64_t done_ns(const struct lane *lane, int64_t from_ns, int64_t delay_ns)
{
	int64_t begin_ns = lane->run->start_ns + lane->spec->stall_begin_ns;
	int64_t end_ns = lane->run->start_ns + lane->spec->stall_end_ns;
	if (from_ns >= begin_ns && from_ns < end_ns)
		from_ns = end_ns;
	bool rests = from_ns < begin_ns && begin_ns < end_ns && from_ns + delay_ns > begin_ns;
	return from_ns + delay_ns + (rests ? end_ns - begin_ns : 0);
}

/* Channels take I/Os in the order of their coming, so each one's end is known as it comes. */
static void simulated_submit(struct lane *lane, uint32_t index)
{
	struct device *device = lane->backend_state;
	struct piece *piece = &lane->pieces[index];
	uint64_t line = device->submitted++ % lane->spec->script_count;
	int64_t delay_ns = lane->spec->script_delay_ns[line];
	piece->submit_ns = lane_now(lane);
	piece->result = lane->spec->script_result[line];
	if (device->channels.count == 0) {
		heap_push(&device->flying, done_ns(lane, piece->submit_ns, delay_ns), index);
		return;
	}
	struct entry channel = heap_pop(&device->channels);
	int64_t when_ns = done_ns(lane, max_ns(channel.key, piece->submit_ns), delay_ns);
	heap_push(&device->channels, when_ns, channel.op);
	heap_push(&device->flying, when_ns, index);
}

/* Move what the script lets through; return bytes, or -errno. */
static int64_t transfer(struct lane *lane, const struct piece *piece)
{
	uint64_t bytes = piece->bytes - piece->done_bytes;
	uint8_t *data = piece->data + piece->done_bytes;
	uint8_t *stored = lane->spec->pool + piece->file_offset + piece->done_bytes;
	if (piece->result < 0)
		return piece->result;
	if (piece->result > 0 && (uint64_t)piece->result < bytes)
		bytes = (uint64_t)piece->result;
	if (piece->action == KV_WRITE)
		memcpy(stored, data, bytes);
	else
		memcpy(data, stored, bytes);
	return (int64_t)bytes;
}

static int64_t simulated_next_ns(const struct lane *lane)
{
	const struct device *device = lane->backend_state;
	return device->flying.count ? device->flying.entries[0].key : INT64_MAX;
}

static bool simulated_pending(struct lane *lane)
{
	return simulated_next_ns(lane) <= lane_now(lane);
}

static void simulated_collect(struct lane *lane)
{
	struct device *device = lane->backend_state;
	while (simulated_pending(lane)) {
		struct entry done = heap_pop(&device->flying);
		io_collect(lane, done.op, transfer(lane, &lane->pieces[done.op]), done.key);
	}
}

static void simulated_wait(struct lane *lane, int64_t deadline_ns)
{
	lane_sleep(lane, min_ns(deadline_ns, simulated_next_ns(lane)));
}

static int64_t simulated_cpu_ns(struct lane *lane)
{
	(void)lane;
	return 0;
}

const struct backend simulated_backend = {
	.open = simulated_open,
	.close = simulated_close,
	.submit = simulated_submit,
	.collect = simulated_collect,
	.pending = simulated_pending,
	.wait = simulated_wait,
	.kick = lane_rouse,
	.cpu_ns = simulated_cpu_ns,
	.next_ns = simulated_next_ns,
};
