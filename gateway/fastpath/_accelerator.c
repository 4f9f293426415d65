/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The relay's fast case in C: a chunk that holds nothing but plain frames of sound goes from one socket
 * to the other without a Python object being made for it.
 *
 * Whatever is not plain (a control frame, a short frame to look at, a fragment, half a header, an error, a
 * socket that does not take all) is handed to the Python code beside this file exactly as it was read, with no
 * state changed. So there is one implementation of every rule, in Python, and this file cannot disagree
 * with it: it only knows when there is nothing to decide.
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

/* As in pump.py. */
enum { EVENTS_AT_ONCE = 32, LOOKS_A_TURN = 8, FEW = 8 };
#define ALARM_S 0.002

/* Edges: a socket is reported once for what has come, and not looked at again by the next wait. */
#define EDGES (EPOLLIN | EPOLLRDHUP | EPOLLET)

/* All calls share it: the interpreter's lock is held from recv to send. */
static unsigned char room[2 * CHUNK_BYTES];

/* ---- Counters: what gateway/websocket/frames.py's FrameScanner keeps, where both languages can reach it ---- */

typedef struct {
    PyObject_HEAD
    long long left;        /* payload bytes still to come of a frame whose header has passed */
    long long frames;      /* data frames so far */
    long long bytes;       /* bytes fed so far */
    long long max_payload; /* payload bytes a message may have */
    long long inspect_below;  /* shorter data frames are to be looked at */
    char masked;           /* whether the frames come from a client */
    char simple;           /* whether nothing is held back and no message is open */
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
    .tp_doc = "The state of a FrameScanner that the fast case needs.",
    .tp_members = counters_members,
    .tp_new = PyType_GenericNew,
};

/* Whether the chunk is all plain frames (RFC 6455 section 5.2); only then it is counted. */
static int
walk(Counters *w, const unsigned char *data, long long size)
{
    if (!w->simple)
        return 0;
    const int key = w->masked ? 4 : 0, mask_bit = w->masked ? MASKED : 0;
    long long position = w->left, frames = 0;
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
        if (length < w->inspect_below || length > w->max_payload)
            return 0;
        position += head_bytes + length;
        frames++;
    }
    w->left = position - size;
    w->frames += frames;
    w->bytes += size;
    return 1;
}

/* ---- EpollSet: the sockets that pumps read, all behind one descriptor of the event loop's ---- */

/* The loop watches one epoll descriptor instead of every socket: what it does for each descriptor that is
 * ready costs as much as reading it. */
typedef struct {
    PyObject_HEAD
    int epoll;
    int alarm;        /* a timer behind the same descriptor: it ends a stay */
    double rested_at; /* seconds of the monotonic clock */
} EpollSet;

/* ---- Pump: reads one socket, writes the other ---- */

typedef struct {
    PyObject_HEAD
    EpollSet *sources;
    Counters *walker;
    PyObject *on_chunk;  /* called with bytes that Python must deal with; b"" at the end of the stream */
    PyObject *on_unsent; /* called with bytes that are through, but that the other socket did not take */
    int source, sink;    /* descriptors */
    char direct;         /* whether the fast case may be used at all now */
    char reading;        /* whether the source is watched */
} Pump;

/* Plain chunks that were read and are still to be sent. First the sockets that are ready are read, then all is
 * sent: the kernel's code for the one does not push that for the other out of the processor's cache each time.
 * No Python runs in between, so nobody can end or pause a call of which something is here. */
typedef struct {
    int count;
    size_t bytes; /* in `room` */
    struct {
        Pump *pump;
        ssize_t size;
    } chunks[EVENTS_AT_ONCE];
} Batch;

/* Ends a call into Python; an exception is reported, and ends nobody else's turn. */
static void
told(Pump *pump, PyObject *done)
{
    if (done == NULL)
        PyErr_WriteUnraisable((PyObject *)pump);
    Py_XDECREF(done);
}

/* Sends all, and only then says what was not taken. */
static void
batch_send(Batch *batch)
{
    struct {
        Pump *pump;
        PyObject *data; /* NULL: no memory for it */
    } unsent[EVENTS_AT_ONCE];
    const unsigned char *data = room;
    int refused = 0;
    for (int i = 0; i < batch->count; i++) {
        Pump *pump = batch->chunks[i].pump;
        const ssize_t size = batch->chunks[i].size;
        ssize_t sent = send(pump->sink, data, size, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent < 0) /* also where the socket is broken: its own reading side finds that out */
            sent = 0;
        if (sent != size) {
            unsent[refused].pump = pump;
            unsent[refused].data = PyBytes_FromStringAndSize((const char *)data + sent, size - sent);
            if (unsent[refused++].data == NULL)
                PyErr_Clear(); /* said below: no call may begin with an exception pending */
        }
        data += size;
    }
    batch->count = 0;
    batch->bytes = 0;
    for (int i = 0; i < refused; i++) {
        Pump *pump = unsent[i].pump;
        told(pump, unsent[i].data == NULL ? PyErr_NoMemory() : PyObject_CallOneArg(pump->on_unsent, unsent[i].data));
        Py_XDECREF(unsent[i].data);
    }
}

