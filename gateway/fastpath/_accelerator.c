/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The relay's fast case in C: a chunk that holds nothing but plain media frames goes from one socket to the
 * other without a Python object being created for it.
 *
 * Everything that is not plain (a control frame, a short frame to inspect, a fragment, part of a header, an
 * error, a socket that does not take all) goes to the Python code exactly as it was read, with no state changed.
 * So every rule is implemented once, in Python, and this file cannot disagree with it: it only recognises the
 * case in which there is nothing to decide. pump.py is the same in Python; names and constants are as there.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <errno.h>
#include <structmember.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { CHUNK_BYTES = 65536, FIN_TEXT = 0x81, FIN_BINARY = 0x82, MASKED = 0x80 };

/* As in pump.py, where each is explained. */
enum { EVENTS_AT_ONCE = 32, READS_PER_ITERATION = 8, MIN_READY = 8 };
#define TIMER_S 0.002

/* Edge-triggered: a socket is reported once for what has come, and not checked again by the next wait. */
#define EDGES (EPOLLIN | EPOLLRDHUP | EPOLLET)

/* The version of this module's interface, as in accelerator.py. */
enum { INTERFACE = 3 };

/* The chunks of a batch. All pumps share it, as the interpreter's lock is held from recv to send. */
static unsigned char buffer[2 * CHUNK_BYTES];

/* ---- Counters: the fields of FrameScanner (gateway/websocket/frames.py) that both languages use ---- */

typedef struct {
    PyObject_HEAD
    long long left;          /* payload bytes still to come of a frame whose header has passed */
    long long frames;        /* data frames so far */
    long long bytes;         /* bytes fed so far */
    long long max_payload;   /* payload bytes that a message may have */
    long long inspect_below; /* data frames with fewer payload bytes go to Python */
    char masked;             /* whether the frames come from a client */
    char simple;             /* whether nothing is held back and no message is open */
} Counters;

static PyMemberDef counters_members[] = {
    {"left", T_LONGLONG, offsetof(Counters, left), 0, NULL},
    {"frames", T_LONGLONG, offsetof(Counters, frames), 0, NULL},
    {"bytes", T_LONGLONG, offsetof(Counters, bytes), 0, NULL},
    {"max_payload", T_LONGLONG, offsetof(Counters, max_payload), 0, NULL},
    {"inspect_below", T_LONGLONG, offsetof(Counters, inspect_below), 0, NULL},
    {"masked", T_BOOL, offsetof(Counters, masked), 0, NULL},
    {"simple", T_BOOL, offsetof(Counters, simple), 0, NULL},
    {NULL},
};

static PyTypeObject CountersType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "gateway.fastpath._accelerator.Counters",
    .tp_basicsize = sizeof(Counters),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .tp_doc = "The fields of a FrameScanner that the fast case uses.",
    .tp_members = counters_members,
    .tp_new = PyType_GenericNew,
};

/* Return 1 and count the chunk if it is all plain frames (RFC 6455 section 5.2); else return 0. */
static int
count_plain(Counters *counters, const unsigned char *data, long long size)
{
    if (!counters->simple)
        return 0;
    const int key = counters->masked ? 4 : 0, mask_bit = counters->masked ? MASKED : 0;
    long long position = counters->left, frames = 0;
    while (position < size) {
        const unsigned char *head = data + position;
        const long long here = size - position;
        if (here < 2 + key || (head[0] != FIN_TEXT && head[0] != FIN_BINARY))
            return 0;
        long long length = head[1] ^ mask_bit, head_bytes = 2 + key;
        if (length == 126 && here >= 4 + key) {
            length = head[2] << 8 | head[3];
            head_bytes += 2;
        } else if (length > 125) {
            return 0;
        }
        if (length < counters->inspect_below || length > counters->max_payload)
            return 0;
        position += head_bytes + length;
        frames++;
    }
    counters->left = position - size;
    counters->frames += frames;
    counters->bytes += size;
    return 1;
}

