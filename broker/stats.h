/*
 * Counters of one shard. One writer (the shard), any reader.
 *
 * Every message is accounted for: matched = appended + dropped_closing + dropped_slow +
 * dropped_memory, and appended = delivered + discarded + what is still pending. `delivered` means
 * that its segment was wholly handed to the kernel. Of the segment of which only a part was handed
 * over when its connection closed, all deliveries count as discarded, though the peer may have got
 * the first ones.
 */
#ifndef MIDGE_STATS_H
#define MIDGE_STATS_H

#include <stdatomic.h>
#include <stdint.h>

/* X(name, text) */
#define MIDGE_STATS_TABLE(X)                                                                       \
    X(in_msgs, "messages received")                                                                \
    X(in_bytes, "bytes of headers and payload received")                                           \
    X(out_msgs, "deliveries appended")                                                             \
    X(out_bytes, "bytes of headers and payload appended")                                          \
    X(matched, "deliveries attempted: plain subscriptions and queue groups that matched")          \
    X(delivered, "deliveries handed to the kernel")                                                \
    X(discarded, "deliveries pending when their connection closed")                                \
    X(dropped_closing, "deliveries refused because every possible target was closing or gone")     \
    X(dropped_slow, "deliveries refused over max_pending")                                         \
    X(dropped_memory, "deliveries refused without memory")                                         \
    X(no_interest, "messages that matched nothing")                                                \
    X(no_responders, "503 replies sent")                                                           \
    X(connects, "connections accepted")                                                            \
    X(disconnects, "connections closed")                                                           \
    X(rejected, "connections refused: limit, or no slot")                                          \
    X(accept_errors, "times accept ended for lack of descriptors")                                 \
    X(slow_pending, "connections closed over max_pending")                                         \
    X(slow_deadline, "connections closed over write_deadline")                                     \
    X(stale, "connections closed as stale")                                                        \
    X(auth_errors, "connections closed for their credentials")                                     \
    X(memory_closed, "connections closed by max_memory")                                           \
    X(stalls, "times a publisher was not read because every recipient was behind")                 \
    X(moves, "connections that came from another thread")                                          \
    X(spread_moves, "connections given away because this thread was busy")                         \
    X(join_moves, "connections given away to the thread of their partners")                        \
    X(shrink_moves, "connections given back to the first thread, both nearly idle")                \
    X(turns, "loop turns")

struct midge_stats {
#define MIDGE_STATS_FIELD(name, text) _Atomic uint64_t name;
    MIDGE_STATS_TABLE(MIDGE_STATS_FIELD)
#undef MIDGE_STATS_FIELD
};

/* Add to a counter that only this thread writes. */
static inline void midge_stats_add(_Atomic uint64_t *counter, uint64_t amount)
{
    const uint64_t before = atomic_load_explicit(counter, memory_order_relaxed);

    atomic_store_explicit(counter, before + amount, memory_order_relaxed);
}

static inline uint64_t midge_stats_read(const _Atomic uint64_t *counter)
{
    return atomic_load_explicit(counter, memory_order_relaxed);
}

#endif
