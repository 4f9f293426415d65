/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * wsload - paced telephony-media load for WebSocket gateways, and the echo agent behind them.
 *
 *   wsload --agent 9001                                   echo agent, runs until killed
 *   wsload --url ws://127.0.0.1:8080/ws/twilio --calls 200 --seconds 6 --watch PID
 *   wsload --agent 9001 --console                         echo agent; every line of options on
 *                                                         stdin is a run, its report a line on stdout
 *
 * A call is one carrier connection.  It opens, says `connected` and `start`, sends one media
 * message and is set up once the agent's answer to that message has come back.  When every
 * call is set up, each sends one 20 ms mu-law frame every 20 ms; the agent answers every
 * media message with one of its own, so a proxy in between relays 100 messages a second a call.
 *
 * The load is open loop: a frame is sent when it is due, whether or not earlier ones were
 * answered.  Latency is the time from handing a message to the kernel to having read its
 * answer, i.e. it crosses a proxy twice.  The n-th answer belongs to the n-th message; a
 * serial number inside the payload proves it (--no-verify where a gateway resamples).
 *
 * --spin polls without sleeping during a run: a proxy then never pays for waking this core,
 * and the generator is never late because it slept.
 *
 * --rate N opens N calls a second instead, each when it is due, whether or not earlier ones are up:
 * calls then stay silent after their first message.  With --hold S each hangs up S seconds after it
 * was set up; without, all stay until the end.  --settle S keeps watching the processes for S seconds
 * more, so that work they do behind the call (writing its record, say) is in the figure.
 *
 * --interval-ms N sends each call's messages further apart: the same message, only less often.
 *
 * --also PORT[,PORT] lets further ports take calls in turns with the URL's: several gateways of one cluster.
 *
 * --keep leaves the calls up, silent, for later runs with the same --set K (0 to 31) and URL, which open what
 * is missing of their --calls: several sets stand side by side, each measured when its turn comes.  --silent
 * sends nothing in a run's window.
 *
 * --listen opens calls whose answers are not held against their messages: such a call is set up when the
 * first sound is heard, whoever makes it, and what is heard later is counted.
 *
 * --kill PID --victim NAME ends an agent (wsload --agent PORT --name NAME, which greets every caller and signs
 * its messages) at the beginning of the window, and reports for each listening call that had it when another
 * agent was heard; the window is over when all have.
 *
 * --watch PID[,PID...] reports the CPU time of those processes over the set-up phase and over
 * the measuring window, read at their very edges, and their resident memory before and during.  The
 * report is one line of JSON on stdout.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <getopt.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "load.h"

#define AUDIO_BYTES 160        /* 20 ms of 8 kHz mu-law */
#define AUDIO_CHARS 216        /* the same in base64 */
#define SERIAL_CHARS 16        /* leading base64 characters that carry call and serial number */
#define IN_BYTES 16384         /* receive buffer of a connection, also the largest frame */
#define IN_FLIGHT 1024         /* unanswered messages a call may have before frames are skipped */
#define STALL_NS 30000000000ull /* set-up that takes longer than this is given up */
#define RATE_STALL_NS 2000000000ull /* with --rate: so long after the last call was due */

/* ---- histogram: 64 linear steps per power of two, so within 1.6 % --------------------- */

struct histogram {
    uint64_t count[64 * 64];
    uint64_t total, max;
};

static void histogram_add(struct histogram *h, uint64_t value)
{
    unsigned shift = value < 64 ? 0 : 57 - (unsigned)__builtin_clzll(value);
    h->count[shift * 64 + (value >> shift)]++;
    h->total++;
    if (value > h->max)
        h->max = value;
}

/* The value below which `share` of all entries lie, in microseconds. */
static double histogram_us(const struct histogram *h, double share)
{
    uint64_t seen = 0, wanted = (uint64_t)((double)h->total * share);
    for (unsigned i = 0; i < sizeof h->count / sizeof *h->count; i++) {
        seen += h->count[i];
        if (h->count[i] && seen > wanted) {
            unsigned shift = i < 128 ? 0 : i / 64 - 1;
            return (double)((uint64_t)(i - shift * 64) << shift) / 1000.0;
        }
    }
    return (double)h->max / 1000.0;
}

static void histogram_print(const char *name, const struct histogram *h)
{
    printf("\"%s\":{\"p50\":%.1f,\"p90\":%.1f,\"p99\":%.1f,\"p999\":%.1f,\"max\":%.1f}", name,
           histogram_us(h, 0.5), histogram_us(h, 0.9), histogram_us(h, 0.99), histogram_us(h, 0.999),
           (double)h->max / 1000.0);
}

/* ---- base64 and SHA-1, for the handshake and the payload ------------------------------ */

