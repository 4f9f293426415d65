/* SPDX-License-Identifier: BSD-2-Clause */
/* What the two load generators share: clocks, in nanoseconds, and a word before they give up. Needs _GNU_SOURCE. */
#ifndef LOAD_H
#define LOAD_H

#include <errno.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/types.h>
#include <time.h>

static inline void die(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fprintf(stderr, "%s: ", program_invocation_short_name);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    exit(1);
}

static inline uint64_t clock_ns(clockid_t clock)
{
    struct timespec t;
    if (clock_gettime(clock, &t))
        die("cannot read a clock");
    return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

static inline uint64_t now_ns(void)
{
    return clock_ns(CLOCK_MONOTONIC);
}

/* CPU time that this process has used so far. */
static inline uint64_t own_cpu(void)
{
    return clock_ns(CLOCK_PROCESS_CPUTIME_ID);
}

/* CPU time that a process has used so far, all its threads together. */
static inline uint64_t cpu_of(pid_t process)
{
    clockid_t clock;
    if (clock_getcpuclockid(process, &clock))
        die("process %d is gone", process);
    return clock_ns(clock);
}

/* The same of several processes together. */
static inline uint64_t cpu_of_all(const pid_t *processes, unsigned count)
{
    uint64_t sum = 0;
    for (unsigned i = 0; i < count; i++)
        sum += cpu_of(processes[i]);
    return sum;
}

#endif