/* The source is readable: takes what can be passed on into the batch, and gives Python all else. */
static void
pump_run(Pump *self, unsigned int what, Batch *batch)
{
    unsigned char *chunk = room + batch->bytes;
    const ssize_t size = recv(self->source, chunk, CHUNK_BYTES, MSG_DONTWAIT);
    if (size < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (size == CHUNK_BYTES || what & ~EPOLLIN) { /* there is more, if only the end: it is to be reported again */
        struct epoll_event event = {.events = EDGES, .data.ptr = self};
        if (epoll_ctl(self->sources->epoll, EPOLL_CTL_MOD, self->source, &event)) {
            PyErr_SetFromErrno(PyExc_OSError);
            told(self, NULL);
            return;
        }
    }
    if (size > 0 && self->direct && walk(self->walker, chunk, size)) {
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
    batch_send(batch); /* what is not taken pauses its own source and ends nothing: these bytes are still wanted */
    told(self, data == NULL ? PyErr_NoMemory() : PyObject_CallOneArg(self->on_chunk, data));
    Py_XDECREF(data);
}

static PyObject *
pump_resume(Pump *self, PyObject *Py_UNUSED(ignored))
{
    struct epoll_event event = {.events = EDGES, .data.ptr = self};
    if (!self->reading) {
        if (epoll_ctl(self->sources->epoll, EPOLL_CTL_ADD, self->source, &event))
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
        if (epoll_ctl(self->sources->epoll, EPOLL_CTL_DEL, self->source, NULL))
            return PyErr_SetFromErrno(PyExc_OSError);
    }
    Py_RETURN_NONE;
}

static int pump_init(Pump *self, PyObject *args, PyObject *kwargs);

static int
pump_traverse(Pump *self, visitproc visit, void *arg)
{
    Py_VISIT(self->sources);
    Py_VISIT(self->walker);
    Py_VISIT(self->on_chunk);
    Py_VISIT(self->on_unsent);
    return 0;
}

static int
pump_clear(Pump *self)
{
    if (self->reading) { /* whoever owned it forgot to: the kernel must not point here any more */
        self->reading = 0;
        epoll_ctl(self->sources->epoll, EPOLL_CTL_DEL, self->source, NULL);
    }
    Py_CLEAR(self->sources);
    Py_CLEAR(self->walker);
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
    {"resume", (PyCFunction)pump_resume, METH_NOARGS, "Reads from now on."},
    {"pause", (PyCFunction)pump_pause, METH_NOARGS, "Reads no more; to be called before the source is closed."},
    {NULL},
};

static PyMemberDef pump_members[] = {
    {"direct", T_BOOL, offsetof(Pump, direct), 0, "Whether plain frames may skip Python."},
    {"reading", T_BOOL, offsetof(Pump, reading), READONLY, "Whether the source is read."},
    {NULL},
};

static PyTypeObject PumpType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "gateway.fastpath._accelerator.Pump",
    .tp_basicsize = sizeof(Pump),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_doc = "Pump(sources, walker, source, sink, *, on_chunk, on_unsent): one direction of a relay.",
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
    self->alarm = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    if (self->epoll < 0 || self->alarm < 0 || epoll_ctl(self->epoll, EPOLL_CTL_ADD, self->alarm, &event)) {
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
    if (self->alarm > 0)
        close(self->alarm);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyObject *
epoll_set_fileno(EpollSet *self, PyObject *Py_UNUSED(ignored))
{
    return PyLong_FromLong(self->epoll);
}

/* Runs the pumps of these sources. An exception of one is reported and ends nobody else's turn. Whether the
 * alarm was among them. */
static int
epoll_set_run(struct epoll_event *events, int count)
{
    int alarm = 0;
    Batch batch = {0};
    for (int i = 0; i < count; i++) { /* one pump's end may be another's: none may go away meanwhile */
        Pump *pump = events[i].data.ptr;
        Py_XINCREF(pump);
        if (pump != NULL)
            __builtin_prefetch(&pump->walker->left);
    }
    for (int i = 0; i < count; i++) {
        Pump *pump = events[i].data.ptr;
        if (pump == NULL) {
            alarm = 1;
            continue;
        }
        if (pump->reading)
            pump_run(pump, events[i].events, &batch);
    }
    batch_send(&batch);
    for (int i = 0; i < count; i++)
        Py_XDECREF((PyObject *)events[i].data.ptr);
    return alarm;
}

/* Reads what is readable; how much there was. */
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

/* Reads what becomes readable until the alarm, in so long at the most; whether anything did, -1 for an error. A
 * wait with a time of its own would cost a timer each time, and most are over in microseconds. */
static int
epoll_set_wait(EpollSet *self, double left_s)
{
    struct epoll_event events[EVENTS_AT_ONCE];
    const double due_s = left_s < 0 ? 0 : left_s < ALARM_S ? left_s : ALARM_S;
    const struct itimerspec due = {.it_value.tv_nsec = (long)(due_s * 1e9) + 1}; /* 0 would be never */
    int count, over = 0, any = 0;
    if (timerfd_settime(self->alarm, 0, &due, NULL)) { /* it would be waited for without end */
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    while (!over) {
        Py_BEGIN_ALLOW_THREADS
        count = epoll_wait(self->epoll, events, EVENTS_AT_ONCE, -1);
        Py_END_ALLOW_THREADS
        if (count < 0)
            return errno == EINTR; /* a signal, which is the loop's to deal with */
        over = epoll_set_run(events, count);
        any |= count > over;
    }
    return any;
}

static PyObject *
epoll_set_ready(EpollSet *self, PyObject *Py_UNUSED(ignored))
{
    for (int looks = 0; looks < LOOKS_A_TURN && epoll_set_read(self) == EVENTS_AT_ONCE; looks++)
        ;
    Py_RETURN_NONE;
}

/* Sleeps until so long after the last rest's end. */
static void
epoll_set_rest(EpollSet *self, double rest_s)
{
    const double left = self->rested_at + rest_s - seconds();
    if (left > 0) {
        const struct timespec pause = {.tv_sec = (time_t)left, .tv_nsec = (long)((left - (time_t)left) * 1e9)};
        Py_BEGIN_ALLOW_THREADS
        nanosleep(&pause, NULL); /* a signal may end it: then it was shorter */
        Py_END_ALLOW_THREADS
    }
    self->rested_at = seconds();
}

/* Under load several waits are one turn of the loop's: see gateway/media/loop_batcher.py. */
static PyObject *
epoll_set_stay(EpollSet *self, PyObject *args)
{
    double limit_s, rest_s = 0.0;
    if (!PyArg_ParseTuple(args, "d|d", &limit_s, &rest_s))
        return NULL;
    const double until = seconds() + limit_s;
    if (rest_s <= 0.0) {
        int any = 0, part;
        do {
            part = epoll_set_wait(self, until - seconds());
            any |= part;
        } while (part >= 0 && seconds() < until);
        return part < 0 ? NULL : PyBool_FromLong(any);
    }
    while (seconds() < until) {
        epoll_set_rest(self, rest_s);
        while (epoll_set_read(self) >= FEW && seconds() < self->rested_at + rest_s)
            ;
    }
    Py_RETURN_TRUE;
}

static PyMethodDef epoll_set_methods[] = {
    {"fileno", (PyCFunction)epoll_set_fileno, METH_NOARGS, "The descriptor that is readable when a source is."},
    {"ready", (PyCFunction)epoll_set_ready, METH_NOARGS, "Reads every source that is readable."},
    {"stay", (PyCFunction)epoll_set_stay, METH_VARARGS,
     "Reads them as they become readable, for so many seconds; whether any did. See pump.py."},
    {NULL},
};

static PyTypeObject EpollSetType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "gateway.fastpath._accelerator.EpollSet",
    .tp_basicsize = sizeof(EpollSet),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_doc = "The sockets that pumps read.",
    .tp_new = PyType_GenericNew,
    .tp_init = (initproc)epoll_set_init,
    .tp_dealloc = (destructor)epoll_set_dealloc,
    .tp_methods = epoll_set_methods,
};

static int
pump_init(Pump *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"epoll_set", "scanner", "source", "sink", "on_chunk", "on_unsent", NULL};
    PyObject *sources, *walker, *source, *sink, *on_chunk, *on_unsent;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!O!OO$OO", names, &EpollSetType, &sources, &CountersType, &walker,
                                     &source, &sink, &on_chunk, &on_unsent))
        return -1;
    self->source = PyObject_AsFileDescriptor(source);
    self->sink = PyObject_AsFileDescriptor(sink);
    if (self->source < 0 || self->sink < 0)
        return -1;
    Py_XSETREF(self->sources, (EpollSet *)Py_NewRef(sources));
    Py_XSETREF(self->walker, (Counters *)Py_NewRef(walker));
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
        PyModule_AddType(m, &PumpType) < 0) {
        Py_XDECREF(m);
        return NULL;
    }
    return m;
}