static size_t base64(const uint8_t *in, size_t n, char *out)
{
    static const char digits[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    char *start = out;
    for (size_t i = 0; i < n; i += 3) {
        uint32_t bits = (uint32_t)in[i] << 16;
        if (i + 1 < n) bits |= (uint32_t)in[i + 1] << 8;
        if (i + 2 < n) bits |= in[i + 2];
        *out++ = digits[bits >> 18];
        *out++ = digits[bits >> 12 & 63];
        *out++ = i + 1 < n ? digits[bits >> 6 & 63] : '=';
        *out++ = i + 2 < n ? digits[bits & 63] : '=';
    }
    return (size_t)(out - start);
}

static uint32_t rotate_left(uint32_t value, int by)
{
    return value << by | value >> (32 - by);
}

/* SHA-1 of at most 119 bytes (two blocks): enough for a WebSocket key. */
static void sha1(const uint8_t *message, size_t n, uint8_t digest[20])
{
    uint32_t h[5] = {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0};
    uint8_t padded[128] = {0};
    size_t blocks = n < 56 ? 1 : 2;
    uint64_t bits = htobe64((uint64_t)n * 8);
    memcpy(padded, message, n);
    padded[n] = 0x80;
    memcpy(padded + blocks * 64 - 8, &bits, 8);
    for (size_t block = 0; block < blocks; block++) {
        uint32_t w[80];
        for (int i = 0; i < 16; i++) {
            memcpy(&w[i], padded + block * 64 + i * 4, 4);
            w[i] = be32toh(w[i]);
        }
        for (int i = 16; i < 80; i++)
            w[i] = rotate_left(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
        uint32_t a = h[0], b = h[1], c = h[2], d = h[3], e = h[4];
        for (int i = 0; i < 80; i++) {
            uint32_t f = i < 20   ? (b & c) | (~b & d)
                         : i < 40 ? b ^ c ^ d
                         : i < 60 ? (b & c) | (b & d) | (c & d)
                                  : b ^ c ^ d;
            static const uint32_t k[4] = {0x5a827999, 0x6ed9eba1, 0x8f1bbcdc, 0xca62c1d6};
            uint32_t t = rotate_left(a, 5) + f + e + k[i / 20] + w[i];
            e = d;
            d = c;
            c = rotate_left(b, 30);
            b = a;
            a = t;
        }
        h[0] += a; h[1] += b; h[2] += c; h[3] += d; h[4] += e;
    }
    for (int i = 0; i < 5; i++) {
        uint32_t word = htobe32(h[i]);
        memcpy(digest + i * 4, &word, 4);
    }
}

/* ---- options and totals --------------------------------------------------------------- */

struct options {
    char host[256], port[8], path[512];
    char headers[2048];       /* extra request header lines */
    char parameters[1024];    /* customParameters of the start message, as JSON members */
    unsigned agent_port, calls, opening;
    double warm_up, seconds;
    double rate, hold, settle; /* calls a second, seconds, seconds */
    uint64_t interval_ns;      /* between two messages of a call */
    bool console, spin, verify, keep, silent, listen;
    unsigned set;
    char name[16];            /* of this agent, in every message it sends */
    pid_t kill;
    char victim[16];          /* the name of the agent that is killed */
    in_port_t also[8];        /* further ports, in network order, that take calls in turns with the URL's */
    unsigned also_count;
    pid_t watch[64];
    unsigned watched;
};

struct totals {
    struct histogram latency, lag, upgrade, set_up;
    uint64_t sent, received, skipped; /* in the measuring window */
    uint64_t wrong, lost_calls, idle;
    uint64_t pings;                   /* that callers of the measured set got in the window */
    uint64_t heard;                   /* what all who listen heard in it */
    unsigned set_up_calls, clean_closes, closed;
    unsigned victims, recovered;
};

#define SETS 32

/* Calls that stand from one run to the next. */
struct set {
    struct connection **calls;
    unsigned count;
    char host[256], port[8];
};

static struct options options;
static struct totals totals;
static struct set sets[SETS];
static int poller;
static bool measuring, spinning, command_waits;
static struct connection **set_up_order; /* callers in the order in which they were set up */
static uint32_t random_state = 0x9e3779b9;

static uint32_t random32(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 17;
    return random_state ^= random_state << 5;
}

/* Resident memory of the watched processes together, in KiB. */
static long watched_rss(void)
{
    long sum = 0, pages = 0;
    for (unsigned i = 0; i < options.watched; i++) {
        char path[64];
        snprintf(path, sizeof path, "/proc/%d/statm", options.watch[i]);
        FILE *file = fopen(path, "r");
        if (!file || fscanf(file, "%*d %ld", &pages) != 1)
            die("cannot read %s", path);
        fclose(file);
        sum += pages * (sysconf(_SC_PAGESIZE) / 1024);
    }
    return sum;
}

/* ---- connections ---------------------------------------------------------------------- */

enum role { LISTENER, CONSOLE, AGENT, CALLER };
enum state { CONNECTING, HANDSHAKE, OPEN, CLOSING, CLOSED };

struct connection {
    int fd;
    enum role role;
    enum state state;
    bool close_seen;
    char sid[64]; /* streamSid, without quotes */
    uint8_t *in;
    size_t in_length;
    uint8_t *out; /* what the kernel would not take yet */
    size_t out_length, out_room;
    /* CALLER only */
    bool listens;
    unsigned set;
    char agent[16]; /* the name of whom it hears, where agents say theirs */
    uint32_t number, sent, answered;
    uint64_t began, set_up_at, recovered_at;
    uint64_t sent_at[IN_FLIGHT];
};

static void watch_events(struct connection *c, int operation, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = c};
    if (epoll_ctl(poller, operation, c->fd, &event))
        die("epoll_ctl: %s", strerror(errno));
}

static struct connection *connection_new(int fd, enum role role, uint32_t events)
{
    size_t size = role == CALLER ? sizeof(struct connection)
                                 : offsetof(struct connection, number);
    struct connection *c = calloc(1, size);
    if (!c || (role >= AGENT && !(c->in = malloc(IN_BYTES))))
        die("out of memory");
    c->fd = fd;
    c->role = role;
    c->state = role == CALLER ? CONNECTING : HANDSHAKE;
    watch_events(c, EPOLL_CTL_ADD, events);
    return c;
}

static void connection_close(struct connection *c)
{
    if (c->state == CLOSED)
        return;
    close(c->fd);
    free(c->out);
    c->out = NULL;
    c->out_length = 0;
    if (c->role == CALLER) {
        totals.closed++;
        totals.clean_closes += c->close_seen;
        totals.lost_calls += c->state != CLOSING;
    }
    c->state = CLOSED; /* the event loop frees an agent; run() still looks at its callers */
}

static void connection_flush(struct connection *c)
{
    ssize_t n = send(c->fd, c->out, c->out_length, MSG_NOSIGNAL);
    if (n < 0 && errno != EAGAIN) {
        connection_close(c);
    } else if (n > 0) {
        c->out_length -= (size_t)n;
        memmove(c->out, c->out + n, c->out_length);
        if (!c->out_length)
            watch_events(c, EPOLL_CTL_MOD, EPOLLIN);
    }
}

static void connection_send(struct connection *c, const void *data, size_t length)
{
    ssize_t n = 0;
    if (!c->out_length) {
        n = send(c->fd, data, length, MSG_NOSIGNAL);
        if (n < 0 && errno != EAGAIN) {
            connection_close(c);
            return;
        }
        if (n == (ssize_t)length)
            return;
        if (n < 0)
            n = 0;
        watch_events(c, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
    }
    size_t rest = length - (size_t)n;
    if (c->out_length + rest > c->out_room) {
        c->out_room = (c->out_length + rest) * 2;
        if (!(c->out = realloc(c->out, c->out_room)))
            die("out of memory");
    }
    memcpy(c->out + c->out_length, (const uint8_t *)data + n, rest);
    c->out_length += rest;
}

/* ---- WebSocket frames ----------------------------------------------------------------- */

enum opcode { TEXT = 1, CLOSE = 8, PING = 9, PONG = 10 };

static void apply_mask(uint8_t *data, size_t n, uint32_t mask)
{
    uint64_t wide = (uint64_t)mask << 32 | mask;
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        uint64_t word;
        memcpy(&word, data + i, 8);
        word ^= wide;
        memcpy(data + i, &word, 8);
    }
    for (; i < n; i++)
        data[i] ^= (uint8_t)(wide >> 8 * (i & 7));
}

/* One whole frame; a caller masks, as a client must.  At most 64 KiB. */
static void frame_send(struct connection *c, enum opcode opcode, const char *text, size_t n)
{
    uint8_t frame[8 + IN_BYTES];
    size_t head = 2;
    if (n > IN_BYTES)
        die("frame too large");
    frame[0] = 0x80 | opcode;
    if (n < 126) {
        frame[1] = (uint8_t)n;
    } else {
        frame[1] = 126;
        frame[2] = (uint8_t)(n >> 8);
        frame[3] = (uint8_t)n;
        head = 4;
    }
    if (c->role == CALLER) {
        uint32_t mask = random32();
        frame[1] |= 0x80;
        memcpy(frame + head, &mask, 4);
        head += 4;
        memcpy(frame + head, text, n);
        apply_mask(frame + head, n, mask);
    } else {
        memcpy(frame + head, text, n);
    }
    connection_send(c, frame, head + n);
}

/* ---- media messages ------------------------------------------------------------------- */

/* The value of the first `"key":"..."` in the text, or NULL; JSON spacing may vary. */
static const char *json_string(const char *text, size_t n, const char *key, size_t *length)
{
    const char *end = text + n, *at = memmem(text, n, key, strlen(key));
    if (!at)
        return NULL;
    for (at += strlen(key); at < end && (*at == ':' || *at == ' '); at++)
        ;
    if (at == end || *at++ != '"')
        return NULL;
    const char *close = memchr(at, '"', (size_t)(end - at));
    *length = close ? (size_t)(close - at) : 0;
    return close ? at : NULL;
}

static char audio[AUDIO_CHARS]; /* random sound, the same in every message after its serial number */

/*
 * The start of a payload: call and serial number, six bits a sample.  Samples of 0x80 and above
 * survive a gateway that decodes mu-law and encodes it again (0x7f, for one, would not).
 */
static void serial_text(char text[SERIAL_CHARS], uint32_t call, uint32_t serial)
{
    uint8_t samples[12];
    for (int i = 0; i < 6; i++) {
        samples[i] = 0x80 | (call >> 6 * i & 63);
        samples[6 + i] = 0x80 | (serial >> 6 * i & 63);
    }
    base64(samples, sizeof samples, text);
}

static void media_send(struct connection *c, uint64_t now)
{
    char text[640];
    c->sent_at[c->sent % IN_FLIGHT] = now;
    int n = snprintf(text, sizeof text,
                     "{\"event\":\"media\",\"sequenceNumber\":\"%u\",\"media\":{\"track\":\"inbound\","
                     "\"chunk\":\"%u\",\"timestamp\":\"%u\",\"payload\":\"",
                     c->sent + 2, c->sent + 1, c->sent * (unsigned)(options.interval_ns / 1000000));
    memcpy(text + n, audio, AUDIO_CHARS);
    serial_text(text + n, c->number, c->sent);
    n += AUDIO_CHARS;
    n += snprintf(text + n, sizeof text - (size_t)n, "\"},\"streamSid\":\"%s\"}", c->sid);
    c->sent++;
    frame_send(c, TEXT, text, (size_t)n);
}

static void caller_start(struct connection *c)
{
    char text[2048];
    static const char connected[] = "{\"event\":\"connected\",\"protocol\":\"Call\",\"version\":\"1.0.0\"}";
    frame_send(c, TEXT, connected, sizeof connected - 1);
    snprintf(c->sid, sizeof c->sid, "MZ%08x%08x%08x%08x", random32(), random32(), random32(), c->number);
    int n = snprintf(text, sizeof text,
                     "{\"event\":\"start\",\"sequenceNumber\":\"1\",\"start\":{\"accountSid\":"
                     "\"AC00000000000000000000000000000000\",\"streamSid\":\"%s\",\"callSid\":"
                     "\"CA%s\",\"tracks\":[\"inbound\"],\"mediaFormat\":{\"encoding\":"
                     "\"audio/x-mulaw\",\"sampleRate\":8000,\"channels\":1},"
                     "\"customParameters\":{%s}},\"streamSid\":\"%s\"}",
                     c->sid, c->sid + 2, options.parameters, c->sid);
    frame_send(c, TEXT, text, (size_t)n);
    media_send(c, now_ns());
}

static void caller_set_up(struct connection *c, uint64_t now)
{
    histogram_add(&totals.set_up, now - c->began);
    c->set_up_at = now;
    set_up_order[totals.set_up_calls++] = c;
}

/* Sound for a caller that listens: the agent's, or what is played while there is none. */
static void caller_heard(struct connection *c, const char *text, size_t n, uint64_t now)
{
    size_t length;
    const char *name = json_string(text, n, "\"agent\"", &length);
    if (name && length < sizeof c->agent && (strlen(c->agent) != length || memcmp(c->agent, name, length))) {
        if (options.kill && !c->recovered_at && !strcmp(c->agent, options.victim)) {
            c->recovered_at = now;
            totals.recovered++;
        }
        memset(c->agent, 0, sizeof c->agent);
        memcpy(c->agent, name, length);
    }
    if (!c->answered++)
        caller_set_up(c, now);
    else
        totals.heard += measuring;
}

static void caller_message(struct connection *c, const char *text, size_t n, uint64_t now)
{
    size_t length;
    const char *payload = json_string(text, n, "\"payload\"", &length);
    if (!payload)
        return; /* mark, clear and the like */
    if (c->listens) {
        caller_heard(c, text, n, now);
        return;
    }
    if (c->answered == c->sent) {
        totals.wrong++;
        return;
    }
    if (options.verify) {
        char expected[SERIAL_CHARS];
        serial_text(expected, c->number, c->answered);
        if (length != AUDIO_CHARS || memcmp(payload, expected, SERIAL_CHARS))
            totals.wrong++;
    }
    uint64_t waited = now - c->sent_at[c->answered++ % IN_FLIGHT];
    if (c->answered == 1) {
        caller_set_up(c, now);
    } else if (measuring && c->set == options.set) {
        histogram_add(&totals.latency, waited);
        totals.received++;
    }
}

static void agent_say(struct connection *c, const char *payload, size_t length)
{
    char text[IN_BYTES], name[40] = "";
    if (length > sizeof text - 256)
        return;
    if (options.name[0])
        snprintf(name, sizeof name, "\"agent\":\"%s\",", options.name);
    int size = snprintf(text, sizeof text,
                        "{\"event\":\"media\",%s\"streamSid\":\"%s\",\"media\":{\"payload\":\"", name, c->sid);
    memcpy(text + size, payload, length);
    memcpy(text + size + length, "\"}}", 3);
    frame_send(c, TEXT, text, (size_t)size + length + 3);
}

static void agent_message(struct connection *c, const char *text, size_t n)
{
    size_t length;
    if (!c->sid[0]) {
        const char *sid = json_string(text, n, "\"streamSid\"", &length);
        if (!sid)
            sid = json_string(text, n, "\"stream_sid\"", &length);
        if (sid && length < sizeof c->sid)
            memcpy(c->sid, sid, length);
        if (c->sid[0] && options.name[0])
            agent_say(c, audio, AUDIO_CHARS); /* its greeting */
    }
    const char *payload = json_string(text, n, "\"payload\"", &length);
    if (payload)
        agent_say(c, payload, length);
}

/* Takes whole frames off the input; returns how many bytes they were. */
static size_t frames_read(struct connection *c, uint64_t now)
{
    size_t taken = 0;
    while (c->state == OPEN || c->state == CLOSING) {
        uint8_t *frame = c->in + taken;
        size_t there = c->in_length - taken, head = 2;
        if (there < 2)
            break;
        bool masked = frame[1] & 0x80;
        size_t n = frame[1] & 0x7f;
        if (n == 127)
            die("a frame of 64 KiB or more");
        if (n == 126) {
            if (there < 4)
                break;
            n = (size_t)frame[2] << 8 | frame[3];
            head = 4;
        }
        size_t body = head + (masked ? 4 : 0);
        if (body + n > IN_BYTES)
            die("a frame of %zu bytes", n);
        if (there < body + n)
            break;
        if (masked) {
            uint32_t mask;
            memcpy(&mask, frame + head, 4);
            apply_mask(frame + body, n, mask);
        }
        if (masked != (c->role == AGENT) || !(frame[0] & 0x80))
            die("a frame that is fragmented or masked the wrong way");
        taken += body + n;
        const char *text = (const char *)frame + body;
        switch (frame[0] & 0x0f) {
        case TEXT:
            if (c->role == CALLER)
                caller_message(c, text, n, now);
            else
                agent_message(c, text, n);
            break;
        case PING:
            totals.pings += measuring && c->role == CALLER && c->set == options.set;
            frame_send(c, PONG, text, n);
            break;
        case CLOSE:
            c->close_seen = true;
            if (c->state == OPEN)
                frame_send(c, CLOSE, text, n < 2 ? 0 : 2);
            if (c->role == AGENT)
                connection_close(c);
            break;
        }
    }
    return taken;
}

/* ---- handshakes ----------------------------------------------------------------------- */

static void caller_request(struct connection *c)
{
    char text[4096], key[25] = {0};
    uint32_t nonce[4] = {random32(), random32(), random32(), random32()};
    base64((const uint8_t *)nonce, sizeof nonce, key);
    int n = snprintf(text, sizeof text,
                     "GET %s HTTP/1.1\r\nHost: %s:%s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                     "Sec-WebSocket-Key: %s\r\nSec-WebSocket-Version: 13\r\n%s\r\n",
                     options.path, options.host, options.port, key, options.headers);
    c->state = HANDSHAKE;
    watch_events(c, EPOLL_CTL_MOD, EPOLLIN);
    connection_send(c, text, (size_t)n);
}

/* Answers a WebSocket request; any other request gets 200, which serves health checks. */
static void agent_answer(struct connection *c, const char *head)
{
    char text[256], accept[29] = {0};
    const char *key = strcasestr(head, "\r\nsec-websocket-key:");
    if (!key) {
        static const char healthy[] = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK";
        connection_send(c, healthy, sizeof healthy - 1);
        return;
    }
    for (key += 20; *key == ' '; key++)
        ;
    uint8_t digest[20];
    int n = snprintf(text, sizeof text, "%.24s258EAFA5-E914-47DA-95CA-C5AB0DC85B11", key);
    sha1((const uint8_t *)text, (size_t)n, digest);
    base64(digest, sizeof digest, accept);
    n = snprintf(text, sizeof text,
                 "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                 "Connection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n", accept);
    c->state = OPEN;
    connection_send(c, text, (size_t)n);
}

/* Takes one HTTP head off the input; returns its length, 0 while it is incomplete. */
static size_t head_read(struct connection *c, uint64_t now)
{
    char *end = memmem(c->in, c->in_length, "\r\n\r\n", 4);
    if (!end)
        return 0;
    *end = '\0';
    const char *head = (const char *)c->in;
    if (c->role == AGENT) {
        agent_answer(c, head);
    } else if (strncmp(head, "HTTP/1.1 101", 12)) {
        die("refused: %.*s", (int)strcspn(head, "\r\n"), head);
    } else {
        c->state = OPEN;
        histogram_add(&totals.upgrade, now - c->began);
        caller_start(c);
    }
    return (size_t)(end + 4 - head);
}

/* ---- the event loop ------------------------------------------------------------------- */

static void connection_read(struct connection *c)
{
    ssize_t n = recv(c->fd, c->in + c->in_length, IN_BYTES - c->in_length, 0);
    if (n <= 0) {
        if (n == 0 || errno != EAGAIN)
            connection_close(c);
        return;
    }
    uint64_t now = c->role == CALLER ? now_ns() : 0;
    c->in_length += (size_t)n;
    size_t taken = 0;
    if (c->state == HANDSHAKE)
        taken = head_read(c, now);
    if (taken) {
        c->in_length -= taken;
        memmove(c->in, c->in + taken, c->in_length);
    }
    taken = frames_read(c, now);
    c->in_length -= taken;
    if (c->in_length)
        memmove(c->in, c->in + taken, c->in_length);
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
        if (c->state == CLOSED)
            continue;
        if (c->role == LISTENER)
            listener_accept(c);
        else if (c->role == CONSOLE)
            command_waits = true;
        else if (c->state == CONNECTING)
            caller_request(c);
        else {
            if (events[i].events & EPOLLOUT)
                connection_flush(c);
            if (c->state != CLOSED && events[i].events & ~(uint32_t)EPOLLOUT)
                connection_read(c);
        }
        if (c->state == CLOSED && c->role == AGENT) {
            free(c->in);
            free(c);
        }
    }
}

static void agent_listen(unsigned port)
{
    int on = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, (struct sockaddr *)&address, sizeof address) || listen(fd, 4096))
        die("cannot listen on port %u: %s", port, strerror(errno));
    connection_new(fd, LISTENER, EPOLLIN);
}

