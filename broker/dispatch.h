/*
 * From a message to its targets: match, deliver, pick one member of each queue group, 503.
 *
 * There is one function that appends to a subscriber's outbox for a subscription; whatever
 * restricts a delivery is checked there, under the outbox lock.
 *
 * Messages of one publisher to one subject that follow each other in the receive buffer make a
 * *run*: they are matched once, and each target takes all of them under one lock. Nobody can tell:
 * whatever else the publisher sends ends the run first, and where one connection would get two
 * copies of a message, or a queue group one, the messages go one after the other. So they do where
 * a sid is very long.
 *
 * Thread: shard (the publisher's owner).
 */
#ifndef MIDGE_DISPATCH_H
#define MIDGE_DISPATCH_H

#include "midge/encode.h"
#include "midge/parser.h"
#include "midge/slice.h"
#include "msg.h"

struct midge_conn;
struct midge_shard;

/* Messages in a run: where the lock costs little beside what is done under it. */
#define MIDGE_RUN_MSGS_MAX 64u

/* Frames and bodies of a run take at most this part of max_pending, and MIDGE_COPY_LEN_MAX bytes,
 * as those of one message: so a publisher that will have to wait is not far beyond the mark. */
#define MIDGE_RUN_PENDING_DIVISOR 64u

/* Bytes of a sid whose subscription takes runs; clients count them, so few have more than 10. */
#define MIDGE_RUN_SID_LEN_MAX 64u

/* What the messages of a run do not share. All borrowed. */
struct midge_run_msg {
    struct midge_slice reply;
    struct midge_slice header_text;
    struct midge_slice size_text;
    struct midge_slice body; /* headers and payload, without CRLF */
    uint32_t header_len;
    uint32_t frame_len;       /* of the frame but for the sid, for subscribers with headers */
    uint32_t plain_frame_len; /* … and without */
    uint32_t plain_size_len;
    uint8_t plain_size_text[MIDGE_DECIMAL_LEN_MAX]; /* for subscribers without headers */
};

/* Thread: shard. */
struct midge_run {
    struct midge_conn *conn; /* the publisher; of the last run while count is 0, as all else */
    struct midge_slice subject;
    uint32_t count;
    uint32_t room_len; /* bytes that one target needs, without sids */
    uint64_t body_len; /* bytes of all bodies */
    struct midge_run_msg msgs[MIDGE_RUN_MSGS_MAX];
};

/** Route a PUB or HPUB whose payload lies whole in the receive buffer, or keep it in the shard's
 * run until midge_dispatch_end_run(), which must come before the buffer goes, and before anything
 * else of the connection is handled. */
void midge_dispatch_publish(struct midge_shard *shard, struct midge_conn *conn,
                            const struct midge_op *op);

/** Route what is in the run, if anything. */
void midge_dispatch_end_run(struct midge_shard *shard);

/** Route a message that came in pieces. @param msg  borrowed, complete */
void midge_dispatch_publish_msg(struct midge_shard *shard, struct midge_conn *conn,
                                struct midge_msg *msg);

#endif
