/*
 * Which shard reads which connections, where --threads is auto: one shard until it is busy, then
 * connections that talk to each other together.
 *
 * Every shard looks from time to time, in turns that it has anyway; one that sleeps has nothing to
 * give away. It moves only connections of its own, for one of three reasons:
 *
 *   - spread: it is busy and another shard is not. Whole groups of connections that talk to each
 *     other go first; one group that is too heavy is divided.
 *   - join: what a connection sends or gets is, look after look, from or for another shard that has
 *     room for it.
 *   - shrink: this shard and the first one are both nearly idle. On one shard nothing crosses.
 *
 * The bounds lie so far apart that what one reason did gives no other one a reason to undo it.
 * Decision 0005 has the figures.
 *
 * Thread: shard (owner), except where a function says otherwise.
 */
#ifndef MIDGE_BALANCE_H
#define MIDGE_BALANCE_H

#include <stdbool.h>
#include <stdint.h>

#include "midge/compiler.h"
#include "midge/limits.h"

struct midge_shard;

/* How often a shard looks, in ns of its clock. */
#define MIDGE_BALANCE_LOOK_NS 100000000ull

/* Slots that one look sees: a bound on what it costs. The next one goes on behind them. */
#define MIDGE_BALANCE_SLOTS 4096u

/* What input costs, compared to other input: one operation or one delivery is 1. So much is one
 * receive, and so many bytes are 1. */
#define MIDGE_WORK_RECV  10u
#define MIDGE_WORK_BYTES 1024u

/* No unit, no connection. */
#define MIDGE_BALANCE_NONE UINT32_MAX

/* One connection of the shard, as far as a choice needs it. */
struct midge_balance_unit {
    uint64_t weight;       /* work that it made since the last look */
    uint64_t group_weight; /* out: of its group, in the unit that stands for it */
    uint32_t friends[2];   /* units that it talked to last; NONE */
    uint32_t group;        /* out: the unit that stands for all that talk to each other */
    bool present;          /* a connection of this shard that may move */
    bool chosen;           /* out */
};

/**
 * Choose units that carry about `want` of the weight: whole groups as far as they fit, heaviest
 * first; single units where the groups that fit carry less than a quarter of it.
 *
 * @param order  scratch, `count` entries
 * @return weight of what is chosen, at most a tenth over `want`; 0 = nothing fits
 */
uint64_t midge_balance_choose(struct midge_balance_unit *units, uint32_t *order, uint32_t count,
                              uint64_t want);

struct midge_balance {
    uint64_t look_ns;      /* between looks; 0 = connections stay where they are */
    uint64_t look_at_ns;   /* the next one */
    uint64_t looked_at_ns; /* the last one */
    uint64_t idle_ns;      /* of the cores, when the first of busy_looks was */
    uint64_t idle_at_ns;   /* when that was */
    uint64_t rest_until_ns;
    uint64_t calm_since_ns;               /* 0 = it is not */
    uint32_t cursor;                      /* the slot that the next look begins with */
    uint32_t busy_looks;                  /* in a row */
    uint64_t busy_ns[MIDGE_SHARDS_MAX];   /* of each shard at the last look */
    uint32_t permilles[MIDGE_SHARDS_MAX]; /* of a core that it used since, without watching */
    struct midge_balance_unit *units;     /* mapped: MIDGE_BALANCE_SLOTS */
    uint32_t order[MIDGE_BALANCE_SLOTS];  /* scratch of midge_balance_choose() */
};

/** @return false without memory. Thread: shard. */
MIDGE_MUST_CHECK bool midge_balance_init(struct midge_balance *balance, uint64_t look_ns);
void midge_balance_deinit(struct midge_balance *balance);

/** Look, if it is time. Thread: shard. Cost: a system call for each shard, and
 * a cache line or two for each of at most MIDGE_BALANCE_SLOTS slots. */
void midge_balance_look(struct midge_shard *shard);

/** The shard for a connection that this one has just accepted. Thread: shard. */
struct midge_shard *midge_balance_for_new(struct midge_shard *shard);

#endif
