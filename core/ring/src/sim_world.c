/*
 * The simulated world: clock, random, descriptors, links, and the peers at their other ends.
 *
 * What happens at a close is Linux's: unread bytes at close reset the link; what had arrived before
 * a reset can still be read; a send to a peer that has closed is taken and resets the link
 * afterwards.
 *
 * Thread: shard. Memory: malloc, links are kept until the world ends.
 * Source: tcp(7); Linux net/ipv4/tcp.c __tcp_close(), tcp_recvmsg_locked(), tcp_input.c
 * tcp_reset().
 */
#include "sim_internal.h"

#include <stdlib.h>
#include <string.h>

#define SIM_START_NS       1000000000ull
#define SIM_SOCKET_CAP     65536u
#define SIM_HASH_PRIME     0x9e3779b97f4a7c15ull
#define SIM_PIPE_ROOM_MIN  256u
#define SIM_LINK_COUNT_MIN 16u

static uint64_t mix(uint64_t word)
{
    word ^= word >> 30;
    word *= 0xbf58476d1ce4e5b9ull;
    word ^= word >> 27;
    word *= 0x94d049bb133111ebull;
    return word ^ (word >> 31);
}

/* SplitMix64: any seed is good, and neighbouring seeds are unrelated. */
uint64_t midge_sim_random(struct midge_sim *sim)
{
    sim->random_state += SIM_HASH_PRIME;
    return mix(sim->random_state);
}

bool midge_sim_chance(struct midge_sim *sim, uint16_t per_mille)
{
    return per_mille != 0 && midge_sim_random(sim) % 1000 < per_mille;
}

bool midge_sim_strikes(struct midge_sim *sim, uint16_t per_mille, uint64_t *count)
{
    if (!midge_sim_chance(sim, per_mille))
        return false;
    ++*count;
    return true;
}

uint64_t midge_sim_hash_bytes(uint64_t hash, const void *bytes, size_t len)
{
    const uint8_t *at = bytes;
    uint64_t word;

    for (; len >= sizeof(word); len -= sizeof(word), at += sizeof(word)) {
        memcpy(&word, at, sizeof(word));
        hash = (hash ^ word) * SIM_HASH_PRIME;
        hash ^= hash >> 29;
    }
    for (; len > 0; len--, at++)
        hash = (hash ^ *at) * SIM_HASH_PRIME;
    return mix(hash);
}

void midge_sim_trace(struct midge_sim *sim, uint64_t a, uint64_t b, uint64_t c)
{
    sim->trace_hash = mix(sim->trace_hash * SIM_HASH_PRIME + mix(a + mix(b + mix(c))));
}

void midge_sim_tell(struct midge_sim *sim, const struct midge_sim_note *note)
{
    midge_sim_trace(sim, (uint64_t)note->kind << 1 | note->more, note->peer, (uint64_t)note->res);
    sim->trace_hash = midge_sim_hash_bytes(sim->trace_hash, note->bytes.base, note->bytes.len);
    if (sim->note_cb != NULL)
        sim->note_cb(sim->note_context, note);
}

void midge_sim_pipe_push(struct sim_pipe *pipe, const void *bytes, uint32_t len)
{
    MIDGE_ASSERT(len <= sim_pipe_room(pipe));

    if (len == 0)
        return;
    if (pipe->off + pipe->len + len > pipe->room) {
        uint32_t room = pipe->room < SIM_PIPE_ROOM_MIN ? SIM_PIPE_ROOM_MIN : pipe->room;

        while (room < pipe->len + len)
            room *= 2;
        uint8_t *base = malloc(room);

        MIDGE_ASSERT(base != NULL);
        if (pipe->len != 0)
            memcpy(base, pipe->base + pipe->off, pipe->len);
        free(pipe->base);
        pipe->base = base;
        pipe->room = room;
        pipe->off = 0;
    }
    if (pipe->len == 0)
        pipe->write_left = len;
    memcpy(pipe->base + pipe->off + pipe->len, bytes, len);
    pipe->len += len;
}

void midge_sim_pipe_pull(struct sim_pipe *pipe, void *out, uint32_t len)
{
    MIDGE_ASSERT(len <= pipe->len);

    if (out != NULL && len != 0)
        memcpy(out, pipe->base + pipe->off, len);
    pipe->off += len;
    pipe->len -= len;
    pipe->write_left = len < pipe->write_left ? pipe->write_left - len : pipe->len;
    if (pipe->len == 0)
        pipe->off = 0;
}

static void pipe_truncate(struct sim_pipe *pipe, uint32_t len)
{
    MIDGE_ASSERT(len <= pipe->len);
    pipe->len = len;
    if (pipe->write_left > len)
        pipe->write_left = len;
}

static struct sim_link *link_get(const struct midge_sim *sim, uint32_t peer)
{
    MIDGE_ASSERT(peer < sim->link_count);
    return sim->links[peer];
}

struct sim_fd *midge_sim_fd_get(const struct midge_sim *sim, int fd)
{
    MIDGE_ASSERT(fd >= MIDGE_SIM_FD_FIRST);
    MIDGE_ASSERT((uint32_t)(fd - MIDGE_SIM_FD_FIRST) < sim->fd_high);

