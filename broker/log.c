/*
 * The log thread and the rings that feed it.
 *
 * A producer copies a record into its ring and moves the tail; if the log thread sleeps, one write
 * to an eventfd wakes it. The log thread takes the oldest record of all rings, so that lines of
 * several producers are in the order of time, and writes when the rings are empty or its buffer is
 * full.
 *
 * Sleep and wake: the thread says that it sleeps and then looks at every tail once more; a producer
 * moves its tail and then looks whether the thread sleeps. All four are sequentially consistent, so
 * at least one of them sees the other and no line waits unseen.
 *
 * Control bytes in a text become ?, so that what a client calls itself cannot forge a line or drive
 * a terminal.
 *
 * Source: nats-server v2.15.2, logger/log.go, server/log.go:49-190; eventfd(2).
 */
#include "log.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdalign.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "midge/limits.h"

/* Bytes of one producer's ring; touched only as far as the log falls behind. */
#define RING_LEN (1u << 20)
/* Bytes that go to the file in one write. */
#define OUT_LEN (64u * 1024)
/* Pid, time, colours and level in front of a text, newline behind it. */
#define PREFIX_LEN_MAX 128u
/* Records taken before drops, reopening and the end are looked at. */
#define ROUND_MAX 4096u
/* How long the end waits for a reader of a full pipe. */
#define STOP_WAIT_MS 1000
/* How often a wait for room looks whether the end was asked for. */
#define ROOM_WAIT_MS 100
/* Permissions of a new file. Source: logger/log.go:27. */
#define FILE_MODE 0640
/* `.YYYY.MM.DD.HH.MM.SS.nnnnnnnnn` behind the name of a rotated file. */
#define STAMP_FORM ".0000.00.00.00.00.00.000000000"

struct record {
    uint32_t len; /* bytes of text behind it */
    uint32_t level;
    int64_t at_ns; /* CLOCK_REALTIME */
};

static_assert(sizeof(struct record) == 16, "records are cut into 8-byte steps");
static_assert((RING_LEN & (RING_LEN - 1)) == 0, "offsets wrap by a mask");
static_assert(RING_LEN > 4 * (MIDGE_LOG_LINE_LEN_MAX + sizeof(struct record)),
              "a line fits in the ring with room to spare");
static_assert(OUT_LEN > 2 * (MIDGE_LOG_LINE_LEN_MAX + PREFIX_LEN_MAX), "a line fits in the buffer");

/* Thread: producer / consumer. */
struct midge_log_producer {
    /* Producer line. */
    alignas(MIDGE_CACHE_LINE_LEN) _Atomic uint64_t tail; /* next byte to fill, free-running */
    uint64_t head_seen;
    _Atomic uint64_t dropped; /* one writer, any reader */

    /* Log thread's line. */
    alignas(MIDGE_CACHE_LINE_LEN) _Atomic uint64_t head; /* next byte to take, free-running */
    bool has_front;                                      /* front is the record at head */
    struct record front;

    /* Constant after init. */
    alignas(MIDGE_CACHE_LINE_LEN) struct midge_log *log;
    uint8_t *bytes;
    struct midge_log_producer *next;
};

struct midge_log {
    /* Constant after init. */
    bool debug;
    bool trace;
    bool log_time;
    bool log_time_utc;
    bool colours;
    char *path;          /* owned; NULL = standard error */
    uint64_t size_limit; /* 0 = no rotation */
    uint32_t files_max;  /* 0 = keep all */
    char pid[24];
    int wake_fd;
    pthread_t thread;

    /* Log thread. */
    int fd;
    bool is_stream;        /* a pipe or terminal, whose reader may stall */
    uint64_t file_len;     /* bytes in the file, without what is in out */
    uint64_t rotate_above; /* size_limit, or more after a rotation that failed */
    int64_t second;        /* that second_text shows */
    char second_text[24];
    uint64_t dropped_told;
    int64_t stop_at_ms; /* when the end gives up on a stalled stream; 0 = not ending */
    uint32_t out_len;
    uint32_t out_lines;
    char *out; /* owned, OUT_LEN */

