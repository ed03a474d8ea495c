/*
 * The processes of a run and what they share.
 *
 * Every message carries its number and its intended time in its first bytes; the rest is a filler
 * that the receiver compares. Numbers of a publisher, or of a requesting party, count from 0, so
 * that what is lost, doubled or out of order shows at once.
 *
 * Thread: struct midge_board: any process, where a field does not say otherwise; struct
 * midge_party: the process that it is.
 */
#ifndef MIDGE_PARTY_H
#define MIDGE_PARTY_H

#include <pthread.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/types.h>

#include "driver.h"
#include "histogram.h"
#include "midge/limits.h"
#include "midge/status.h"
#include "process.h"
#include "random.h"
#include "run.h"

#define MIDGE_PARTIES_MAX 20u

#define MIDGE_PARTY_REASON_CAP 200u

/* Subjects of all scenarios. */
#define MIDGE_PARTY_REQUESTS "bench.request"
#define MIDGE_PARTY_MESSAGES "bench.message"
#define MIDGE_PARTY_QUEUE    "workers"

enum midge_party_kind {
    MIDGE_PARTY_REQUEST = 0, /* requesters, and responders if they are not apart */
    MIDGE_PARTY_RESPOND,
    MIDGE_PARTY_PUBLISH,
    MIDGE_PARTY_SUBSCRIBE,
    MIDGE_PARTY_STALL,   /* subscribes and reads nothing */
    MIDGE_PARTY_CONNECT, /* connects as often as it can, then idles */
    MIDGE_PARTY_MATCH,   /* many subscriptions and a publisher on them */
    MIDGE_PARTY_KINDS,
};

/* What one party has counted. Thread: one writer (in a party whose library calls back in threads:
 * under its lock), any reader. */
struct midge_row {
    /* Since the start, warm-up included. */
    alignas(MIDGE_CACHE_LINE_LEN) _Atomic uint64_t begun; /* sent, as far as it was tried */
    _Atomic uint64_t done; /* replies or messages that came; connects */
    /* Of the measured time. */
    _Atomic uint64_t sent;
    _Atomic uint64_t received;
    _Atomic uint64_t late;   /* left more than one interval after their time */
    _Atomic uint64_t missed; /* could not leave: too much under way */
    _Atomic uint64_t lost;
    _Atomic uint64_t doubled;
    _Atomic uint64_t wrong;
    _Atomic uint64_t errors;
    _Atomic uint64_t timeouts;
    /* Publishers: messages of each; readers: those of each publisher that the slowest has. */
    _Atomic uint64_t progress[MIDGE_RUN_PUBLISHERS_MAX];
    _Atomic uint64_t closed;         /* stalled subscribers that the server closed */
    _Atomic uint64_t resident_bytes; /* that connections took in this process */
    _Atomic uint64_t changes;        /* of subscriptions */
    uint64_t begin_ns;               /* of connects or subscriptions: before the first one ... */
    uint64_t end_ns;                 /* ... and after the last; read once the party is ready */
    struct midge_histogram latency;
    struct midge_histogram service;
};

/* Shared memory of a run. Thread: any (lock-free). */
struct midge_board {
    _Atomic uint32_t ready_count;
    _Atomic uint32_t finished_count;  /* parties that have all they wait for */
    _Atomic uint32_t published_count; /* publishing parties that have sent all */
    _Atomic bool is_claimed;          /* somebody has failed first, and writes why */
    _Atomic bool is_failed;
    char reason[MIDGE_PARTY_REASON_CAP]; /* of the first failure; read when all have ended */
    _Atomic bool is_over;                /* nothing more is asked of anybody */
    /* Written by the parent before the parties start. */
    uint32_t party_count;
    enum midge_party_kind kinds[MIDGE_PARTIES_MAX];
    /* Written by the parent before begin_at_ns. */
    uint64_t measure_from_ns;
    uint64_t measure_until_ns;
    _Atomic uint64_t begin_at_ns; /* 0 = not yet */
    struct midge_row rows[MIDGE_PARTIES_MAX];
};

struct midge_party {
    enum midge_party_kind kind;
    uint32_t index;                          /* of its row */
    const struct midge_run_options *options; /* borrow */
    struct midge_board *board;               /* borrow */
    struct midge_row *row;                   /* borrow */
    const struct midge_driver_kind *library; /* borrow; raw for one that stalls */
    struct midge_driver *driver;             /* own */
    uint32_t conn_count;                     /* CONNECT: how many to make */
    pthread_mutex_t lock;                    /* where the library calls back in threads */
    uint8_t *payload;                        /* own; filler */
    uint8_t *expected;                       /* own; filler, to compare */
};

/**
 * Live as that party, from connecting to its end. In its own process.
 *
 * @return MIDGE_OK; anything else: the reason is in its row, and the board says failed
 */
MIDGE_MUST_CHECK enum midge_status midge_party_live(struct midge_party *party);

/* The kinds: each is called once, connects and subscribes what it needs, calls
 * midge_party_await_begin(), and does its work until the measured time is over. */

