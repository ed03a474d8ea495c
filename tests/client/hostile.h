/*
 * What the tests of broken and hostile servers share: a fake server that attacks on its first
 * connection and behaves on the next ones, its victim, and a neighbour in the same loop, connected
 * to a real server, whom none of it may disturb.
 *
 * In the thread-safe mode a loop has one client, and the neighbour has its own.
 *
 * Thread: the main one; talks run on the fake's.
 */
#ifndef MIDGE_HOSTILE_H
#define MIDGE_HOSTILE_H

#include "rig.h"

struct midge_hostile {
    struct midge_rig *rig;
    struct midge_rig_fake *fake;
    struct midge_loop *loop; /* NULL in the thread-safe mode */
    struct midge_client *victim;
    struct midge_client *neighbour;
    struct midge_rig_events events; /* of the victim */
    uint64_t rss_before;            /* bytes */
};

/** Options for the victim: tells its events, comes back at once. */
struct midge_options midge_hostile_options(struct midge_hostile *hostile);
/** Start the fake server and make the victim; it is not connected. @param options  changed by the
 * caller from midge_hostile_options(); NULL = these. Its url and loop are set here. */
void midge_hostile_open(struct midge_hostile *hostile, struct midge_rig *rig, void *context,
                        midge_rig_talk_cb talk_cb, const struct midge_options *options);
/** The neighbour gets an answer to a request. */
void midge_hostile_check_neighbour(struct midge_hostile *hostile);
/** The victim, on a server that behaves, works; and so does the neighbour. */
void midge_hostile_check_well(struct midge_hostile *hostile);
/** Drive the victim until it has lost its server and come back so many times. */
void midge_hostile_await_return(struct midge_hostile *hostile, uint32_t times);
/** Memory did not grow beyond this since the beginning; not looked at under a sanitizer. */
void midge_hostile_check_memory(const struct midge_hostile *hostile, uint64_t growth_max);
/** End all of them. */
void midge_hostile_close(struct midge_hostile *hostile);

/* --- for talks; thread: the fake's --- */

/** Send bytes. @return false if the peer has gone */
bool midge_hostile_send(const struct midge_rig_fake_conn *conn, const void *bytes, size_t len);
/** Answer each PING until the peer goes. */
void midge_hostile_behave(const struct midge_rig_fake_conn *conn);
/** INFO, CONNECT, PONG, then the same. */
void midge_hostile_serve(const struct midge_rig_fake_conn *conn);
/** Read until the peer goes, answering nothing. @return how many bytes came */
uint64_t midge_hostile_read_to_end(const struct midge_rig_fake_conn *conn);

#endif