    /* Any thread. */
    alignas(MIDGE_CACHE_LINE_LEN) _Atomic(struct midge_log_producer *) producers; /* owned list */
    _Atomic bool sleeping;
    _Atomic bool reopen_wanted;
    _Atomic bool stopping;
    _Atomic uint64_t lost; /* lines that could not be written; one writer, any reader */
};

static void append_line(struct midge_log *log, enum midge_log_level level, int64_t at_ns,
                        const struct midge_log_producer *producer, const char *text, uint32_t len);

static int64_t clock_ns(clockid_t clock)
{
    struct timespec now;
    const int result = clock_gettime(clock, &now);

    MIDGE_ASSERT(result == 0);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static int64_t clock_ms(void)
{
    return clock_ns(CLOCK_MONOTONIC) / 1000000;
}

/* --- Producers --- */

/* Bytes that a record takes in the ring. */
static uint64_t record_room(uint32_t len)
{
    return (sizeof(struct record) + len + 7) & ~(uint64_t)7;
}

static void ring_put(struct midge_log_producer *producer, uint64_t at, const void *bytes,
                     size_t len)
{
    const size_t off = at & (RING_LEN - 1);
    const size_t first = len < RING_LEN - off ? len : RING_LEN - off;

    memcpy(producer->bytes + off, bytes, first);
    memcpy(producer->bytes, (const uint8_t *)bytes + first, len - first);
}

static void ring_get(const struct midge_log_producer *producer, uint64_t at, void *bytes,
                     size_t len)
{
    const size_t off = at & (RING_LEN - 1);
    const size_t first = len < RING_LEN - off ? len : RING_LEN - off;

    memcpy(bytes, producer->bytes + off, first);
    memcpy((uint8_t *)bytes + first, producer->bytes, len - first);
}

/* One system call if the log thread sleeps, none if it is awake. */
static void wake(struct midge_log *log)
{
    const uint64_t one = 1;

    if (!atomic_load_explicit(&log->sleeping, memory_order_seq_cst))
        return;
    /* Acquire-release: of several wakers one alone pays for the system call. */
    if (!atomic_exchange_explicit(&log->sleeping, false, memory_order_acq_rel))
        return;
    /* Cannot block: the count stays far below 2^64. */
    const ssize_t taken = write(log->wake_fd, &one, sizeof(one));
    MIDGE_ASSERT(taken == (ssize_t)sizeof(one));
}

static void push(struct midge_log_producer *producer, const struct record *record, const char *text)
{
    const uint64_t tail = atomic_load_explicit(&producer->tail, memory_order_relaxed);
    const uint64_t room = record_room(record->len);

    if (tail + room - producer->head_seen > RING_LEN) {
        /* Acquire pairs with the release in take(): the log thread is done with those bytes. */
        producer->head_seen = atomic_load_explicit(&producer->head, memory_order_acquire);
        if (tail + room - producer->head_seen > RING_LEN) {
            atomic_store_explicit(&producer->dropped,
                                  atomic_load_explicit(&producer->dropped, memory_order_relaxed) +
                                      1,
                                  memory_order_relaxed);
            wake(producer->log);
            return;
        }
    }
    ring_put(producer, tail, record, sizeof(*record));
    ring_put(producer, tail + sizeof(*record), text, record->len);
    /* Pairs with the load in look(): the bytes are visible before the tail moves. Sequentially
     * consistent for the sake of `sleeping`, see the head of this file. */
    atomic_store_explicit(&producer->tail, tail + room, memory_order_seq_cst);
    wake(producer->log);
}

struct midge_log_producer *midge_log_register(struct midge_log *log)
{
    struct midge_log_producer *producer =
        aligned_alloc(alignof(struct midge_log_producer), sizeof(*producer));

    if (producer == NULL)
        return NULL;
    memset(producer, 0, sizeof(*producer));
    producer->log = log;
    producer->bytes = malloc(RING_LEN);
    if (producer->bytes == NULL) {
        free(producer);
        return NULL;
    }
    producer->next = atomic_load_explicit(&log->producers, memory_order_relaxed);
    /* Pairs with the loads of `producers`: the producer is whole before it is in the list. */
    while (!atomic_compare_exchange_weak_explicit(&log->producers, &producer->next, producer,
                                                  memory_order_seq_cst, memory_order_relaxed))
        continue;
    return producer;
}

bool midge_log_enabled(const struct midge_log_producer *producer, enum midge_log_level level)
{
    switch (level) {
    case MIDGE_LOG_INFO:
    case MIDGE_LOG_WARN:
    case MIDGE_LOG_ERROR:
    case MIDGE_LOG_FATAL:
        return true;
    case MIDGE_LOG_DEBUG:
        return producer->log->debug;
    case MIDGE_LOG_TRACE:
        return producer->log->trace;
    }
    return false;
}

void midge_log_write(struct midge_log_producer *producer, enum midge_log_level level,
                     const char *format, ...)
{
    static const char cut[] = "...";
    char text[MIDGE_LOG_LINE_LEN_MAX + 1];
    struct record record = {.level = (uint32_t)level};
    va_list args;
    int len;

    if (!midge_log_enabled(producer, level))
        return;
    va_start(args, format);
    len = vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    MIDGE_ASSERT(len >= 0);
    record.len = (uint32_t)len;
    if (record.len > MIDGE_LOG_LINE_LEN_MAX) {
        record.len = MIDGE_LOG_LINE_LEN_MAX;
        memcpy(text + MIDGE_LOG_LINE_LEN_MAX - (sizeof(cut) - 1), cut, sizeof(cut) - 1);
    }
    record.at_ns = clock_ns(CLOCK_REALTIME);
    push(producer, &record, text);
}

bool midge_log_allow(struct midge_log_limit *limit, uint64_t now_ns, uint64_t interval_ms,
                     uint64_t *suppressed_out)
{
    if (limit->last_ns != 0 && now_ns - limit->last_ns < interval_ms * 1000000) {
        limit->suppressed++;
        return false;
    }
    *suppressed_out = limit->suppressed;
    limit->suppressed = 0;
    limit->last_ns = now_ns;
    return true;
}

uint64_t midge_log_dropped(const struct midge_log *log)
{
    uint64_t total = atomic_load_explicit(&log->lost, memory_order_relaxed);
    const struct midge_log_producer *producer =
        atomic_load_explicit(&log->producers, memory_order_acquire);

    for (; producer != NULL; producer = producer->next)
        total += atomic_load_explicit(&producer->dropped, memory_order_relaxed);
    return total;
}

void midge_log_reopen(struct midge_log *log)
{
    const int saved = errno;

    atomic_store_explicit(&log->reopen_wanted, true, memory_order_seq_cst);
    wake(log);
    errno = saved; /* for what a signal handler interrupted */
}

/* --- Files --- */

static int open_file(const char *path)
{
    return open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, FILE_MODE);
}

