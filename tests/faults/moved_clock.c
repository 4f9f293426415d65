/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Preloaded into a program, moves its wall clock by the seconds (a double) in the file MOVED_CLOCK, which may
 * change at any time. The monotonic clock goes on as it does.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile double *moved;
static int (*real)(clockid_t, struct timespec *);

__attribute__((constructor)) static void
prepare(void)
{
    const char *name = getenv("MOVED_CLOCK");
    const int file = name ? open(name, O_RDONLY | O_CLOEXEC) : -1;
    real = dlsym(RTLD_NEXT, "clock_gettime");
    if (file < 0)
        return;
    void *at = mmap(NULL, sizeof(double), PROT_READ, MAP_SHARED, file, 0);
    moved = at == MAP_FAILED ? NULL : at;
    close(file);
}

int
clock_gettime(clockid_t clock, struct timespec *now)
{
    const int status = real(clock, now);
    if (status == 0 && moved && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        now->tv_sec += (time_t)*moved;
    return status;
}

int
gettimeofday(struct timeval *now, void *zone)
{
    struct timespec at;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &at))
        return -1;
    now->tv_sec = at.tv_sec;
    now->tv_usec = at.tv_nsec / 1000;
    return 0;
}

time_t
time(time_t *at)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at)
        *at = now.tv_sec;
    return now.tv_sec;
}