    struct sim_fd *entry = &sim->fds[fd - MIDGE_SIM_FD_FIRST];

    MIDGE_ASSERT(entry->kind != SIM_FD_FREE);
    return entry;
}

bool midge_sim_fd_available(const struct midge_sim *sim)
{
    return sim->fd_count < sim->options.fd_count_max;
}

int midge_sim_fd_open(struct midge_sim *sim, enum sim_fd_kind kind, struct sim_link *link)
{
    uint32_t index = 0;

    MIDGE_ASSERT(midge_sim_fd_available(sim));
    while (sim->fds[index].kind != SIM_FD_FREE)
        index++;

    const uint32_t generation = sim->fds[index].generation + 1;

    memset(&sim->fds[index], 0, offsetof(struct sim_fd, send.pieces));
    sim->fds[index].kind = kind;
    sim->fds[index].generation = generation;
    sim->fds[index].link = link;
    sim->fd_count++;
    if (index >= sim->fd_high)
        sim->fd_high = index + 1;
    return MIDGE_SIM_FD_FIRST + (int)index;
}

struct sim_link *midge_sim_listener_first(const struct midge_sim *sim, int listener_fd)
{
    for (uint32_t i = 0; i < sim->link_count; i++)
        if (sim->links[i]->listener_fd == listener_fd)
            return sim->links[i];
    return NULL;
}

/* The ring's side breaks the link. What the peer's kernel had not taken yet is lost with it. */
static void link_break_from_ring(struct midge_sim *sim, struct sim_link *link)
{
    if (link->broken)
        return;
    link->broken = true;
    sim->counts.resets_sent++;
    pipe_truncate(&link->down, (uint32_t)midge_sim_random_below(sim, link->down.len + 1ull));
}

void midge_sim_fd_close(struct midge_sim *sim, int fd)
{
    struct sim_fd *entry = midge_sim_fd_get(sim, fd);
    struct sim_link *link = entry->link;

    if (entry->kind == SIM_FD_LISTENER) {
        for (uint32_t i = 0; i < sim->link_count; i++) {
            if (sim->links[i]->listener_fd != fd)
                continue;
            sim->links[i]->listener_fd = -1;
            sim->links[i]->ring_closed = true;
            link_break_from_ring(sim, sim->links[i]);
        }
    } else {
        link->fd = -1;
        link->ring_closed = true;
        link->ring_fin = true;
        if (link->up.len != 0)
            link_break_from_ring(sim, link);
    }
    entry->kind = SIM_FD_FREE;
    sim->fd_count--;
}

struct midge_sim *midge_sim_create(const struct midge_sim_options *options)
{
    struct midge_sim *sim = calloc(1, sizeof(*sim));

    MIDGE_ASSERT(options != NULL);
    MIDGE_ASSERT(sim != NULL);
    sim->options = *options;
    if (sim->options.fd_count_max == 0)
        sim->options.fd_count_max = MIDGE_SIM_FDS_MAX;
    if (sim->options.up_cap == 0)
        sim->options.up_cap = SIM_SOCKET_CAP;
    if (sim->options.down_cap == 0)
        sim->options.down_cap = SIM_SOCKET_CAP;
    MIDGE_ASSERT(sim->options.fd_count_max <= MIDGE_SIM_FDS_MAX);
    sim->random_state = options->seed;
    sim->now_ns = SIM_START_NS;
    sim->fds = calloc(MIDGE_SIM_FDS_MAX, sizeof(*sim->fds));
    MIDGE_ASSERT(sim->fds != NULL);
    return sim;
}

void midge_sim_destroy(struct midge_sim *sim)
{
    MIDGE_ASSERT(sim->ring_count == 0);
    for (uint32_t i = 0; i < sim->link_count; i++) {
        free(sim->links[i]->up.base);
        free(sim->links[i]->down.base);
        free(sim->links[i]);
    }
    free(sim->links);
    free(sim->fds);
    free(sim);
}

void midge_sim_set_faults(struct midge_sim *sim, const struct midge_sim_faults *faults)
{
    sim->options.faults = *faults;
}

void midge_sim_observe(struct midge_sim *sim, void *context, midge_sim_note_cb note_cb)
{
    sim->note_context = context;
    sim->note_cb = note_cb;
}

void midge_sim_let_sleep(struct midge_sim *sim, void *context, midge_sim_sleep_cb sleep_cb)
{
    sim->sleep_context = context;
    sim->sleep_cb = sleep_cb;
}

void midge_sim_let_pause(struct midge_sim *sim, void *context, midge_sim_pause_cb pause_cb)
{
    sim->pause_context = context;
    sim->pause_cb = pause_cb;
}

void midge_sim_advance(struct midge_sim *sim, uint64_t duration_ns)
{
    MIDGE_ASSERT(duration_ns <= UINT64_MAX - sim->now_ns);
    sim->now_ns += duration_ns;
    midge_sim_trace(sim, 100, duration_ns, 0);
}

uint64_t midge_sim_now_ns(const struct midge_sim *sim)
{
    return sim->now_ns;
}