MIDGE_MUST_CHECK enum midge_status midge_party_request(struct midge_party *party);
MIDGE_MUST_CHECK enum midge_status midge_party_respond(struct midge_party *party);
MIDGE_MUST_CHECK enum midge_status midge_party_publish(struct midge_party *party);
MIDGE_MUST_CHECK enum midge_status midge_party_subscribe(struct midge_party *party);
MIDGE_MUST_CHECK enum midge_status midge_party_stall(struct midge_party *party);
MIDGE_MUST_CHECK enum midge_status midge_party_connect(struct midge_party *party);
MIDGE_MUST_CHECK enum midge_status midge_party_match(struct midge_party *party);

/* What they share. */

/** Tell the others that the run has failed, and write why, for people, unless somebody has before:
 * the first reason is the cause. MIDGE_E_CLOSED, which is how the others end then, is no failure.
 * @return status */
enum midge_status midge_party_fail(struct midge_party *party, enum midge_status status,
                                   const char *format, ...) __attribute__((format(printf, 3, 4)));

/** The same from the parent. */
void midge_board_fail(struct midge_board *board, const char *reason);

/** Say that everything is connected, and wait for the beginning. @return MIDGE_OK; E_CLOSED: the
 * run has failed elsewhere */
MIDGE_MUST_CHECK enum midge_status midge_party_await_begin(struct midge_party *party);

/** Say that nothing more comes, and stay connected until the run is over: closing costs the server
 * CPU time. */
void midge_party_finish(struct midge_party *party);

/** Disconnect, and end threads that call back. */
void midge_party_close(struct midge_party *party);

/** Where the library calls back in threads, keep them out of what the party counts; else nothing.
 */
static inline void midge_party_lock(struct midge_party *party)
{
    if (party->library->has_threads)
        (void)pthread_mutex_lock(&party->lock);
}

static inline void midge_party_unlock(struct midge_party *party)
{
    if (party->library->has_threads)
        (void)pthread_mutex_unlock(&party->lock);
}

/** True once the run is over or has failed. */
bool midge_party_is_over(const struct midge_party *party);

/** True if a send that was meant for that time belongs to the measured ones. */
bool midge_party_is_measured(const struct midge_party *party, uint64_t intended_ns);

/** Add to a counter that has one writer. Cost: a load and a store. */
void midge_row_add(_Atomic uint64_t *counter, uint64_t count);

/** Read one. */
uint64_t midge_row_get(const _Atomic uint64_t *counter);

/** Responders' call-back: publish the payload to the reply subject. @param context  the party */
void midge_party_echo(void *context, const struct midge_driver_msg *msg);

/* What the first bytes of a payload say. On the wire the number's upper byte is a check of both. */
struct midge_stamp {
    uint64_t number; /* below 2^56 */
    uint64_t intended_ns;
};

/* Bits of a stamp's number that are no check. */
#define MIDGE_STAMP_NUMBER_MASK ((1ull << 56) - 1)

/** A byte of both numbers, mixed: a payload of 16 bytes has no filler to tell that it is broken. */
static inline uint64_t midge_stamp_check(uint64_t number, uint64_t intended_ns)
{
    uint64_t mixed = number ^ intended_ns;

    return midge_random_next(&mixed) & ~MIDGE_STAMP_NUMBER_MASK;
}

/** Write it into party->payload. */
void midge_party_stamp(struct midge_party *party, struct midge_stamp stamp);

/** Read it, and compare length, check and filler. @return false: not one of ours */
MIDGE_MUST_CHECK static inline bool midge_party_read_stamp(const struct midge_party *party,
                                                           struct midge_slice payload,
                                                           struct midge_stamp *stamp_out)
{
    struct midge_stamp stamp;

    if (payload.len != party->options->size)
        return false;
    memcpy(&stamp, payload.base, sizeof stamp);
    stamp_out->number = stamp.number & MIDGE_STAMP_NUMBER_MASK;
    stamp_out->intended_ns = stamp.intended_ns;
    return (stamp.number & ~MIDGE_STAMP_NUMBER_MASK) ==
               midge_stamp_check(stamp_out->number, stamp.intended_ns) &&
           (payload.len == sizeof stamp || /* spares the call */
            memcmp(payload.base + sizeof stamp, party->expected + sizeof stamp,
                   payload.len - sizeof stamp) == 0);
}

/* When the next send is due. Thread: one owner. */
struct midge_schedule {
    uint64_t next_ns;   /* 0 = closed loop, or not begun */
    double interval_ns; /* between bursts */
    double rest_ns;     /* of times that are no whole ns */
    uint32_t burst;     /* how many are due at once */
    uint32_t left;      /* of them, behind the next one */
    enum midge_run_arrivals arrivals;
    uint64_t random; /* state of splitmix64 */
};

/* How sends are spread over time. */
struct midge_schedule_options {
    uint32_t rate;  /* a second; > 0 */
    uint32_t burst; /* that many at once, and as much more rarely; > 0 */
    enum midge_run_arrivals arrivals;
    uint64_t seed;
};

/** The first burst is due at begin_at_ns. */
void midge_schedule_init(struct midge_schedule *schedule,
                         const struct midge_schedule_options *options, uint64_t begin_at_ns);

/** The same with what the run asks for, from when it begins. */
void midge_party_begin_schedule(const struct midge_party *party, struct midge_schedule *schedule);

/** Go on to the one after it. Cost: some ns, a logarithm for Poisson. */
void midge_schedule_advance(struct midge_schedule *schedule);

#endif
