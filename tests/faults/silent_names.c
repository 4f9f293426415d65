/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Preloaded into a program, keeps names that begin with "silent" from ever being answered, as a name server
 * that is away does, and gives names that end with ".here.test" the address of this machine.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <string.h>
#include <unistd.h>

typedef int lookup(const char *, const char *, const struct addrinfo *, struct addrinfo **);

int
getaddrinfo(const char *name, const char *service, const struct addrinfo *hints, struct addrinfo **found)
{
    static const char here[] = ".here.test";
    static lookup *real;
    const size_t length = name ? strlen(name) : 0;

    if (name && !strncmp(name, "silent", 6))
        for (;;)
            pause();
    if (!real)
        real = (lookup *)dlsym(RTLD_NEXT, "getaddrinfo");
    if (length > sizeof here - 1 && !strcmp(name + length - (sizeof here - 1), here))
        name = "127.0.0.1";
    return real(name, service, hints, found);
}
