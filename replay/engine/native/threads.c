/* Lanes whose I/O blocks, by a pool of threads: of a file by pread and pwrite, of a folder. */
#include "loop.h"

#include <errno.h>
#include <stdio.h>
#include <unistd.h>

static void file_work(struct lane *lane, struct piece *piece)
{
	if (piece->action == KV_DELETE) {
		trim_work(lane, piece);
		return;
	}
	uint8_t *data = piece->data + piece->done_bytes;
	size_t bytes = piece->bytes - piece->done_bytes;
	off_t offset = (off_t)(piece->file_offset + piece->done_bytes);
	ssize_t result = piece->action == KV_WRITE ? pwrite(lane->spec->fd, data, bytes, offset)
						   : pread(lane->spec->fd, data, bytes, offset);
	piece->result = result < 0 ? -errno : result;
}

static int threads_open(struct lane *lane, char *message, size_t message_size)
{
	bool folder = lane->spec->kind == KV_DIR;
	struct pool *pool;
	int failed = pool_open(&pool, lane, lane->spec->queue_depth,
			       folder ? folder_work : file_work);
	lane->backend_state = pool;
	if (failed)
		snprintf(message, message_size, "starting the threads of lane %u", lane->index);
	else
		lane->depth = pool_workers(pool); /* what waits for a worker waits for a slot */
	return failed;
}

static void threads_close(struct lane *lane)
{
	pool_close(lane->backend_state);
}

static void threads_submit(struct lane *lane, uint32_t index)
{
	pool_submit(lane->backend_state, index);
}

static int64_t threads_cpu_ns(struct lane *lane)
{
	return pool_cpu_ns(lane->backend_state);
}

const struct backend threads_backend = {
	.open = threads_open,
	.close = threads_close,
	.submit = threads_submit,
	.collect = handback_collect,
	.pending = handback_pending,
	.wait = lane_sleep,
	.kick = lane_rouse,
	.cpu_ns = threads_cpu_ns,
};
