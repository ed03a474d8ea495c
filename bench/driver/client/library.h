/*
 * What a load asks of the client library under test: the one part of it that is written anew for
 * each library, as bench/driver/<library>/library.c. The functions do what a program would write
 * that uses the library well, and nothing else, so that what a run costs is the library's.
 *
 * One `struct midge_library` is one connection. Its call-backs may run in a thread of the library's
 * own, but in one at a time.
 *
 * Thread: the one that opened it.
 */
#ifndef MIDGE_LIBRARY_H
#define MIDGE_LIBRARY_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "midge/compiler.h"
#include "midge/slice.h"
#include "midge/status.h"

/* Subjects of all loads. */
#define MIDGE_LIBRARY_REQUESTS "svc"
#define MIDGE_LIBRARY_MESSAGES "bench"

struct midge_library;

struct midge_library_options {
    const char *url; /* borrow, as long as the library is open */
    uint32_t timeout_ms;
    uint32_t spin_us;   /* watch for bytes this long before sleeping, where a library can */
    uint32_t in_flight; /* most requests of midge_library_begin_request() at a time */
    bool is_send_asap;  /* send within the call that publishes, where a library does not anyway */
};

/* How far a stretch of work has come; in memory that is shared with the far side's process. */
struct midge_progress {
    _Atomic uint64_t count;  /* one writer, any reader */
    _Atomic uint64_t target; /* changed only while nothing is under way */
    _Atomic bool is_failed;  /* the reason has been said */
};

/** A reply came to the request of that number; called by the library's file. */
typedef void (*midge_library_reply_cb)(void *context, uint64_t number, struct midge_slice payload);

/** Name and version. Static. */
const char *midge_library_name(void);

/**
 * Connect.
 *
 * @param library_out  own; end with midge_library_close(), also after a failure if not NULL
 * @return MIDGE_OK; anything else: the reason is on standard error, as everywhere below
 */
MIDGE_MUST_CHECK enum midge_status midge_library_open(const struct midge_library_options *options,
                                                      struct midge_library **library_out);

/** Disconnect and free. NULL does nothing. */
void midge_library_close(struct midge_library *library);

/**
 * A blocking request.
 *
 * @param reply_out  payload of the reply; borrow, until the next call
 */
MIDGE_MUST_CHECK enum midge_status midge_library_request(struct midge_library *library,
                                                         struct midge_slice payload,
                                                         struct midge_slice *reply_out);

/** Answer requests with their own payload, on a second connection of this process. */
MIDGE_MUST_CHECK enum midge_status midge_library_respond(struct midge_library *library);

/** Get ready for asynchronous requests, whose replies all come to one call-back. */
MIDGE_MUST_CHECK enum midge_status midge_library_prepare(struct midge_library *library,
                                                         struct midge_progress *progress,
                                                         void *context,
                                                         midge_library_reply_cb reply_cb);

/** Send one. Also inside the call-back. @param number  less than in_flight above the oldest one */
MIDGE_MUST_CHECK enum midge_status midge_library_begin_request(struct midge_library *library,
                                                               uint64_t number,
                                                               struct midge_slice payload);

/** Subscribe to MIDGE_LIBRARY_MESSAGES, and raise progress->count with each message. */
MIDGE_MUST_CHECK enum midge_status midge_library_count(struct midge_library *library,
                                                       struct midge_progress *progress);

/**
 * Wait until the count that was given to prepare or count has reached its target.
 *
 * @return MIDGE_OK; E_PARSE: progress->is_failed; AGAIN: nothing came within the timeout
 */
MIDGE_MUST_CHECK enum midge_status midge_library_wait(struct midge_library *library);

/** PING, and wait for the PONG: the server knows what was asked for before. */
MIDGE_MUST_CHECK enum midge_status midge_library_fence(struct midge_library *library);

/**
 * Take in everything that the server has sent, call-backs included; nothing follows but close.
 *
 * @param lost_out  messages that came for nobody, or that the library dropped, as far as it says
 */
MIDGE_MUST_CHECK enum midge_status midge_library_finish(struct midge_library *library,
                                                        uint64_t *lost_out);

#endif