/* ---- EpollSet: the sockets that pumps read, behind one epoll descriptor ---- */

/* The event loop watches this one descriptor instead of every socket: what it does for each readable descriptor
 * costs as much as reading it. */
typedef struct {
    PyObject_HEAD
    int epoll;
    int timer;      /* a timer behind the same descriptor, which ends poll_for */
    double woke_at; /* the end of the last sleep, in seconds of the monotonic clock */
} EpollSet;

/* ---- Pump: reads one socket, writes the other ---- */

typedef struct {
    PyObject_HEAD
    EpollSet *epoll_set;
    Counters *scanner;
    PyObject *on_chunk;  /* called with a chunk that is not plain; with b"" at the end of the stream */
    PyObject *on_unsent; /* called with bytes of plain frames that the sink did not take */
    int source, sink;    /* descriptors */
    char direct;         /* whether plain frames may go to the sink without Python */
    char reading;        /* whether the source is read */
    char was_reset;      /* whether reading the source failed: it did not just end */
    char sink_was_reset; /* whether the sink was reset, as a send was told; a read of it then sees a plain end */
} Pump;

/* Plain chunks that were read and are not sent yet. First all readable sockets are read, then all chunks are
 * sent, so that the kernel's code for reading and for writing do not evict each other from the processor's cache.
 * No Python runs in between, so no pump of which a chunk is here can be paused or closed. */
typedef struct {
    int count;
    size_t bytes; /* in `buffer` */
    struct {
        Pump *pump;
        ssize_t size;
    } chunks[EVENTS_AT_ONCE];
} Batch;

/* Release a callback's result. Report its exception as unraisable, so that it cannot stop the other sockets. */
static void
release_result(Pump *pump, PyObject *result)
{
    if (result == NULL)
        PyErr_WriteUnraisable((PyObject *)pump);
    Py_XDECREF(result);
}

/* Send all chunks, and only then call `on_unsent` for what was not taken: a callback may close any pump. */
static void
batch_send(Batch *batch)
{
    struct {
        Pump *pump;
        PyObject *data; /* NULL if there was no memory for it */
    } unsent[EVENTS_AT_ONCE];
    const unsigned char *data = buffer;
    int refused = 0;
    for (int i = 0; i < batch->count; i++) {
        Pump *pump = batch->chunks[i].pump;
        const ssize_t size = batch->chunks[i].size;
        ssize_t sent = send(pump->sink, data, size, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent < 0) { /* full, or broken, which its own reading side reports */
            pump->sink_was_reset |= errno == ECONNRESET;
            sent = 0;
        }
        if (sent != size) {
            unsent[refused].pump = pump;
            unsent[refused].data = PyBytes_FromStringAndSize((const char *)data + sent, size - sent);
            if (unsent[refused++].data == NULL)
                PyErr_Clear(); /* reported below: no callback may begin with an exception pending */
        }
        data += size;
    }
    batch->count = 0;
    batch->bytes = 0;
    for (int i = 0; i < refused; i++) {
        Pump *pump = unsent[i].pump;
        PyObject *rest = unsent[i].data;
        release_result(pump, rest == NULL ? PyErr_NoMemory() : PyObject_CallOneArg(pump->on_unsent, rest));
        Py_XDECREF(rest);
    }
}

