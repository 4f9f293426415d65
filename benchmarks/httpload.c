/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * httpload - HTTP requests over connections that are kept, and the agent that answers them.
 *
 *   httpload --agent 9001 --console     the agent; every line of options on stdin is a run,
 *                                       its report a line of JSON on stdout
 *
 * A run: --port P --request FILE --connections N --warm-up S --seconds S [--rate R] [--answer S]
 *        [--echo] [--fresh] [--spin] [--watch PID,PID...]
 *
 * FILE holds a whole request, head and body, which is sent again and again.  With --rate it is sent
 * R times a second, each time when it is due, whether or not earlier ones were answered, on whichever
 * connection is free; while none is, what is due waits, and its waiting counts: latency is from the
 * moment a request was due to the last byte of its answer.  Without --rate every connection sends the
 * next request as soon as it has its answer.
 *
 * With --fresh every request has a connection of its own, which whoever answers has to close: that is how
 * callers come who are refused.  --connections are then as many as may be open at a time.
 *
 * An answer is right with --answer (200) as its status and, with --echo, the request's body as its own.
 * Any other counts as wrong, and a connection that is lost ends the run with a complaint.
 *
 * The agent answers GET with a small JSON document, POST /bot with an empty one, and any other POST
 * with the body that it was sent.  A POST /bot whose body holds "hold" is never answered: it is a
 * session that lasts.
 *
 * --spin polls without sleeping during a run.  --watch reports the CPU time of those processes over
 * the measuring window, read at its very edges.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "load.h"

#define MESSAGE_BYTES 262144 /* the largest message, head and body */
#define MOST_CONNECTIONS 1024
#define LAST_ANSWERS_NS 2000000000ull /* so long answers are waited for behind the window */

/* ---- options and totals --------------------------------------------------------------- */

struct options {
    unsigned agent_port, port, connections;
    int answer; /* the status that is right */
    double warm_up, seconds, rate;
    bool console, spin, echo, fresh;
    char request[512];
    pid_t watch[64];
    unsigned watched;
};

struct totals {
    uint64_t answered, wrong, idle; /* in the measuring window; idle in ns */
    uint64_t *latencies;
    size_t room;
};

static struct options options;
static struct totals totals;
static int poller;
static bool measuring, spinning, command_waits;
static char *request;
static size_t request_length, request_head;

/* ---- connections ---------------------------------------------------------------------- */

enum role { LISTENER, CONSOLE, AGENT, CLIENT };

struct connection {
    int fd;
    enum role role;
    bool closed, busy;
    uint64_t due;       /* CLIENT: when the request under way was due */
    uint8_t *in;
    size_t in_length;
    const uint8_t *out; /* what is still to be sent: of `request`, or of `kept` */
    size_t out_length;
    uint8_t *kept;      /* AGENT: its answer */
};

static struct connection *idle[MOST_CONNECTIONS];
static unsigned idle_count; /* with --fresh: how many more may be opened */

static void watch_events(struct connection *c, int operation, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = c};
    if (epoll_ctl(poller, operation, c->fd, &event))
        die("epoll_ctl: %s", strerror(errno));
}

static struct connection *connection_new(int fd, enum role role, uint32_t events)
{
    struct connection *c = calloc(1, sizeof *c);
    if (!c || (role >= AGENT && !(c->in = malloc(MESSAGE_BYTES)))
        || (role == AGENT && !(c->kept = malloc(MESSAGE_BYTES))))
        die("out of memory");
    c->fd = fd;
    c->role = role;
    watch_events(c, EPOLL_CTL_ADD, events);
    return c;
}

static void connection_close(struct connection *c)
{
    if (!c->closed)
        close(c->fd);
    c->closed = true; /* the event loop frees an agent's; run() its clients */
}

static void connection_free(struct connection *c)
{
    free(c->in);
    free(c->kept);
    free(c);
}

static void connection_flush(struct connection *c)
{
    while (c->out_length) {
        ssize_t n = send(c->fd, c->out, c->out_length, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN)
            return;
        if (n < 0) {
            connection_close(c);
            return;
        }
        c->out += n;
        c->out_length -= (size_t)n;
    }
    watch_events(c, EPOLL_CTL_MOD, EPOLLIN);
}