/* Use fd from now on; the old one is closed unless it is standard error. */
static void use_file(struct midge_log *log, int fd)
{
    struct stat stat;

    if (log->fd != STDERR_FILENO)
        (void)close(log->fd);
    log->fd = fd;
    log->file_len = 0;
    log->is_stream = true;
    if (fstat(fd, &stat) == 0 && S_ISREG(stat.st_mode)) {
        log->is_stream = false;
        log->file_len = (uint64_t)stat.st_size;
    }
}

/* How long the next look for room may take: what is left once the end was asked for. */
static int room_wait_ms(struct midge_log *log)
{
    int64_t left_ms;

    if (log->stop_at_ms == 0 && atomic_load_explicit(&log->stopping, memory_order_acquire))
        log->stop_at_ms = clock_ms() + STOP_WAIT_MS;
    if (log->stop_at_ms == 0)
        return ROOM_WAIT_MS;
    left_ms = log->stop_at_ms - clock_ms();
    if (left_ms <= 0)
        return 0;
    return left_ms < ROOM_WAIT_MS ? (int)left_ms : ROOM_WAIT_MS;
}

/* Wait for room in a pipe or terminal. @return false when it is time to give up */
static bool wait_for_room(struct midge_log *log)
{
    struct pollfd item = {.fd = log->fd, .events = POLLOUT};

    for (;;) {
        if (poll(&item, 1, room_wait_ms(log)) > 0)
            return true;
        if (log->stop_at_ms != 0 && clock_ms() >= log->stop_at_ms)
            return false;
    }
}

/* All of out. A stream gets pieces that a pipe with room takes without blocking, so that a reader
 * that stalls cannot hold up the end for ever. */