/* Read the source once: add a plain chunk to the batch, and give any other to Python. */
static void
pump_read(Pump *self, unsigned int events, Batch *batch)
{
    unsigned char *chunk = buffer + batch->bytes;
    const ssize_t size = recv(self->source, chunk, CHUNK_BYTES, MSG_DONTWAIT);
    if (size < 0) {
        if (errno == EAGAIN || errno == EINTR)
            return;
        self->was_reset = 1;
    }
    if (size == CHUNK_BYTES || events & ~EPOLLIN) { /* more has come, if only the end: report it again */
        struct epoll_event event = {.events = EDGES, .data.ptr = self};
        if (epoll_ctl(self->epoll_set->epoll, EPOLL_CTL_MOD, self->source, &event)) {
            PyErr_SetFromErrno(PyExc_OSError);
            release_result(self, NULL);
            return;
        }
    }
    if (size > 0 && self->direct && count_plain(self->scanner, chunk, size)) {
        batch->chunks[batch->count].pump = self;
        batch->chunks[batch->count++].size = size;
        batch->bytes += size;
        if (batch->bytes > CHUNK_BYTES)
            batch_send(batch);
        return;
    }
    PyObject *data = PyBytes_FromStringAndSize((const char *)chunk, size > 0 ? size : 0);
    if (data == NULL)
        PyErr_Clear();
    batch_send(batch); /* first, in the order of reading; an `on_unsent` only pauses, so this chunk stays valid */
    release_result(self, data == NULL ? PyErr_NoMemory() : PyObject_CallOneArg(self->on_chunk, data));
    Py_XDECREF(data);
}

static PyObject *
pump_resume(Pump *self, PyObject *Py_UNUSED(ignored))
{
    struct epoll_event event = {.events = EDGES, .data.ptr = self};
    if (!self->reading) {
        if (epoll_ctl(self->epoll_set->epoll, EPOLL_CTL_ADD, self->source, &event))
            return PyErr_SetFromErrno(PyExc_OSError);
        self->reading = 1;
    }
    Py_RETURN_NONE;
}

static PyObject *
pump_pause(Pump *self, PyObject *Py_UNUSED(ignored))
{
    if (self->reading) {
        self->reading = 0;
        if (epoll_ctl(self->epoll_set->epoll, EPOLL_CTL_DEL, self->source, NULL))
            return PyErr_SetFromErrno(PyExc_OSError);
    }
    Py_RETURN_NONE;
}

static int pump_init(Pump *self, PyObject *args, PyObject *kwargs);

static int
pump_traverse(Pump *self, visitproc visit, void *arg)
{
    Py_VISIT(self->epoll_set);
    Py_VISIT(self->scanner);
    Py_VISIT(self->on_chunk);
    Py_VISIT(self->on_unsent);
    return 0;
}

static int
pump_clear(Pump *self)
{
    if (self->reading) { /* its owner did not pause it: the kernel must not keep a pointer to it */
        self->reading = 0;
        epoll_ctl(self->epoll_set->epoll, EPOLL_CTL_DEL, self->source, NULL);
    }
    Py_CLEAR(self->epoll_set);
    Py_CLEAR(self->scanner);
    Py_CLEAR(self->on_chunk);
    Py_CLEAR(self->on_unsent);
    return 0;
}

static void
pump_dealloc(Pump *self)
{
    PyObject_GC_UnTrack(self);
    pump_clear(self);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyMethodDef pump_methods[] = {
    {"resume", (PyCFunction)pump_resume, METH_NOARGS, "Read from now on."},
    {"pause", (PyCFunction)pump_pause, METH_NOARGS, "Read no more. Call it before the source is closed."},
    {NULL},
};

static PyMemberDef pump_members[] = {
    {"direct", T_BOOL, offsetof(Pump, direct), 0, "Whether plain frames may go to the sink without on_chunk."},
    {"reading", T_BOOL, offsetof(Pump, reading), READONLY, "Whether the source is read."},
    {"was_reset", T_BOOL, offsetof(Pump, was_reset), READONLY, "Whether reading the source failed."},
    {"sink_was_reset", T_BOOL, offsetof(Pump, sink_was_reset), READONLY, "Whether a write to the sink found it reset."},
    {NULL},
};

static PyTypeObject PumpType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "gateway.fastpath._accelerator.Pump",
    .tp_basicsize = sizeof(Pump),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_doc = "Pump(epoll_set, scanner, source, sink, *, on_chunk, on_unsent): one direction of a relay.",
    .tp_new = PyType_GenericNew,
    .tp_init = (initproc)pump_init,
    .tp_dealloc = (destructor)pump_dealloc,
    .tp_traverse = (traverseproc)pump_traverse,
    .tp_clear = (inquiry)pump_clear,
    .tp_methods = pump_methods,
    .tp_members = pump_members,
};