/* ---- the run: open all calls, talk, hang up ------------------------------------------- */

static void call_hang_up(struct connection *c)
{
    char text[256];
    if (c->state != OPEN)
        return;
    int n = snprintf(text, sizeof text, "{\"event\":\"stop\",\"sequenceNumber\":\"%u\",\"stop\":{},"
                                        "\"streamSid\":\"%s\"}", c->sent + 2, c->sid);
    frame_send(c, TEXT, text, (size_t)n);
    if (c->state == OPEN) {
        c->state = CLOSING;
        frame_send(c, CLOSE, "\x03\xe8", 2);
    }
}

static struct connection *call_open(const struct addrinfo *address, uint32_t number)
{
    int on = 1, fd = socket(address->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        die("socket: %s", strerror(errno));
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    uint64_t began = now_ns();
    struct sockaddr_in to = *(const struct sockaddr_in *)address->ai_addr;
    unsigned turn = number % (options.also_count + 1);
    if (turn)
        to.sin_port = options.also[turn - 1];
    if (connect(fd, (struct sockaddr *)&to, sizeof to) && errno != EINPROGRESS)
        die("connect: %s", strerror(errno));
    struct connection *c = connection_new(fd, CALLER, EPOLLOUT);
    c->number = number;
    c->began = began;
    c->listens = options.listen;
    c->set = options.set;
    return c;
}

/* Opens the calls from `opened` on; those before stand. */
static void calls_open(struct connection **calls, unsigned opened)
{
    struct addrinfo hints = {.ai_family = AF_INET, .ai_socktype = SOCK_STREAM}, *address;
    if (getaddrinfo(options.host, options.port, &hints, &address))
        die("unknown host %s", options.host);
    uint64_t give_up = now_ns() + STALL_NS;
    while (totals.set_up_calls < options.calls) {
        while (opened < options.calls && opened < totals.set_up_calls + options.opening) {
            calls[opened] = call_open(address, opened);
            opened++;
        }
        loop_once(now_ns() + 100000000ull);
        if (totals.lost_calls || now_ns() > give_up)
            die("set-up failed: %u of %u calls up, %lu lost", totals.set_up_calls, options.calls,
                totals.lost_calls);
    }
    freeaddrinfo(address);
}

/* Opens calls at --rate, those before `opened` stand, and with --hold ends each when its time has come. */
static void calls_arrive(struct connection **calls, unsigned opened)
{
    struct addrinfo hints = {.ai_family = AF_INET, .ai_socktype = SOCK_STREAM}, *address;
    if (getaddrinfo(options.host, options.port, &hints, &address))
        die("unknown host %s", options.host);
    uint64_t gap = (uint64_t)(1e9 / options.rate), hold = (uint64_t)(options.hold * 1e9);
    uint64_t base = now_ns(), give_up = base + options.calls * gap + hold + RATE_STALL_NS;
    unsigned first = opened, ended = 0;
    while (totals.set_up_calls < options.calls || (hold && ended < options.calls)) {
        uint64_t now = now_ns(), wake = now + 1000000ull;
        for (; opened < options.calls && base + (opened - first) * gap <= now; opened++)
            calls[opened] = call_open(address, opened);
        for (; hold && ended < totals.set_up_calls && set_up_order[ended]->set_up_at + hold <= now; ended++)
            call_hang_up(set_up_order[ended]);
        if (opened < options.calls && base + (opened - first) * gap < wake)
            wake = base + (opened - first) * gap;
        loop_once(wake);
        if (totals.lost_calls || now > give_up)
            die("set-up at %.0f calls/s failed: %u of %u calls up, %lu lost", options.rate, totals.set_up_calls,
                options.calls, totals.lost_calls);
    }
    freeaddrinfo(address);
}

/* Sends every call's frames on time until `end`; call i's share of the interval is random but fixed. */
static void calls_talk(struct connection **calls, const uint64_t *phase, uint64_t *next, uint64_t base,
                       uint64_t end)
{
    while (!options.kill || !measuring || totals.recovered < totals.victims) {
        unsigned i = (unsigned)(*next % options.calls);
        uint64_t due = base + *next / options.calls * options.interval_ns + phase[i];
        uint64_t now = now_ns();
        if (due >= end && now >= end)
            return;
        if (due >= end || now < due) {
            loop_once(due < end ? due : end);
            continue;
        }
        struct connection *c = calls[i];
        ++*next;
        if (c->state == OPEN && (c->listens || c->sent - c->answered < IN_FLIGHT - 1)) {
            if (measuring) {
                histogram_add(&totals.lag, now - due);
                totals.sent++;
            }
            media_send(c, now);
        } else if (measuring) {
            totals.skipped++;
        }
        if (*next % 16 == 0)
            loop_once(0); /* late: keep reading all the same */
    }
}

static void calls_close(struct connection **calls)
{
    for (unsigned i = 0; i < options.calls; i++)
        call_hang_up(calls[i]);
    uint64_t give_up = now_ns() + 3000000000ull;
    while (totals.closed < options.calls && now_ns() < give_up)
        loop_once(give_up);
}

/* What a run does in its window and before it, until `end`. */
static void calls_go_on(struct connection **calls, const uint64_t *phase, uint64_t *next, uint64_t base,
                        uint64_t end)
{
    if (!options.silent)
        calls_talk(calls, phase, next, base, end);
    while (options.silent && now_ns() < end)
        loop_once(end);
}

/* Ends the agent that is to be lost; when that was. */
static uint64_t victim_kill(struct connection **calls)
{
    for (unsigned i = 0; i < options.calls; i++)
        totals.victims += !strcmp(calls[i]->agent, options.victim);
    uint64_t now = now_ns();
    if (kill(options.kill, SIGKILL))
        die("cannot kill process %d: %s", options.kill, strerror(errno));
    return now;
}

static void run(void)
{
    struct set *set = &sets[options.set];
    unsigned standing = set->count;
    if (standing > options.calls)
        die("%u calls stand already", standing);
    if (standing && (strcmp(set->host, options.host) || strcmp(set->port, options.port)))
        die("the calls of set %u stand elsewhere", options.set);
    struct connection **calls = realloc(set->calls, options.calls * sizeof *calls);
    uint64_t *phase = calloc(options.calls, sizeof *phase), next = 0, each[64];
    set_up_order = calloc(options.calls, sizeof *set_up_order);
    if (!calls || !phase || !set_up_order)
        die("out of memory");
    for (unsigned i = 0; i < standing; i++) {
        set_up_order[totals.set_up_calls++] = calls[i];
        totals.closed += calls[i]->state == CLOSED; /* while nobody looked */
    }
    totals.lost_calls = totals.closed;
    for (unsigned i = 0; i < options.calls; i++)
        phase[i] = (uint64_t)(((double)i + (double)random32() / 4294967296.0)
                              * (double)options.interval_ns / options.calls);

    spinning = options.spin;
    long rss = watched_rss();
    uint64_t cpu = cpu_of_all(options.watch, options.watched), began = now_ns();
    if (options.rate > 0)
        calls_arrive(calls, standing);
    else
        calls_open(calls, standing);
    double open_seconds = (double)(now_ns() - began) / 1e9, open_idle = (double)totals.idle / 1e9;
    for (uint64_t settled = now_ns() + (uint64_t)(options.settle * 1e9); now_ns() < settled;)
        loop_once(settled);
    double open_cpu = (double)(cpu_of_all(options.watch, options.watched) - cpu) / 1e9;

    uint64_t base = now_ns(), start = base + (uint64_t)(options.warm_up * 1e9);
    uint64_t end = start + (uint64_t)(options.seconds * 1e9);
    calls_go_on(calls, phase, &next, base, start);
    measuring = true;
    totals.idle = 0;
    uint64_t killed_at = options.kill ? victim_kill(calls) : 0;
    cpu = cpu_of_all(options.watch, options.watched);
    for (unsigned i = 0; i < options.watched; i++)
        each[i] = cpu_of(options.watch[i]);
    uint64_t own = own_cpu();
    began = now_ns();
    calls_go_on(calls, phase, &next, base, end);
    double window = (double)(now_ns() - began) / 1e9;
    double window_cpu = (double)(cpu_of_all(options.watch, options.watched) - cpu) / 1e9;
    double generator_cpu = (double)(own_cpu() - own) / 1e9;
    for (unsigned i = 0; i < options.watched; i++)
        each[i] = cpu_of(options.watch[i]) - each[i];
    double idle = (double)totals.idle / 1e9;
    measuring = spinning = false;
    long rss_talking = watched_rss();
    uint64_t messages = totals.sent + totals.received;
    unsigned opened = options.calls - standing;
    if (!options.keep) {
        calls_close(calls);
        for (unsigned i = 0; i < options.calls; i++)
            connection_close(calls[i]);
    }
    printf("{\"calls\":%u,\"open_seconds\":%.4f,\"open_cpu_us_per_call\":%.1f,\"open_generator_load\":%.3f,"
           "\"window\":%.3f,\"sent\":%lu,\"received\":%lu,\"skipped\":%lu,\"wrong\":%lu,\"lost_calls\":%lu,"
           "\"clean_closes\":%u,\"rss_idle_kb\":%ld,\"rss_kb\":%ld,\"cpu_seconds\":%.4f,"
           "\"cpu_per_million\":%.3f,\"generator_load\":%.3f,\"generator_cpu_seconds\":%.4f,\"cpu_each\":[",
           options.calls, open_seconds, opened ? open_cpu / opened * 1e6 : 0, 1 - open_idle / open_seconds, window,
           totals.sent, totals.received, totals.skipped, totals.wrong, totals.lost_calls, totals.clean_closes, rss,
           rss_talking, window_cpu, messages ? window_cpu / (double)messages * 1e6 : 0, 1 - idle / window,
           generator_cpu);
    for (unsigned i = 0; i < options.watched; i++)
        printf("%s%.4f", i ? "," : "", (double)each[i] / 1e9);
    printf("],\"pings\":%lu,\"heard\":%lu,\"victims\":%u,\"recovered_ms\":[", totals.pings, totals.heard, totals.victims);
    for (unsigned i = 0, shown = 0; i < options.calls; i++)
        if (calls[i]->recovered_at)
            printf("%s%.3f", shown++ ? "," : "", (double)(calls[i]->recovered_at - killed_at) / 1e6);
    printf("],");
    histogram_print("upgrade_us", &totals.upgrade);
    printf(",");
    histogram_print("set_up_us", &totals.set_up);
    printf(",");
    histogram_print("latency_us", &totals.latency);
    printf(",");
    histogram_print("lag_us", &totals.lag);
    printf("}\n");

    for (unsigned i = 0; i < options.calls && !options.keep; i++) {
        free(calls[i]->in);
        free(calls[i]);
    }
    if (options.keep) {
        set->calls = calls;
        set->count = options.calls;
        strcpy(set->host, options.host);
        strcpy(set->port, options.port);
    } else {
        free(calls);
        *set = (struct set){0};
    }
    free(phase);
    free(set_up_order);
}

/* ---- command line --------------------------------------------------------------------- */

static void url_set(const char *url)
{
    options.path[0] = '/';
    strcpy(options.port, "80");
    if (sscanf(url, "ws://%255[^:/]:%7[0-9]/%510s", options.host, options.port, options.path + 1) < 1)
        die("not a ws:// URL: %s", url);
}

static void append(char *to, size_t room, const char *format, const char *first, const char *second)
{
    size_t used = strlen(to);
    if ((size_t)snprintf(to + used, room - used, format, first, second) >= room - used)
        die("too many options");
}

static void options_read(int argc, char **argv)
{
    static const struct option known[] = {
        {"agent", required_argument, 0, 'a'},     {"url", required_argument, 0, 'u'},
        {"calls", required_argument, 0, 'c'},     {"opening", required_argument, 0, 'o'},
        {"warm-up", required_argument, 0, 'w'},   {"seconds", required_argument, 0, 's'},
        {"watch", required_argument, 0, 'p'},     {"header", required_argument, 0, 'h'},
        {"parameter", required_argument, 0, 'k'}, {"no-verify", no_argument, 0, 'n'},
        {"console", no_argument, 0, 'i'},         {"spin", no_argument, 0, 'b'},
        {"rate", required_argument, 0, 'r'},      {"hold", required_argument, 0, 'd'},
        {"settle", required_argument, 0, 'e'},    {"interval-ms", required_argument, 0, 'm'},
        {"set", required_argument, 0, 't'},       {"keep", no_argument, 0, 'f'},
        {"silent", no_argument, 0, 'q'},          {"listen", no_argument, 0, 'l'},
        {"name", required_argument, 0, 'x'},      {"kill", required_argument, 0, 'y'},
        {"victim", required_argument, 0, 'z'},    {"also", required_argument, 0, 'v'},
        {0}};
    options = (struct options){.calls = 1, .opening = 16, .warm_up = 2, .seconds = 5, .verify = true,
                               .interval_ns = 20000000};
    optind = 0;
    for (int o; (o = getopt_long(argc, argv, "", known, NULL)) != -1;) {
        char *value;
        switch (o) {
        case 'a': options.agent_port = (unsigned)atoi(optarg); break;
        case 'u': url_set(optarg); break;
        case 'c': options.calls = (unsigned)atoi(optarg); break;
        case 'o': options.opening = (unsigned)atoi(optarg); break;
        case 'w': options.warm_up = atof(optarg); break;
        case 's': options.seconds = atof(optarg); break;
        case 'r': options.rate = atof(optarg); break;
        case 'd': options.hold = atof(optarg); break;
        case 'e': options.settle = atof(optarg); break;
        case 'm': options.interval_ns = (uint64_t)(atof(optarg) * 1e6); break;
        case 'n': options.verify = false; break;
        case 'b': options.spin = true; break;
        case 'i': options.console = true; break;
        case 't': options.set = (unsigned)atoi(optarg); break;
        case 'f': options.keep = true; break;
        case 'q': options.silent = true; break;
        case 'l': options.listen = true; break;
        case 'x': snprintf(options.name, sizeof options.name, "%s", optarg); break;
        case 'y': options.kill = atoi(optarg); break;
        case 'z': snprintf(options.victim, sizeof options.victim, "%s", optarg); break;
        case 'h': append(options.headers, sizeof options.headers, "%s\r\n%s", optarg, ""); break;
        case 'v':
            for (char *port = strtok(optarg, ","); port && options.also_count < 8; port = strtok(NULL, ","))
                options.also[options.also_count++] = htons((uint16_t)atoi(port));
            break;
        case 'p':
            for (char *pid = strtok(optarg, ","); pid && options.watched < 64; pid = strtok(NULL, ","))
                options.watch[options.watched++] = atoi(pid);
            break;
        case 'k':
            if (!(value = strchr(optarg, '=')))
                die("--parameter wants name=value");
            *value++ = '\0';
            append(options.parameters, sizeof options.parameters,
                   options.parameters[0] ? ",\"%s\":\"%s\"" : "\"%s\":\"%s\"", optarg, value);
            break;
        default:
            exit(2);
        }
    }
}

/* Serves as the agent, and makes one run of each line of options that comes in on stdin. */
static void console(void)
{
    struct connection *stdin_watch = connection_new(STDIN_FILENO, CONSOLE, EPOLLIN | EPOLLONESHOT);
    setvbuf(stdin, NULL, _IONBF, 0);
    for (;;) {
        char line[4096], *argv[64] = {"wsload"};
        int argc = 1;
        while (!command_waits)
            loop_once(now_ns() + 1000000000ull);
        if (!fgets(line, sizeof line, stdin))
            return;
        for (char *word = strtok(line, " \n"); word && argc < 63; word = strtok(NULL, " \n"))
            argv[argc++] = word;
        options_read(argc, argv);
        if (!options.calls || !options.interval_ns)
            die("--calls and --interval-ms want at least 1");
        if (options.set >= SETS || (options.kill && options.kill <= 1))
            die("--set wants 0 to %d, --kill a process", SETS - 1);
        totals = (struct totals){0};
        run();
        fflush(stdout);
        command_waits = false;
        watch_events(stdin_watch, EPOLL_CTL_MOD, EPOLLIN | EPOLLONESHOT);
    }
}

int main(int argc, char **argv)
{
    options_read(argc, argv);
    if (!options.agent_port && !options.host[0] && !options.console)
        die("nothing to do: give --url, --agent or --console");

    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    prctl(PR_SET_TIMERSLACK, 1ul);
    random_state ^= (uint32_t)now_ns() | 1;

    uint8_t sound[AUDIO_BYTES];
    for (size_t i = 0; i < sizeof sound; i++)
        sound[i] = 0x80 | (uint8_t)random32();
    base64(sound, sizeof sound, audio);

    poller = epoll_create1(EPOLL_CLOEXEC);
    if (options.agent_port)
        agent_listen(options.agent_port);
    if (options.console)
        console();
    else if (options.host[0])
        run();
    else
        for (;;)
            loop_once(now_ns() + 1000000000ull);
    return 0;
}
