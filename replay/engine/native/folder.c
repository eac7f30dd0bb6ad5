/* A file per object in a folder, as the caches of inference engines keep them: whole objects go
 * under a temporary name that becomes the final one when all is there. */
#define _GNU_SOURCE
#include "loop.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Relative to the folder; replay/targets/support/folder.py knows them, too. */
struct names {
	char folder[8];
	char object[32];
	char temporary[64];
};

/* A temporary name is one piece's alone, whatever else is in flight. */
static struct names names_of(const struct lane *lane, const struct piece *piece)
{
	struct names names;
	unsigned long long key = lane->run->key[piece_slot(lane, piece)];
	unsigned folder = (unsigned)(mixed(key) & 0xff);
	snprintf(names.folder, sizeof names.folder, "%02x", folder);
	snprintf(names.object, sizeof names.object, "%02x/%016llx.kv", folder, key);
	snprintf(names.temporary, sizeof names.temporary, "%02x/%016llx.%x-%x.tmp", folder, key,
		 lane->index, (unsigned)(piece - lane->pieces));
	return names;
}

/* How much of the piece was asked for; what follows only fills a block. */
static uint64_t wanted_bytes(const struct lane *lane, const struct piece *piece)
{
	return piece->bytes - lane->run->pad_bytes[piece_slot(lane, piece)];
}

/* No component may be a link, and none another file system: a subfolder that was replaced while the
 * run goes on leads nowhere. Kernels before 5.6 look at the last component only. */
static int open_in(const struct lane *lane, const char *name, int flags)
{
	struct open_how how = {
		.flags = (uint64_t)(flags | O_CLOEXEC),
		.mode = flags & O_CREAT ? 0600 : 0,
		.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV,
	};
	int fd = (int)syscall(SYS_openat2, lane->spec->fd, name, &how, sizeof how);
	if (fd < 0 && (errno == ENOSYS || errno == EPERM))
		return openat(lane->spec->fd, name, flags | O_CLOEXEC | O_NOFOLLOW, 0600);
	return fd;
}

static int close_file(int fd, int failed)
{
	return close(fd) && !failed ? errno : failed;
}

/* Remove an object, in the subfolder that is there and no link. */
static int remove_object(const struct lane *lane, const struct names *names)
{
	int folder = open_in(lane, names->folder, O_PATH | O_DIRECTORY);
	if (folder < 0)
		return errno;
	int failed = unlinkat(folder, strchr(names->object, '/') + 1, 0) ? errno : 0;
	return close_file(folder, failed);
}

static int write_all(int fd, const struct piece *piece)
{
	uint64_t done = 0;
	while (done < piece->bytes) {
		ssize_t moved = pwrite(fd, piece->data + done, piece->bytes - done,
				       (off_t)(piece->file_offset + done));
		if (moved < 0)
			return errno;
		if (moved == 0)
			return EIO;
		done += (uint64_t)moved;
	}
	return 0;
}

/* Write the piece and give the file its true length, which isn't below `least`. */
static int write_piece(const struct lane *lane, const struct piece *piece, int fd, uint64_t least)
{
	uint64_t end = piece->file_offset + piece->bytes;
	uint64_t true_end = piece->file_offset + wanted_bytes(lane, piece);
	int failed = write_all(fd, piece);
	if (!failed && true_end < end && least < end &&
	    ftruncate(fd, (off_t)(least > true_end ? least : true_end)))
		failed = errno;
	if (!failed && lane->spec->fsync != KV_FSYNC_NONE && fsync(fd))
		failed = errno;
	return failed;
}

static int sync_folder(const struct lane *lane, const char *name)
{
	if (lane->spec->fsync != KV_FSYNC_DIR)
		return 0;
	int fd = open_in(lane, name, O_RDONLY | O_DIRECTORY);
	if (fd < 0)
		return errno;
	return close_file(fd, fsync(fd) ? errno : 0);
}

static int write_whole(const struct lane *lane, const struct piece *piece,
		       const struct names *names)
{
	int at = lane->spec->fd;
	int fd = open_in(lane, names->temporary, O_WRONLY | O_CREAT | O_EXCL | O_DIRECT);
	int failed = fd < 0 ? errno : 0;
	if (failed == EEXIST)
		return failed;
	if (fd >= 0)
		failed = close_file(fd, write_piece(lane, piece, fd, 0));
	if (!failed && renameat(at, names->temporary, at, names->object))
		failed = errno;
	if (failed) { /* one that was only opened may be there as well */
		unlinkat(at, names->temporary, 0);
		return failed;
	}
	return sync_folder(lane, names->folder);
}

static int write_part(const struct lane *lane, const struct piece *piece,
		      const struct names *names)
{
	struct stat before;
	int fd = open_in(lane, names->object, O_WRONLY | O_CREAT | O_DIRECT | O_NOFOLLOW);
	if (fd < 0)
		return errno;
	int failed = fstat(fd, &before) ? errno : 0;
	if (!failed)
		failed = write_piece(lane, piece, fd, (uint64_t)before.st_size);
	failed = close_file(fd, failed);
	return failed || before.st_size ? failed : sync_folder(lane, names->folder);
}

/* A write that covers everything the file has replaces it; one that doesn't changes a part of it. */
static int write_object(const struct lane *lane, const struct piece *piece,
			const struct names *names)
{
	struct stat found;
	bool part = piece->file_offset > 0;
	if (!part && fstatat(lane->spec->fd, names->object, &found, AT_SYMLINK_NOFOLLOW) == 0)
		part = (uint64_t)found.st_size > wanted_bytes(lane, piece);
	return part ? write_part(lane, piece, names) : write_whole(lane, piece, names);
}

/* A transfer that ends within a block has met the end of the file. */
static int read_file(int fd, struct piece *piece)
{
	uint64_t done = 0;
	while (done < piece->bytes && done % SECTOR_BYTES == 0) {
		ssize_t moved = pread(fd, piece->data + done, piece->bytes - done,
				      (off_t)(piece->file_offset + done));
		if (moved < 0)
			return errno;
		if (moved == 0)
			break;
		done += (uint64_t)moved;
	}
	piece->there_bytes = done;
	return 0;
}

/* The padding of the last block isn't in the file: a read is whole without it. A file that is
 * shorter, or isn't there, has lost bytes that were written: that is no error of the read, which is
 * told by the bytes that are missing. */
static int read_object(const struct lane *lane, struct piece *piece, const struct names *names)
{
	int fd = open_in(lane, names->object, O_RDONLY | O_DIRECT | O_NOFOLLOW);
	int failed = fd < 0 ? errno : close_file(fd, read_file(fd, piece));
	if (fd < 0 && failed == ENOENT) {
		piece->there_bytes = 0;
		failed = 0;
	}
	piece->missing = !failed && piece->there_bytes < wanted_bytes(lane, piece);
	return failed;
}

void folder_work(struct lane *lane, struct piece *piece)
{
	struct names names = names_of(lane, piece);
	int failed;
	if (piece->action == KV_READ)
		failed = read_object(lane, piece, &names);
	else if (piece->action == KV_WRITE)
		failed = write_object(lane, piece, &names);
	else
		failed = remove_object(lane, &names);
	piece->result = failed ? -failed : (int64_t)piece->bytes;
}