static int
epoll_set_init(EpollSet *self, PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(kwargs))
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.ptr = NULL};
    self->epoll = epoll_create1(EPOLL_CLOEXEC);
    self->timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    if (self->epoll < 0 || self->timer < 0 || epoll_ctl(self->epoll, EPOLL_CTL_ADD, self->timer, &event)) {
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    return 0;
}

static void
epoll_set_dealloc(EpollSet *self)
{
    if (self->epoll > 0)
        close(self->epoll);
    if (self->timer > 0)
        close(self->timer);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyObject *
epoll_set_fileno(EpollSet *self, PyObject *Py_UNUSED(ignored))
{
    return PyLong_FromLong(self->epoll);
}

/* Read the sources of these events. Return 1 if the timer is among them, else 0. */
static int
epoll_set_run(struct epoll_event *events, int count)
{
    int timer = 0;
    Batch batch = {0};
    for (int i = 0; i < count; i++) { /* the callback of one pump may end another, which must not be freed yet */
        Pump *pump = events[i].data.ptr;
        Py_XINCREF(pump);
        if (pump != NULL)
            __builtin_prefetch(&pump->scanner->left);
    }
    for (int i = 0; i < count; i++) {
        Pump *pump = events[i].data.ptr;
        if (pump == NULL) {
            timer = 1;
            continue;
        }
        if (pump->reading)
            pump_read(pump, events[i].events, &batch);
    }
    batch_send(&batch);
    for (int i = 0; i < count; i++)
        Py_XDECREF((PyObject *)events[i].data.ptr);
    return timer;
}

/* Read what is readable, without waiting. Return the number of events. */
static int
epoll_set_read(EpollSet *self)
{
    struct epoll_event events[EVENTS_AT_ONCE];
    const int count = epoll_wait(self->epoll, events, EVENTS_AT_ONCE, 0);
    epoll_set_run(events, count);
    return count;
}

static double
seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec + now.tv_nsec / 1e9;
}

/* Read what becomes readable until the timer, which is due within `left_s`. Return 1 if anything did, 0 if
 * nothing did, -1 with an exception set. A timeout for each wait would cost a timer each time, and most waits
 * are over in microseconds. */