static bool write_out(struct midge_log *log)
{
    uint32_t done = 0;

    while (done < log->out_len) {
        size_t len = log->out_len - done;
        ssize_t taken;

        if (log->is_stream) {
            if (!wait_for_room(log))
                return false;
            if (len > PIPE_BUF)
                len = PIPE_BUF;
        }
        taken = write(log->fd, log->out + done, len);
        if (taken < 0 && errno != EINTR && errno != EAGAIN)
            return false;
        if (taken > 0)
            done += (uint32_t)taken;
    }
    return true;
}

static void flush(struct midge_log *log)
{
    if (log->out_len == 0)
        return;
    if (write_out(log))
        log->file_len += log->out_len;
    else
        atomic_store_explicit(
            &log->lost, atomic_load_explicit(&log->lost, memory_order_relaxed) + log->out_lines,
            memory_order_relaxed);
    log->out_len = 0;
    log->out_lines = 0;
}

/* A line of the log thread's own. */
static void say(struct midge_log *log, enum midge_log_level level, const char *format, ...)
    MIDGE_PRINTF(3, 4);

static void say(struct midge_log *log, enum midge_log_level level, const char *format, ...)
{
    char text[1024];
    va_list args;
    int len;

    va_start(args, format);
    len = vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    MIDGE_ASSERT(len >= 0);
    if ((size_t)len >= sizeof(text))
        len = sizeof(text) - 1;
    append_line(log, level, clock_ns(CLOCK_REALTIME), NULL, text, (uint32_t)len);
}

/* True for `<base>.YYYY.MM.DD.HH.MM.SS.nnnnnnnnn`. */
static bool is_backup(const char *name, const char *base)
{
    static const char form[] = STAMP_FORM;
    const size_t base_len = strlen(base);

    if (strncmp(name, base, base_len) != 0 || strlen(name + base_len) != sizeof(form) - 1)
        return false;
    for (size_t i = 0; form[i] != '\0'; i++) {
        const char c = name[base_len + i];

        if (form[i] == '.' ? c != '.' : (c < '0' || c > '9'))
            return false;
    }
    return true;
}

/* Count the rotated files in the folder and find the oldest, whose name sorts first. */
static uint32_t count_backups(DIR *folder, const char *base, char *oldest_out, size_t cap)
{
    const struct dirent *item;
    uint32_t count = 0;

    oldest_out[0] = '\0';
    rewinddir(folder);
    while ((item = readdir(folder)) != NULL) {
        if (!is_backup(item->d_name, base))
            continue;
        if (count == 0 || strcmp(item->d_name, oldest_out) < 0)
            (void)snprintf(oldest_out, cap, "%s", item->d_name);
        count++;
    }
    return count;
}

/* Remove the oldest rotated files; the live file counts too. */
static void purge(struct midge_log *log)
{
    const char *slash = strrchr(log->path, '/');
    const char *base = slash == NULL ? log->path : slash + 1;
    char *folder_path =
        slash == NULL ? strdup(".") : strndup(log->path, (size_t)(base - log->path));
    DIR *folder = folder_path == NULL ? NULL : opendir(folder_path);
    char oldest[256];

    free(folder_path);
    if (folder == NULL) {
        say(log, MIDGE_LOG_ERROR, "Unable to read the folder of \"%s\" for log purge (%s)",
            log->path, strerror(errno));
        return;
    }
    while (count_backups(folder, base, oldest, sizeof(oldest)) >= log->files_max) {
        if (oldest[0] == '\0')
            break;
        if (unlinkat(dirfd(folder), oldest, 0) != 0) {
            say(log, MIDGE_LOG_ERROR, "Unable to remove backup log file \"%s\" (%s)", oldest,
                strerror(errno));
            break;
        }
        say(log, MIDGE_LOG_INFO, "Purged log file \"%s\"", oldest);
    }
    (void)closedir(folder);
}

