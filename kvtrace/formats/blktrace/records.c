/* Records of blktrace, each followed by as many bytes as it says: see importer.py. */
#include "core.h"

/* Fill in where records begin; return how many are whole. `next`: where the first one begins that
 * isn't, or isn't looked at. `length_at`: where the lower byte of a length is, and the upper one. */
KV_EXPORT int64_t kv_records(const uint8_t *data, int64_t size, int64_t header, int64_t low_at,
			     int64_t high_at, int64_t room, int64_t *starts, int64_t *next)
{
	int64_t at = 0, count = 0;

	while (header <= size - at && count < room) {
		int64_t length = data[at + low_at] + 256 * data[at + high_at];

		if (length > size - at - header)
			break;
		starts[count++] = at;
		at += header + length;
	}
	*next = at;
	return count;
}