static void connection_send(struct connection *c, const void *data, size_t length)
{
    ssize_t n = send(c->fd, data, length, MSG_NOSIGNAL);
    if (n < 0 && errno != EAGAIN) {
        connection_close(c);
        return;
    }
    if (n == (ssize_t)length)
        return;
    n = n < 0 ? 0 : n;
    c->out = (const uint8_t *)data + n;
    c->out_length = length - (size_t)n;
    watch_events(c, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
}

/* ---- HTTP messages (RFC 9112) --------------------------------------------------------- */

/* The value of a header, or NULL; `head` ends with its last CRLF. */
static const char *header(const char *head, size_t length, const char *name)
{
    size_t n = strlen(name);
    const char *end = head + length;
    for (const char *line = head; line < end;) {
        const char *next = memchr(line, '\n', (size_t)(end - line));
        next = next ? next + 1 : end;
        if ((size_t)(next - line) > n + 1 && line[n] == ':' && !strncasecmp(line, name, n)) {
            for (line += n + 1; *line == ' '; line++)
                ;
            return line;
        }
        line = next;
    }
    return NULL;
}

/*
 * Joins the chunks that begin at `in`, in place.  Returns the bytes they took on the wire, 0 while some are
 * missing; nothing is changed then.
 */
static size_t chunks_join(uint8_t *in, size_t length, size_t *body)
{
    for (int joining = 0; joining < 2; joining++) {
        size_t at = 0;
        *body = 0;
        for (;;) {
            uint8_t *end = memmem(in + at, length - at, "\r\n", 2);
            if (!end)
                return 0;
            size_t size = strtoul((char *)in + at, NULL, 16), from = (size_t)(end - in) + 2;
            if (from + size + 2 > length)
                return 0;
            if (joining)
                memmove(in + *body, in + from, size);
            *body += size;
            at = from + size + 2;
            if (!size) {
                if (joining)
                    return at;
                break;
            }
        }
    }
    return 0;
}

struct message {
    const char *head;
    uint8_t *body;
    size_t head_length, body_length, taken;
};

/* Whether a whole message has come; its chunks are joined. */
static bool message_read(struct connection *c, struct message *m)
{
    uint8_t *end = memmem(c->in, c->in_length, "\r\n\r\n", 4);
    if (!end)
        return false;
    m->head = (char *)c->in;
    m->head_length = (size_t)(end - c->in) + 2;
    m->body = end + 4;
    size_t rest = c->in_length - m->head_length - 2;
    const char *length = header(m->head, m->head_length, "Content-Length");
    if (!length && header(m->head, m->head_length, "Transfer-Encoding")) {
        size_t taken = chunks_join(m->body, rest, &m->body_length);
        m->taken = m->head_length + 2 + taken;
        return taken;
    }
    m->body_length = length ? strtoul(length, NULL, 10) : 0;
    m->taken = m->head_length + 2 + m->body_length;
    return m->body_length <= rest;
}

static void agent_answer(struct connection *c, const struct message *m)
{
    static const char small[] = "{\"status\":\"ready\",\"agent\":\"echo\",\"calls\":[1,2,3]}";
    const void *body = m->body;
    size_t length = m->body_length;
    if (!strncmp(m->head, "POST /bot ", 10)) {
        if (memmem(body, length, "hold", 4))
            return;
        body = "{}";
        length = 2;
    } else if (strncmp(m->head, "POST ", 5)) {
        body = small;
        length = sizeof small - 1;
    }
    int head = sprintf((char *)c->kept, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                                        "Content-Length: %zu\r\n\r\n", length);
    if ((size_t)head + length > MESSAGE_BYTES)
        die("a body of %zu bytes is more than the agent takes", length);
    memcpy(c->kept + head, body, length);
    connection_send(c, c->kept, (size_t)head + length);
}

static void client_take(struct connection *c, const struct message *m)
{
    bool right = m->head_length > 12 && atoi(m->head + 9) == options.answer;
    if (options.echo)
        right = right && m->body_length == request_length - request_head
                && !memcmp(m->body, request + request_head, m->body_length);
    if (!c->busy)
        die("an answer that nobody asked for");
    if (measuring) {
        totals.wrong += !right;
        if (totals.answered == totals.room) {
            totals.room = totals.room ? totals.room * 2 : 4096;
            if (!(totals.latencies = realloc(totals.latencies, totals.room * sizeof *totals.latencies)))
                die("out of memory");
        }
        totals.latencies[totals.answered++] = now_ns() - c->due;
    }
    c->busy = false;
    if (!options.fresh)
        idle[idle_count++] = c;
}

static void connection_read(struct connection *c)
{
    ssize_t n = recv(c->fd, c->in + c->in_length, MESSAGE_BYTES - c->in_length, 0);
    if (n <= 0) {
        if (n < 0 && errno == EAGAIN)
            return;
        if (c->role == CLIENT && options.fresh && !c->busy)
            idle_count++;
        else if (c->role == CLIENT)
            die("a connection was lost%s: %s", c->busy ? " before its answer" : "", n ? strerror(errno) : "closed");
        connection_close(c);
        return;
    }
    c->in_length += (size_t)n;
    struct message m;
    while (!c->closed && c->in_length && message_read(c, &m)) {
        if (c->role == AGENT)
            agent_answer(c, &m);
        else
            client_take(c, &m);
        c->in_length -= m.taken;
        memmove(c->in, c->in + m.taken, c->in_length);
    }
    if (c->in_length == MESSAGE_BYTES)
        die("a message of more than %d bytes", MESSAGE_BYTES);
}

static void listener_accept(struct connection *listener)
{
    int on = 1, fd;
    while ((fd = accept4(listener->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        connection_new(fd, AGENT, EPOLLIN);
    }
}

/* Waits for events until `deadline` at the latest (with --spin: not at all) and handles them. */
static void loop_once(uint64_t deadline)
{
    struct epoll_event events[256];
    uint64_t now = now_ns(), wait = deadline > now && !spinning ? deadline - now : 0;
    struct timespec timeout = {(time_t)(wait / 1000000000ull), (long)(wait % 1000000000ull)};
    int n = epoll_pwait2(poller, events, 256, &timeout, NULL);
    if (!n)
        totals.idle += now_ns() - now;
    for (int i = 0; i < n; i++) {
        struct connection *c = events[i].data.ptr;
        if (c->closed)
            continue;
        if (c->role == LISTENER)
            listener_accept(c);
        else if (c->role == CONSOLE)
            command_waits = true;
        else {
            if (events[i].events & EPOLLOUT)
                connection_flush(c);
            if (!c->closed && events[i].events & ~(uint32_t)EPOLLOUT)
                connection_read(c);
        }
        if (c->closed && (c->role == AGENT || options.fresh))
            connection_free(c);
    }
}

static int socket_new(unsigned port, bool listening)
{
    int on = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (listening ? bind(fd, (struct sockaddr *)&address, sizeof address) || listen(fd, 4096)
                  : connect(fd, (struct sockaddr *)&address, sizeof address))
        die("port %u: %s", port, strerror(errno));
    if (fcntl(fd, F_SETFL, O_NONBLOCK))
        die("fcntl: %s", strerror(errno));
    return fd;
}

/* ---- the run -------------------------------------------------------------------------- */

static void request_read(void)
{
    FILE *file = fopen(options.request, "r");
    if (!file)
        die("cannot read %s", options.request);
    free(request);
    request = malloc(MESSAGE_BYTES);
    request_length = request ? fread(request, 1, MESSAGE_BYTES, file) : 0;
    fclose(file);
    char *end = request_length ? memmem(request, request_length, "\r\n\r\n", 4) : NULL;
    if (!end)
        die("%s holds no request", options.request);
    request_head = (size_t)(end - request) + 4;
}

/* Sends what is due until `end`; without --rate something always is. */
static void talk(uint64_t base, uint64_t *next, uint64_t end)
{
    for (;;) {
        uint64_t now = now_ns(), due = now;
        if (now >= end)
            return;
        if (options.rate > 0)
            due = base + (uint64_t)((double)*next * 1e9 / options.rate);
        if (!idle_count || due > now) {
            loop_once(idle_count && due < end ? due : end);
            continue;
        }
        struct connection *c = idle[--idle_count];
        if (options.fresh)
            c = connection_new(socket_new(options.port, false), CLIENT, EPOLLIN);
        ++*next;
        c->busy = true;
        c->due = due;
        connection_send(c, request, request_length);
        if (*next % 16 == 0)
            loop_once(0); /* late: keep reading all the same */
    }
}

static int ascending(const void *left, const void *right)
{
    uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;
    return (a > b) - (a < b);
}

/* The latency below which `share` of all lie, in microseconds. */
static double quantile_us(double share)
{
    size_t at = (size_t)((double)totals.answered * share);
    return totals.answered ? (double)totals.latencies[at < totals.answered ? at : totals.answered - 1] / 1000.0 : 0;
}

static void run(void)
{
    struct connection *clients[MOST_CONNECTIONS];
    request_read();
    idle_count = 0;
    for (unsigned i = 0; i < options.connections; i++) {
        clients[i] = options.fresh ? NULL : connection_new(socket_new(options.port, false), CLIENT, EPOLLIN);
        idle[idle_count++] = clients[i];
    }
    spinning = options.spin;
    uint64_t base = now_ns(), next = 0, start = base + (uint64_t)(options.warm_up * 1e9);
    uint64_t end = start + (uint64_t)(options.seconds * 1e9);
    talk(base, &next, start);
    measuring = true;
    totals.idle = 0;
    uint64_t cpu = cpu_of_all(options.watch, options.watched), own = own_cpu(), began = now_ns();
    talk(base, &next, end);
    double window = (double)(now_ns() - began) / 1e9;
    double used = (double)(cpu_of_all(options.watch, options.watched) - cpu) / 1e9;
    double own_used = (double)(own_cpu() - own) / 1e9, free_s = (double)totals.idle / 1e9;
    measuring = spinning = false;
    uint64_t waiting = options.connections - idle_count;
    for (uint64_t limit = now_ns() + LAST_ANSWERS_NS; idle_count < options.connections && now_ns() < limit;)
        loop_once(limit);
    unsigned missing = options.connections - idle_count;
    for (unsigned i = 0; i < options.connections && !options.fresh; i++) {
        connection_close(clients[i]);
        connection_free(clients[i]);
    }
    if (missing)
        die("%u answers did not come", missing);
    qsort(totals.latencies, totals.answered, sizeof *totals.latencies, ascending);
    printf("{\"window\":%.4f,\"answered\":%lu,\"wrong\":%lu,\"waiting\":%lu,\"cpu_seconds\":%.5f,"
           "\"generator_load\":%.3f,\"generator_cpu_seconds\":%.4f,\"p50_us\":%.1f,\"p99_us\":%.1f,\"max_us\":%.1f}\n",
           window, totals.answered, totals.wrong, waiting, used, 1 - free_s / window, own_used, quantile_us(0.5),
           quantile_us(0.99), quantile_us(1));
    free(totals.latencies);
    totals = (struct totals){0};
}

/* ---- command line --------------------------------------------------------------------- */

static void options_read(int argc, char **argv)
{
    static const struct option known[] = {
        {"agent", required_argument, 0, 'a'},   {"port", required_argument, 0, 'o'},
        {"request", required_argument, 0, 'q'}, {"connections", required_argument, 0, 'c'},
        {"warm-up", required_argument, 0, 'w'}, {"seconds", required_argument, 0, 's'},
        {"rate", required_argument, 0, 'r'},    {"answer", required_argument, 0, 'n'},
        {"watch", required_argument, 0, 'p'},   {"console", no_argument, 0, 'i'},
        {"spin", no_argument, 0, 'b'},          {"echo", no_argument, 0, 'e'},
        {"fresh", no_argument, 0, 'f'},         {0}};
    options = (struct options){.connections = 1, .answer = 200, .warm_up = 0.3, .seconds = 1};
    optind = 0;
    for (int o; (o = getopt_long(argc, argv, "", known, NULL)) != -1;) {
        switch (o) {
        case 'a': options.agent_port = (unsigned)atoi(optarg); break;
        case 'o': options.port = (unsigned)atoi(optarg); break;
        case 'q': snprintf(options.request, sizeof options.request, "%s", optarg); break;
        case 'c': options.connections = (unsigned)atoi(optarg); break;
        case 'w': options.warm_up = atof(optarg); break;
        case 's': options.seconds = atof(optarg); break;
        case 'r': options.rate = atof(optarg); break;
        case 'n': options.answer = atoi(optarg); break;
        case 'i': options.console = true; break;
        case 'b': options.spin = true; break;
        case 'e': options.echo = true; break;
        case 'f': options.fresh = true; break;
        case 'p':
            for (char *pid = strtok(optarg, ","); pid && options.watched < 64; pid = strtok(NULL, ","))
                options.watch[options.watched++] = atoi(pid);
            break;
        default:
            exit(2);
        }
    }
}

int main(int argc, char **argv)
{
    options_read(argc, argv);
    if (!options.agent_port || !options.console)
        die("give --agent PORT --console");
    prctl(PR_SET_TIMERSLACK, 1ul);
    poller = epoll_create1(EPOLL_CLOEXEC);
    connection_new(socket_new(options.agent_port, true), LISTENER, EPOLLIN);
    struct connection *commands = connection_new(STDIN_FILENO, CONSOLE, EPOLLIN | EPOLLONESHOT);
    setvbuf(stdin, NULL, _IONBF, 0);
    for (;;) {
        char line[4096], *words[64] = {"httpload"};
        int count = 1;
        while (!command_waits)
            loop_once(now_ns() + 1000000000ull);
        if (!fgets(line, sizeof line, stdin))
            return 0;
        for (char *word = strtok(line, " \n"); word && count < 63; word = strtok(NULL, " \n"))
            words[count++] = word;
        options_read(count, words);
        if (!options.connections || options.connections > MOST_CONNECTIONS || !options.port)
            die("--port, and --connections from 1 to %d", MOST_CONNECTIONS);
        run();
        fflush(stdout);
        command_waits = false;
        watch_events(commands, EPOLL_CTL_MOD, EPOLLIN | EPOLLONESHOT);
    }
}