/* Give the file a name with the time, and start a new one. */
static void rotate(struct midge_log *log)
{
    MIDGE_ASSERT(log->path != NULL);

    const size_t cap = strlen(log->path) + sizeof(STAMP_FORM);
    const int64_t now_ns = clock_ns(CLOCK_REALTIME);
    const time_t now = now_ns / 1000000000;
    char stamp[sizeof(STAMP_FORM)];
    char *backup = malloc(cap);
    struct tm tm = {0};
    int fd = -1;

    (void)localtime_r(&now, &tm);
    (void)strftime(stamp, sizeof(stamp), ".%Y.%m.%d.%H.%M.%S", &tm);
    if (backup != NULL) {
        (void)snprintf(backup, cap, "%s%s.%09" PRId64, log->path, stamp, now_ns % 1000000000);
        if (rename(log->path, backup) == 0)
            fd = open_file(log->path);
    }
    if (fd < 0) {
        /* As nats-server: go on with the old file, and try again when it has doubled. */
        log->rotate_above = log->file_len * 2;
        say(log, MIDGE_LOG_ERROR,
            "Unable to rotate the log file (%s), will attempt next rotation at size %" PRIu64,
            strerror(errno), log->rotate_above);
    } else {
        use_file(log, fd);
        log->rotate_above = log->size_limit;
        say(log, MIDGE_LOG_INFO, "Rotated log, backup saved as \"%s\"", backup);
        if (log->files_max > 0)
            purge(log);
    }
    flush(log);
    free(backup);
}

static void reopen(struct midge_log *log)
{
    int fd;

    if (log->path == NULL) {
        say(log, MIDGE_LOG_INFO, "File log re-open ignored, not a file logger");
        return;
    }
    fd = open_file(log->path);
    if (fd < 0) {
        say(log, MIDGE_LOG_ERROR, "Unable to re-open the log file \"%s\" (%s)", log->path,
            strerror(errno));
        return;
    }
    flush(log);
    use_file(log, fd);
    say(log, MIDGE_LOG_INFO, "File log re-opened");
}

/* --- Lines --- */

/* Source: logger/log.go:347-364. */
static const char *label(enum midge_log_level level, bool colours)
{
    switch (level) {
    case MIDGE_LOG_INFO:
        return colours ? "[\x1b[32mINF\x1b[0m] " : "[INF] ";
    case MIDGE_LOG_WARN:
        return colours ? "[\x1b[0;93mWRN\x1b[0m] " : "[WRN] ";
    case MIDGE_LOG_ERROR:
        return colours ? "[\x1b[31mERR\x1b[0m] " : "[ERR] ";
    case MIDGE_LOG_FATAL:
        return colours ? "[\x1b[31mFTL\x1b[0m] " : "[FTL] ";
    case MIDGE_LOG_DEBUG:
        return colours ? "[\x1b[36mDBG\x1b[0m] " : "[DBG] ";
    case MIDGE_LOG_TRACE:
        return colours ? "[\x1b[33mTRC\x1b[0m] " : "[TRC] ";
    }
    return "[???] ";
}

static char *put_text(char *out, const char *text)
{
    const size_t len = strlen(text);

    memcpy(out, text, len);
    return out + len;
}

/* `YYYY/MM/DD HH:MM:SS.uuuuuu `. The text of a second is kept: lines come in crowds. */
static char *put_time(struct midge_log *log, char *out, int64_t at_ns)
{
    const time_t second = at_ns / 1000000000;
    uint32_t micros = (uint32_t)(at_ns / 1000 % 1000000);

    if (second != log->second) {
        struct tm tm = {0};

        log->second = second;
        (void)(log->log_time_utc ? gmtime_r(&second, &tm) : localtime_r(&second, &tm));
        (void)strftime(log->second_text, sizeof(log->second_text), "%Y/%m/%d %H:%M:%S.", &tm);
    }
    out = put_text(out, log->second_text);
    for (uint32_t i = 6; i > 0; i--) {
        out[i - 1] = (char)('0' + micros % 10);
        micros /= 10;
    }
    out[6] = ' ';
    return out + 7;
}

/* `[pid] time [LVL] `. @return bytes */
static uint32_t put_prefix(struct midge_log *log, char *out, enum midge_log_level level,
                           int64_t at_ns)
{
    char *at = put_text(out, log->pid);

    if (log->log_time)
        at = put_time(log, at, at_ns);
    at = put_text(at, label(level, log->colours));
    MIDGE_ASSERT((uint32_t)(at - out) < PREFIX_LEN_MAX);
    return (uint32_t)(at - out);
}

