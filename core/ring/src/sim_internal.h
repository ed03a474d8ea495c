/*
 * The simulated world as its two halves see it: sim_world.c has the clock, the links and the peers,
 * ring_sim.c has the rings.
 *
 * Thread: shard; the whole world is one thread's.
 */
#ifndef MIDGE_SIM_INTERNAL_H
#define MIDGE_SIM_INTERNAL_H

#include <stddef.h>

#include "midge/ring_sim.h"

#define SIM_NO_PEER UINT32_MAX

/* One direction of a link: bytes in order, bounded by `cap`. */
struct sim_pipe {
    uint8_t *base;
    uint32_t off; /* first byte not yet taken */
    uint32_t len; /* bytes waiting */
    uint32_t cap;
    uint32_t room;       /* bytes allocated at base */
    uint32_t write_left; /* bytes of the oldest write among those waiting */
};

/* One connection. It lives to the end of the world, so that a peer can be asked afterwards. */
struct sim_link {
    uint32_t peer;
    int fd;          /* ring side; -1 before accept and after close */
    int listener_fd; /* whose queue it waits in, -1 when accepted */
    struct sim_pipe up;
    struct sim_pipe down;
    bool peer_fin;    /* the peer has ended its stream */
    bool peer_gone;   /* the peer has closed: what arrives for it resets the link */
    bool broken;      /* reset, by whichever side */
    bool error_told;  /* -ECONNRESET was told once; from then on end of stream and -EPIPE */
    bool ring_fin;    /* the ring's side has ended its stream */
    bool ring_deaf;   /* the ring's side has shut its reading half */
    bool ring_closed; /* the descriptor is closed */
};

/* Life of an accept, recv or poll_out:
 *   IDLE -> QUEUED -> ACTIVE -> (CANCELLED ->) ENDED -> IDLE
 * ENDED means that the last event is made and not yet taken. */
enum sim_op_state {
    SIM_OP_IDLE = 0,
    SIM_OP_QUEUED,
    SIM_OP_ACTIVE,
    SIM_OP_CANCELLED,
    SIM_OP_ENDED,
};

struct sim_op {
    enum sim_op_state state;
    struct midge_handle handle;
    uint64_t release_turn; /* turn in which its latest event may be shown */
    uint64_t idle_turn;    /* turn in which its last event was taken */
};

/* Life of a send: NONE -> QUEUED -> TAKEN (silent) or TOLD (event made) -> NONE.
 * Of a try_send, by whichever ring: NONE -> TRIED -> NONE. */
enum sim_send_state {
    SIM_SEND_NONE = 0,
    SIM_SEND_QUEUED,
    SIM_SEND_TAKEN,
    SIM_SEND_TOLD,
    SIM_SEND_TRIED,
};

struct sim_send {
    enum sim_send_state state;
    struct midge_handle handle;
    struct iovec pieces[MIDGE_RING_IOV_MAX];
    uint32_t piece_count;
    uint64_t total;
    uint64_t checksum;    /* of the lent bytes when they were lent */
    uint64_t settle_turn; /* turn after which it counts as done */
    int64_t res;
};

enum sim_fd_kind {
    SIM_FD_FREE = 0,
    SIM_FD_LISTENER,
    SIM_FD_STREAM,
};

struct sim_fd {
    enum sim_fd_kind kind;
    uint32_t generation; /* of this entry of the table */
    struct sim_link *link;
    struct midge_ring *ring; /* adopted by it, or NULL */
    bool on_its_way;         /* released and not adopted again: others may send */
    struct sim_op input;     /* accept or recv */
    struct sim_op output;    /* poll_out */
    struct sim_send send;
};

/* CPU time, used or idle: a share of the time that changes now and then. */
struct sim_share {
    uint64_t total_ns;
    uint64_t at_ns; /* when it was asked for last */
    uint32_t permille;
};

struct midge_sim {
    uint64_t random_state;
    uint64_t trace_hash;
    uint64_t now_ns;
    struct sim_share idle;
    struct midge_sim_options options;
    struct midge_sim_counts counts;
    void *note_context;
    midge_sim_note_cb note_cb;
    void *sleep_context;
    midge_sim_sleep_cb sleep_cb;
    void *pause_context;
    midge_sim_pause_cb pause_cb;
    struct midge_ring *rings[MIDGE_SIM_RINGS_MAX];
    uint32_t ring_count;
    struct sim_fd *fds; /* MIDGE_SIM_FDS_MAX entries */
    uint32_t fd_high;   /* entries ever used */
    uint32_t fd_count;  /* open */
    struct sim_link **links;
    uint32_t link_count;
    uint32_t link_cap;
};

/** Random bits of the world. */
uint64_t midge_sim_random(struct midge_sim *sim);

/** True in `per_mille` of 1000 cases. No random bits are used for 0. */
bool midge_sim_chance(struct midge_sim *sim, uint16_t per_mille);

/** True, and counted, if the fault strikes. */
bool midge_sim_strikes(struct midge_sim *sim, uint16_t per_mille, uint64_t *count);

/** Mix numbers into the trace. */
void midge_sim_trace(struct midge_sim *sim, uint64_t a, uint64_t b, uint64_t c);

/** Tell the observer and the trace. */
void midge_sim_tell(struct midge_sim *sim, const struct midge_sim_note *note);

/** Hash of bytes, continuing `hash`. */
uint64_t midge_sim_hash_bytes(uint64_t hash, const void *bytes, size_t len);

/** The entry of an open descriptor; anything else is a programmer error. */
struct sim_fd *midge_sim_fd_get(const struct midge_sim *sim, int fd);

/** Open the lowest free descriptor. */
int midge_sim_fd_open(struct midge_sim *sim, enum sim_fd_kind kind, struct sim_link *link);

/** True if one more descriptor may be opened. */
bool midge_sim_fd_available(const struct midge_sim *sim);

/** Close a descriptor; its link, or the links in its queue, see it. */
void midge_sim_fd_close(struct midge_sim *sim, int fd);

/** Oldest link in a listener's queue, or NULL. */
struct sim_link *midge_sim_listener_first(const struct midge_sim *sim, int listener_fd);

void midge_sim_pipe_push(struct sim_pipe *pipe, const void *bytes, uint32_t len);

/** Take exactly `len` waiting bytes; out may be NULL. */
void midge_sim_pipe_pull(struct sim_pipe *pipe, void *out, uint32_t len);

static inline uint32_t sim_pipe_room(const struct sim_pipe *pipe)
{
    return pipe->cap - pipe->len;
}

#endif
