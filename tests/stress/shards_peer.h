/*
 * Clients of the cases of stress_shards: blocking sockets, on which a lost message is a timeout.
 * Every byte that one receives is taken apart; what does not parse ends the program.
 *
 * Thread: a client belongs to one thread at a time.
 */
#ifndef MIDGE_SHARDS_PEER_H
#define MIDGE_SHARDS_PEER_H

#include <stddef.h>

#include "shards_rig.h"

#define MIDGE_ACTORS_MAX      32u
#define MIDGE_PEER_CAP        (1u << 17)
#define MIDGE_RIG_PAYLOAD_MAX 40000u
#define MIDGE_STAMP_LEN       12u /* of a payload: publisher and number */

enum midge_peer_frame_kind {
    FRAME_MSG = 0,
    FRAME_PONG,
    FRAME_ERR,
    FRAME_END,  /* the broker has closed */
    FRAME_NONE, /* nothing is there: only where the client may run dry */
};

struct midge_peer_frame {
    enum midge_peer_frame_kind kind;
    char subject[64];
    char reply[64];
    uint32_t sid;
    uint32_t header_len;
    uint32_t body_len;   /* headers included */
    const uint8_t *body; /* until the next read */
};

struct midge_peer {
    const struct midge_scene *scene;
    const char *role;
    int fd;
    bool answers_no_ping; /* set by the case: the broker may have closed */
    bool may_run_dry;     /* set by the case: between two frames it does not wait */
    bool is_reset;        /* the end was no end of stream */
    bool is_torn;         /* the end was in the midst of a frame */
    uint32_t off;
    uint32_t len;
    uint8_t bytes[MIDGE_PEER_CAP];
};

/** @param receive_len  of the socket's buffer, 0 = the system's. @return owned */
struct midge_peer *midge_peer_connect(struct midge_rig *rig, uint32_t shard, int receive_len);

/** Connect, say hello and subscribe, and know that it is done. @return owned */
struct midge_peer *midge_peer_join(struct midge_rig *rig, uint32_t shard, const char *text);

/** Close the socket and free the client. */
void midge_peer_close(struct midge_peer *peer);

void midge_peer_write(struct midge_peer *peer, const void *bytes, size_t len);
void midge_peer_text(struct midge_peer *peer, const char *text);

/** The next frame that the caller cares for: INFO and +OK are passed over, PING is answered. */
enum midge_peer_frame_kind midge_peer_next(struct midge_peer *peer, struct midge_peer_frame *frame);

/** The next frame, which must be a message. */
void midge_peer_expect_msg(struct midge_peer *peer, struct midge_peer_frame *frame);

/** Answer the PINGs that are there, without waiting; nothing else may be there. For one that only
 * publishes, which would be stale after some minutes. */
void midge_peer_answer_pings(struct midge_peer *peer);

/** PING, and what comes before its PONG. @return messages among it */
uint32_t midge_peer_fence(struct midge_peer *peer);

/** Check a message that carries a stamp: every byte of it, but not its place. @return publisher */
uint32_t midge_peer_check_stamp(const struct midge_scene *scene,
                                const struct midge_peer_frame *frame, uint32_t publisher_count,
                                uint32_t *number_out);

/** Check the next message of its publisher: stamp, number and every byte. @return publisher */
uint32_t midge_peer_check_stamped(const struct midge_scene *scene,
                                  const struct midge_peer_frame *frame, uint32_t *next,
                                  uint32_t publisher_count);

/* Bytes on their way to be written. */
struct midge_writing {
    uint32_t len;
    char bytes[1u << 19];
};

/** @return owned, to be freed */
struct midge_writing *midge_writing_create(const struct midge_scene *scene);

/** Append one PUB with a stamp. @param len  of the payload, at least MIDGE_STAMP_LEN.
 * @return false without room */
bool midge_writing_add(struct midge_writing *writing, const char *subject, uint32_t publisher,
                       uint32_t number, uint32_t len);

/** Write all, in pieces that end anywhere. */
void midge_writing_send(struct midge_peer *peer, struct midge_writing *writing, uint64_t *random);

/** A length of payload: mostly short, some about as long as what is copied, some shared. */
uint32_t midge_writing_pick_len(uint64_t *random);

#define MIDGE_PACE_READERS_MAX    128u
#define MIDGE_PACE_PUBLISHERS_MAX 8u

/* What readers have got, so that no publisher runs so far ahead that one of them is too slow. */
struct midge_pace {
    uint32_t reader_count;
    uint32_t window; /* messages of one publisher that a reader has not got; at least 1 */
    _Atomic uint32_t got[MIDGE_PACE_READERS_MAX][MIDGE_PACE_PUBLISHERS_MAX];
};

/** This reader has all messages of the publisher up to `number`, exclusive. */
void midge_pace_note(struct midge_pace *pace, uint32_t reader, uint32_t publisher, uint32_t number);

/** Wait until every reader has what the publisher sent up to `number`, but for the window. */
void midge_pace_wait(struct midge_pace *pace, const struct midge_scene *scene, uint32_t publisher,
                     uint32_t number);

/* One thread each. */
struct midge_actor {
    struct midge_rig *rig;
    uint32_t index; /* among those of its kind */
    uint32_t shard;
    uint64_t random;
    void *state;    /* of the case */
    uint64_t count; /* of whatever the case counts */
    pthread_t thread;
};

/** Start `count` threads, at most MIDGE_ACTORS_MAX, one after the other on each shard. */
void midge_actors_start(struct midge_rig *rig, struct midge_actor *actors, uint32_t count,
                        void *state, void *(*main_cb)(void *argument));
void midge_actors_join(struct midge_actor *actors, uint32_t count);

#endif