uint64_t midge_sim_trace_hash(const struct midge_sim *sim)
{
    return sim->trace_hash;
}

void midge_sim_counts(const struct midge_sim *sim, struct midge_sim_counts *counts_out)
{
    *counts_out = sim->counts;
}

uint32_t midge_sim_open_fd_count(const struct midge_sim *sim)
{
    return sim->fd_count;
}

uint64_t midge_sim_random_below(struct midge_sim *sim, uint64_t bound)
{
    MIDGE_ASSERT(bound != 0);
    return midge_sim_random(sim) % bound;
}

int midge_sim_listen(struct midge_sim *sim)
{
    return midge_sim_fd_open(sim, SIM_FD_LISTENER, NULL);
}

uint32_t midge_sim_peer_connect(struct midge_sim *sim, int listener_fd)
{
    const uint32_t index = (uint32_t)(listener_fd - MIDGE_SIM_FD_FIRST);

    MIDGE_ASSERT(listener_fd >= MIDGE_SIM_FD_FIRST && index < sim->fd_high);
    if (sim->fds[index].kind != SIM_FD_LISTENER)
        return SIM_NO_PEER;
    if (sim->link_count == sim->link_cap) {
        const uint32_t cap = sim->link_cap == 0 ? SIM_LINK_COUNT_MIN : 2 * sim->link_cap;
        struct sim_link **links = realloc(sim->links, cap * sizeof(struct sim_link *));

        MIDGE_ASSERT(links != NULL);
        sim->links = links;
        sim->link_cap = cap;
    }

    struct sim_link *link = calloc(1, sizeof(*link));

    MIDGE_ASSERT(link != NULL);
    link->peer = sim->link_count;
    link->fd = -1;
    link->listener_fd = listener_fd;
    link->up.cap = sim->options.up_cap;
    link->down.cap = sim->options.down_cap;
    sim->links[sim->link_count++] = link;
    midge_sim_trace(sim, 101, link->peer, index);
    return link->peer;
}

uint32_t midge_sim_peer_room(const struct midge_sim *sim, uint32_t peer)
{
    const struct sim_link *link = link_get(sim, peer);

    if (link->broken || link->peer_fin || link->peer_gone)
        return 0;
    return sim_pipe_room(&link->up);
}

uint32_t midge_sim_peer_write(struct midge_sim *sim, uint32_t peer, struct midge_slice bytes)
{
    struct sim_link *link = link_get(sim, peer);
    uint32_t len = midge_sim_peer_room(sim, peer);

    if (len > bytes.len)
        len = bytes.len;
    if (len == 0)
        return 0;
    midge_sim_trace(sim, 102, peer, len);
    /* A closed descriptor answers with a reset. */
    if (link->ring_closed)
        link_break_from_ring(sim, link);
    else
        midge_sim_pipe_push(&link->up, bytes.base, len);
    return len;
}

uint32_t midge_sim_peer_unread(const struct midge_sim *sim, uint32_t peer)
{
    return link_get(sim, peer)->down.len;
}

uint32_t midge_sim_peer_read(struct midge_sim *sim, uint32_t peer, void *out, uint32_t cap)
{
    struct sim_link *link = link_get(sim, peer);
    const uint32_t len = link->down.len < cap ? link->down.len : cap;

    MIDGE_ASSERT(!link->peer_gone);
    midge_sim_pipe_pull(&link->down, out, len);
    midge_sim_trace(sim, 103, peer, len);
    return len;
}

void midge_sim_peer_shutdown(struct midge_sim *sim, uint32_t peer)
{
    link_get(sim, peer)->peer_fin = true;
    midge_sim_trace(sim, 104, peer, 0);
}

void midge_sim_peer_close(struct midge_sim *sim, uint32_t peer)
{
    struct sim_link *link = link_get(sim, peer);

    MIDGE_ASSERT(!link->peer_gone);
    if (link->down.len != 0) {
        midge_sim_peer_reset(sim, peer);
        return;
    }
    link->peer_fin = true;
    link->peer_gone = true;
    midge_sim_trace(sim, 105, peer, 0);
}

void midge_sim_peer_reset(struct midge_sim *sim, uint32_t peer)
{
    struct sim_link *link = link_get(sim, peer);

    MIDGE_ASSERT(!link->peer_gone);
    link->peer_gone = true;
    if (!link->broken) {
        link->broken = true;
        pipe_truncate(&link->up, (uint32_t)midge_sim_random_below(sim, link->up.len + 1ull));
    }
    pipe_truncate(&link->down, 0);
    midge_sim_trace(sim, 106, peer, link->up.len);
}

enum midge_sim_peer_state midge_sim_peer_state(const struct midge_sim *sim, uint32_t peer)
{
    const struct sim_link *link = link_get(sim, peer);

    if (link->peer_gone)
        return MIDGE_SIM_PEER_GONE;
    if (link->down.len != 0)
        return MIDGE_SIM_PEER_OPEN;
    if (link->broken)
        return MIDGE_SIM_PEER_RESET;
    return link->ring_fin ? MIDGE_SIM_PEER_EOF : MIDGE_SIM_PEER_OPEN;
}