/* The text is the front record of producer, or `text` if producer is NULL. */
static void append_line(struct midge_log *log, enum midge_log_level level, int64_t at_ns,
                        const struct midge_log_producer *producer, const char *text, uint32_t len)
{
    char *out;

    MIDGE_ASSERT(len <= MIDGE_LOG_LINE_LEN_MAX);
    if (log->out_len + PREFIX_LEN_MAX + len + 1 > OUT_LEN)
        flush(log);
    log->out_len += put_prefix(log, log->out + log->out_len, level, at_ns);
    out = log->out + log->out_len;
    if (producer != NULL)
        ring_get(producer,
                 atomic_load_explicit(&producer->head, memory_order_relaxed) +
                     sizeof(struct record),
                 out, len);
    else
        memcpy(out, text, len);
    for (uint32_t i = 0; i < len; i++) {
        const bool control = ((unsigned char)out[i] < ' ' && out[i] != '\t') || out[i] == 0x7f;

        out[i] = control ? '?' : out[i];
    }
    out[len] = '\n';
    log->out_len += len + 1;
    log->out_lines++;
}

/* --- The log thread --- */

/* Look at the record at the head of a ring. */
static bool look(struct midge_log_producer *producer)
{
    const uint64_t head = atomic_load_explicit(&producer->head, memory_order_relaxed);

    if (producer->has_front)
        return true;
    /* Pairs with the store in push(). */
    if (atomic_load_explicit(&producer->tail, memory_order_seq_cst) == head)
        return false;
    ring_get(producer, head, &producer->front, sizeof(producer->front));
    producer->has_front = true;
    return true;
}

/* The producer whose next record is the oldest; NULL if all rings are empty. */
static struct midge_log_producer *find_oldest(struct midge_log *log)
{
    struct midge_log_producer *oldest = NULL;
    struct midge_log_producer *producer =
        atomic_load_explicit(&log->producers, memory_order_seq_cst);

    for (; producer != NULL; producer = producer->next) {
        if (look(producer) && (oldest == NULL || producer->front.at_ns < oldest->front.at_ns))
            oldest = producer;
    }
    return oldest;
}

static void take(struct midge_log *log, struct midge_log_producer *producer)
{
    const struct record *record = &producer->front;
    const uint64_t head = atomic_load_explicit(&producer->head, memory_order_relaxed);

    append_line(log, (enum midge_log_level)record->level, record->at_ns, producer, NULL,
                record->len);
    producer->has_front = false;
    /* Release pairs with the acquire in push(): the bytes are read before they are given back. */
    atomic_store_explicit(&producer->head, head + record_room(record->len), memory_order_release);
}

/* @return true if more may be waiting */
static bool drain(struct midge_log *log)
{
    for (uint32_t i = 0; i < ROUND_MAX; i++) {
        struct midge_log_producer *producer = find_oldest(log);

        if (producer == NULL)
            return false;
        take(log, producer);
        if (log->rotate_above > 0 && log->file_len + log->out_len > log->rotate_above &&
            !log->is_stream) {
            flush(log);
            rotate(log);
        }
    }
    return true;
}

static void tell_dropped(struct midge_log *log)
{
    const uint64_t dropped = midge_log_dropped(log);

    if (dropped == log->dropped_told)
        return;
    say(log, MIDGE_LOG_WARN,
        "%" PRIu64 " log lines were dropped: they came faster than they "
        "could be written",
        dropped - log->dropped_told);
    log->dropped_told = dropped;
}

/* Sleep until there is something to do. See the head of this file. */
static void sleep_until_woken(struct midge_log *log)
{
    uint64_t count;

    atomic_store_explicit(&log->sleeping, true, memory_order_seq_cst);
    if (find_oldest(log) == NULL && !atomic_load_explicit(&log->stopping, memory_order_seq_cst) &&
        !atomic_load_explicit(&log->reopen_wanted, memory_order_seq_cst)) {
        const ssize_t taken = read(log->wake_fd, &count, sizeof(count));
        MIDGE_ASSERT(taken == (ssize_t)sizeof(count) || errno == EINTR);
    }
    /* A waker that came in between leaves a count behind: one round for nothing, later. */
    atomic_store_explicit(&log->sleeping, false, memory_order_relaxed);
}

