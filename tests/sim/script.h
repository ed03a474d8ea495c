/*
 * What the peers of a simulated broker do: connect, say sensible and senseless things in pieces of
 * any size, read or refuse to read, and leave in every way. All of it comes from the world's seed.
 *
 * Thread: shard. Memory: malloc; a failed allocation ends the test.
 * Limits: MIDGE_SCRIPT_PEERS_MAX peers in one run.
 */
#ifndef MIDGE_SCRIPT_H
#define MIDGE_SCRIPT_H

#include <stdbool.h>
#include <stdint.h>

#include "midge/ring_sim.h"

#define MIDGE_SCRIPT_PEERS_MAX 32u

struct midge_script_peer {
    uint32_t peer;
    bool stalled; /* does not read */
    bool fin;     /* has ended its stream */
    bool gone;
    bool headers;
    uint32_t seq;
    uint8_t *out; /* owned: what it still wants to say */
    uint32_t out_off;
    uint32_t out_len; /* end of the bytes in out */
    uint32_t out_cap;
    uint64_t read_bytes;
};

struct midge_script_options {
    uint32_t peers_max; /* at a time */
    uint32_t payload_len_max;
    uint32_t control_line_len_max;
    uint64_t jump_ns;    /* longest jump of the clock */
    bool login;          /* the broker asks for user and password */
    bool polite;         /* no senseless input, no sudden ends */
    uint32_t leave_rate; /* steps of 1000 in which one that is not polite leaves */
};

struct midge_script {
    struct midge_sim *sim;
    struct midge_ring *const *rings; /* whose doorbells ring without a reason */
    uint32_t ring_count;
    const int *listener_fds; /* one is chosen for each connection */
    uint32_t listener_count;
    struct midge_script_options options;
    struct midge_script_peer peers[MIDGE_SCRIPT_PEERS_MAX];
    uint32_t peer_count; /* that ever connected */
};

/** @param rings, listener_fds  borrowed until the end */
void midge_script_init(struct midge_script *script, struct midge_sim *sim,
                       struct midge_ring *const *rings, uint32_t ring_count,
                       const int *listener_fds, uint32_t listener_count,
                       const struct midge_script_options *options);
void midge_script_deinit(struct midge_script *script);

/** One thing happens: somebody connects, speaks, reads, leaves; the clock moves; the doorbell
 * rings. */
void midge_script_step(struct midge_script *script);

/** Everybody says what is left to say and reads all there is. @return false if there was nothing */
bool midge_script_drain(struct midge_script *script);

#endif