static int
epoll_set_wait(EpollSet *self, double left_s)
{
    struct epoll_event events[EVENTS_AT_ONCE];
    const double due_s = left_s < 0 ? 0 : left_s < TIMER_S ? left_s : TIMER_S;
    const struct itimerspec due = {.it_value.tv_nsec = (long)(due_s * 1e9) + 1}; /* 0 would disarm the timer */
    int count, over = 0, any = 0;
    if (timerfd_settime(self->timer, 0, &due, NULL)) { /* without it the wait would never end */
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    while (!over) {
        Py_BEGIN_ALLOW_THREADS
        count = epoll_wait(self->epoll, events, EVENTS_AT_ONCE, -1);
        Py_END_ALLOW_THREADS
        if (count < 0)
            return errno == EINTR; /* a signal, which the event loop handles */
        over = epoll_set_run(events, count);
        any |= count > over;
    }
    return any;
}

static PyObject *
epoll_set_ready(EpollSet *self, PyObject *Py_UNUSED(ignored))
{
    for (int reads = 0; reads < READS_PER_ITERATION && epoll_set_read(self) == EVENTS_AT_ONCE; reads++)
        ;
    Py_RETURN_NONE;
}

/* Sleep until `coalesce_s` after the end of the last sleep. */
static void
epoll_set_sleep(EpollSet *self, double coalesce_s)
{
    const double left = self->woke_at + coalesce_s - seconds();
    if (left > 0) {
        const struct timespec pause = {.tv_sec = (time_t)left, .tv_nsec = (long)((left - (time_t)left) * 1e9)};
        Py_BEGIN_ALLOW_THREADS
        nanosleep(&pause, NULL); /* a signal may end it early, which does no harm */
        Py_END_ALLOW_THREADS
    }
    self->woke_at = seconds();
}

/* Under load several waits are one iteration of the event loop; see gateway/media/loop_batcher.py. */
static PyObject *
epoll_set_poll_for(EpollSet *self, PyObject *args)
{
    double poll_s, coalesce_s = 0.0;
    if (!PyArg_ParseTuple(args, "d|d", &poll_s, &coalesce_s))
        return NULL;
    const double until = seconds() + poll_s;
    if (coalesce_s <= 0.0) {
        int any = 0, result;
        do {
            result = epoll_set_wait(self, until - seconds());
            any |= result;
        } while (result >= 0 && seconds() < until);
        return result < 0 ? NULL : PyBool_FromLong(any);
    }
    while (seconds() < until) {
        epoll_set_sleep(self, coalesce_s);
        while (epoll_set_read(self) >= MIN_READY && seconds() < self->woke_at + coalesce_s)
            ;
    }
    Py_RETURN_TRUE;
}

static PyMethodDef epoll_set_methods[] = {
    {"fileno", (PyCFunction)epoll_set_fileno, METH_NOARGS,
     "Return the descriptor that is readable when one of the sockets is."},
    {"ready", (PyCFunction)epoll_set_ready, METH_NOARGS, "Read the sockets that are readable."},
    {"poll_for", (PyCFunction)epoll_set_poll_for, METH_VARARGS,
     "Read the sockets as they become readable, for some seconds. Return True if any did. See pump.py."},
    {NULL},
};

static PyTypeObject EpollSetType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "gateway.fastpath._accelerator.EpollSet",
    .tp_basicsize = sizeof(EpollSet),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_doc = "The sockets that pumps read, behind one epoll descriptor.",
    .tp_new = PyType_GenericNew,
    .tp_init = (initproc)epoll_set_init,
    .tp_dealloc = (destructor)epoll_set_dealloc,
    .tp_methods = epoll_set_methods,
};

static int
pump_init(Pump *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"epoll_set", "scanner", "source", "sink", "on_chunk", "on_unsent", NULL};
    PyObject *epoll_set, *scanner, *source, *sink, *on_chunk, *on_unsent;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!O!OO$OO", names, &EpollSetType, &epoll_set, &CountersType,
                                     &scanner, &source, &sink, &on_chunk, &on_unsent))
        return -1;
    self->source = PyObject_AsFileDescriptor(source);
    self->sink = PyObject_AsFileDescriptor(sink);
    if (self->source < 0 || self->sink < 0)
        return -1;
    Py_XSETREF(self->epoll_set, (EpollSet *)Py_NewRef(epoll_set));
    Py_XSETREF(self->scanner, (Counters *)Py_NewRef(scanner));
    Py_XSETREF(self->on_chunk, Py_NewRef(on_chunk));
    Py_XSETREF(self->on_unsent, Py_NewRef(on_unsent));
    self->direct = 1;
    return 0;
}

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_accelerator",
    .m_doc = "The relay's fast case.",
    .m_size = -1,
};

PyMODINIT_FUNC
PyInit__accelerator(void)
{
    PyObject *m = PyModule_Create(&module);
    if (m == NULL || PyModule_AddType(m, &CountersType) < 0 || PyModule_AddType(m, &EpollSetType) < 0 ||
        PyModule_AddType(m, &PumpType) < 0 || PyModule_AddIntConstant(m, "INTERFACE", INTERFACE) < 0) {
        Py_XDECREF(m);
        return NULL;
    }
    return m;
}