static void *run(void *argument)
{
    struct midge_log *log = argument;

    for (;;) {
        /* Before the rings are emptied: what was queued before the end was asked for is written.
         * Acquire pairs with the store in midge_log_destroy(). */
        const bool stopping = atomic_load_explicit(&log->stopping, memory_order_acquire);
        const bool more = drain(log);

        tell_dropped(log);
        flush(log);
        if (atomic_exchange_explicit(&log->reopen_wanted, false, memory_order_acq_rel)) {
            reopen(log);
            flush(log);
        }
        if (more)
            continue;
        if (stopping)
            return NULL;
        sleep_until_woken(log);
    }
}

/* --- Begin and end --- */

static void free_log(struct midge_log *log)
{
    struct midge_log_producer *producer =
        atomic_load_explicit(&log->producers, memory_order_acquire);

    while (producer != NULL) {
        struct midge_log_producer *next = producer->next;

        free(producer->bytes);
        free(producer);
        producer = next;
    }
    if (log->fd != STDERR_FILENO)
        (void)close(log->fd);
    if (log->wake_fd >= 0)
        (void)close(log->wake_fd);
    free(log->out);
    free(log->path);
    free(log);
}

static struct midge_log *alloc_log(const struct midge_config *config)
{
    struct midge_log *log = aligned_alloc(alignof(struct midge_log), sizeof(*log));

    if (log == NULL)
        return NULL;
    memset(log, 0, sizeof(*log));
    log->fd = STDERR_FILENO;
    log->wake_fd = -1;
    log->second = -1;
    log->debug = config->debug;
    log->trace = config->trace;
    log->log_time = config->log_time;
    log->log_time_utc = config->log_time_utc;
    /* Standard error may be a file too, but not one of ours to rename. Source: nats-server v2.15.2,
     * server/log.go:68. */
    log->size_limit = config->log_file == NULL ? 0 : config->log_size_limit;
    log->rotate_above = log->size_limit;
    log->files_max = config->log_files_max;
    (void)snprintf(log->pid, sizeof(log->pid), "[%ld] ", (long)getpid());
    log->out = malloc(OUT_LEN);
    log->path = config->log_file == NULL ? NULL : strdup(config->log_file);
    if (log->out == NULL || (config->log_file != NULL && log->path == NULL)) {
        free_log(log);
        return NULL;
    }
    return log;
}

/* The thread takes no signals: they belong to the main thread. */
static int start_thread(struct midge_log *log)
{
    sigset_t all;
    sigset_t old;
    int error;

    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &old);
    error = pthread_create(&log->thread, NULL, run, log);
    (void)pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (error == 0)
        (void)pthread_setname_np(log->thread, "midge-log");
    return error;
}

enum midge_status midge_log_create(const struct midge_config *config, struct midge_log **log_out)
{
    struct midge_log *log = alloc_log(config);
    int fd = STDERR_FILENO;
    int error;

    if (log == NULL)
        return MIDGE_E_MEMORY;
    if (log->path != NULL) {
        fd = open_file(log->path);
        if (fd < 0) {
            (void)fprintf(stderr, "midge-server: cannot open log file %s: %s\n", log->path,
                          strerror(errno));
            goto err_free;
        }
    }
    use_file(log, fd);
    log->colours = log->path == NULL && isatty(fd) == 1;
    log->wake_fd = eventfd(0, EFD_CLOEXEC);
    if (log->wake_fd < 0) {
        (void)fprintf(stderr, "midge-server: cannot make an eventfd: %s\n", strerror(errno));
        goto err_free;
    }
    if (log->rotate_above > 0 && log->file_len > log->rotate_above)
        rotate(log);
    error = start_thread(log);
    if (error != 0) {
        (void)fprintf(stderr, "midge-server: cannot start the log thread: %s\n", strerror(error));
        goto err_free;
    }
    *log_out = log;
    return MIDGE_OK;

err_free:
    free_log(log);
    return MIDGE_E_SYSTEM;
}

void midge_log_destroy(struct midge_log *log)
{
    /* Pairs with the acquire in run(). */
    atomic_store_explicit(&log->stopping, true, memory_order_seq_cst);
    wake(log);
    const int error = pthread_join(log->thread, NULL);
    MIDGE_ASSERT(error == 0);
    free_log(log);
}
