/* Deletes that give an extent's space back: a hole in a regular file, a discard on a device. */
#define _GNU_SOURCE
#include "loop.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

static int discard(int fd, uint64_t begin, uint64_t bytes)
{
	struct stat found;
	if (fstat(fd, &found))
		return errno;
	if (!S_ISBLK(found.st_mode))
		return fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)begin,
				 (off_t)bytes)
			       ? errno
			       : 0;
	uint64_t range[2] = {begin, bytes};
	return ioctl(fd, BLKDISCARD, range) ? errno : 0;
}

/* Aligned inward: what the neighbours share with the extent stays. */
void trim_work(struct lane *lane, struct piece *piece)
{
	uint64_t unit = lane->spec->trim_bytes;
	uint64_t begin = (piece->file_offset + unit - 1) / unit * unit;
	uint64_t end = (piece->file_offset + piece->bytes) / unit * unit;
	int failed = begin < end ? discard(lane->spec->fd, begin, end - begin) : 0;
	piece->result = failed ? -failed : (int64_t)piece->bytes;
}
