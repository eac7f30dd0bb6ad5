/* How a lane sleeps where no ring is waited on: a futex on `asleep`. */
#include "loop.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

void lane_sleep(struct lane *lane, int64_t deadline_ns)
{
	struct timespec deadline = {deadline_ns / 1000000000, deadline_ns % 1000000000};
	syscall(SYS_futex, &lane->asleep, FUTEX_WAIT_BITSET_PRIVATE, 1, &deadline, NULL,
		FUTEX_BITSET_MATCH_ANY);
}

void lane_rouse(struct lane *lane)
{
	syscall(SYS_futex, &lane->asleep, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}
