/*
 * The loop of the client library: whose it is, its turns, its timers, and how it fits into somebody
 * else's event loop.
 *
 * A thread-safe client has one reader at a time, the thread that sleeps in the ring; the others
 * sleep until their answer is there or the reader's place is free. The reader keeps it only for
 * its own call, so it is handed on when that ends.
 *
 * Source: madvise(2) MADV_WIPEONFORK, timerfd_create(2), epoll(7).
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "client_internal.h"

/* Of a client's ring. Buffers are touched only as far as bytes come in, but in turn: at rest two of
 * them take memory, a page each for small messages. More come into use with more traffic. */
#define SQ_ENTRIES      64u
#define CQ_ENTRIES      256u
#define BUFFER_COUNT    16u
#define BUFFER_LEN      16384u
#define BUFFERS_AT_REST 2u

/* Turns of one call in somebody else's event loop. */
#define FOREIGN_TURNS_MAX 8u

#define NS_PER_US 1000ull
#define NS_PER_S  1000000000ull

/* --- making and ending --- */

/* A word that is 1 here and 0 in the child of a fork. */
static uint32_t *make_fork_guard(void)
{
    const size_t len = (size_t)sysconf(_SC_PAGESIZE);
    uint32_t *guard = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (guard == MAP_FAILED)
        return NULL;
    /* Linux 4.14; without it a fork goes unnoticed, which is what every other client does. */
    (void)madvise(guard, len, MADV_WIPEONFORK);
    *guard = 1;
    return guard;
}

enum midge_status midge_loop_create(enum midge_io io, uint32_t spin_us,
                                    struct midge_loop **loop_out)
{
    struct midge_loop *loop = calloc(1, sizeof(*loop));

    if (loop == NULL)
        return MIDGE_E_MEMORY;
    loop->fork_guard = make_fork_guard();
    if (loop->fork_guard == NULL) {
        free(loop);
        return MIDGE_E_MEMORY;
    }
    loop->io = io;
    loop->spin_ns = spin_us * NS_PER_US;
    loop->outer_fd = -1;
    loop->timer_fd = -1;
    loop->timer_fd_at_ns = UINT64_MAX;
    pthread_mutex_init(&loop->lock, NULL);
    *loop_out = loop;
    return MIDGE_OK;
}

/* What the call before gave out is not valid any more. */
static void take_back(struct midge_loop *loop)
{
    if (loop->lent != NULL) {
        midge_kept_release(loop->lent);
        loop->lent = NULL;
    }
}

static bool is_forked(const struct midge_loop *loop)
{
    return MIDGE_UNLIKELY(*loop->fork_guard == 0);
}

void midge_loop_destroy(struct midge_loop *loop)
{
    if (loop == NULL)
        return;
    MIDGE_ASSERT(loop->clients == NULL);
    take_back(loop);
    if (loop->outer_fd >= 0)
        (void)close(loop->outer_fd);
    if (loop->timer_fd >= 0)
        (void)close(loop->timer_fd);
    if (loop->ring != NULL) {
        if (is_forked(loop)) {
            midge_ring_abandon(loop->ring);
        } else {
            if (loop->is_thread_safe)
                midge_ring_take(loop->ring);
            midge_ring_destroy(loop->ring);
        }
    }
    pthread_mutex_destroy(&loop->lock);
    (void)munmap(loop->fork_guard, (size_t)sysconf(_SC_PAGESIZE));
    free(loop->timers);
    free(loop->links);
    free(loop->generations);
    free(loop);
}

const char *midge_loop_io(const struct midge_loop *loop)
{
    return loop->ring == NULL ? "" : midge_ring_kind_name(midge_ring_kind(loop->ring));
}

static enum midge_status open_ring(struct midge_loop *loop)
{
    static const enum midge_ring_kind kinds[] = {
        [MIDGE_IO_AUTO] = MIDGE_RING_KIND_AUTO,
        [MIDGE_IO_URING] = MIDGE_RING_KIND_URING,
        [MIDGE_IO_EPOLL] = MIDGE_RING_KIND_EPOLL,
    };
    const struct midge_ring_options options = {
        .kind = loop->is_thread_safe ? MIDGE_RING_KIND_EPOLL : kinds[loop->io],
        .sq_entries = SQ_ENTRIES,
        .cq_entries = CQ_ENTRIES,
        .buffer_count = BUFFER_COUNT,
        .buffer_len = BUFFER_LEN,
        .buffers_at_rest = BUFFERS_AT_REST,
    };
    char why[128];
    const enum midge_status status = midge_ring_create(&options, &loop->ring, why);

    if (status == MIDGE_OK) {
        /* Sequentially consistent with midge_client_interrupt() and take_interrupt(). */
        atomic_store_explicit(&loop->bell, loop->ring, memory_order_seq_cst);
    } else {
        loop->ring = NULL;
        for (struct midge_client *client = loop->clients; client != NULL; client = client->next)
            midge_client_note(client, "no ring: %s", why);
    }
    return status;
}

enum midge_status midge_loop_enter(struct midge_loop *loop, bool drives)
{
    if (is_forked(loop))
        return MIDGE_E_THREAD;
    if (loop->is_thread_safe) {
        pthread_mutex_lock(&loop->lock);
    } else if (MIDGE_LIKELY(loop->has_owner)) {
        return pthread_equal(loop->owner, pthread_self()) ? MIDGE_OK : MIDGE_E_THREAD;
    }
    if (drives && loop->ring == NULL) {
        const enum midge_status status = open_ring(loop);
        if (status != MIDGE_OK) {
            midge_loop_leave(loop);
            return status;
        }
        loop->now_ns = midge_ring_now_ns(loop->ring);
        loop->owner = pthread_self();
        loop->has_owner = true;
    }
    return MIDGE_OK;
}

void midge_loop_leave(struct midge_loop *loop)
{
    midge_loop_unlock(loop);
}

/* The calling thread is inside a call-back. */
static bool is_in_callback(const struct midge_loop *loop)
{
    if (loop->is_thread_safe)
        return loop->has_reader && pthread_equal(loop->reader, pthread_self());
    return loop->callback_depth > 0;
}

bool midge_loop_may_wait(const struct midge_loop *loop)
{
    return !loop->is_foreign && !is_in_callback(loop);
}

void midge_loop_begin_callback(struct midge_loop *loop)
{
    loop->callback_depth++;
    loop->progress++;
    midge_loop_unlock(loop);
}

void midge_loop_end_callback(struct midge_loop *loop)
{
    midge_loop_lock(loop);
    MIDGE_ASSERT(loop->callback_depth > 0);
    loop->callback_depth--;
}

/* --- timers --- */

static void put_timer(struct midge_loop *loop, uint32_t position, struct midge_client_timer *timer)
{
    loop->timers[position] = timer;
    timer->position = position;
}

static void sift(struct midge_loop *loop, uint32_t position, struct midge_client_timer *timer)
{
    /* Up, for as long as the parent is later; else down, for as long as a child is earlier. */
    while (position > 1 && loop->timers[position / 2]->at_ns > timer->at_ns) {
        put_timer(loop, position, loop->timers[position / 2]);
        position /= 2;
    }
    for (;;) {
        uint32_t child = 2 * position;
        if (child > loop->timer_count)
            break;
        if (child < loop->timer_count &&
            loop->timers[child + 1]->at_ns < loop->timers[child]->at_ns)
            child++;
        if (loop->timers[child]->at_ns >= timer->at_ns)
            break;
        put_timer(loop, position, loop->timers[child]);
        position = child;
    }
    put_timer(loop, position, timer);
}

enum midge_status midge_loop_reserve_timers(struct midge_loop *loop, uint32_t count)
{
    const uint64_t wanted = 1 + (uint64_t)loop->timer_count + count +
                            (uint64_t)loop->client_count * MIDGE_TIMERS_OF_A_CLIENT;
    uint32_t cap = loop->timer_cap == 0 ? 16 : loop->timer_cap;
    struct midge_client_timer **timers;

    if (wanted <= loop->timer_cap)
        return MIDGE_OK;
    while (cap < wanted)
        cap *= 2;
    timers = realloc(loop->timers, cap * sizeof(*timers));
    if (timers == NULL)
        return MIDGE_E_MEMORY;
    loop->timers = timers;
    loop->timer_cap = cap;
    return MIDGE_OK;
}

void midge_loop_set_own_timer(struct midge_loop *loop, struct midge_client_timer *timer,
                              uint64_t at_ns)
{
    timer->at_ns = at_ns;
    if (timer->position == 0) {
        MIDGE_ASSERT(loop->timer_count + 1 < loop->timer_cap);
        timer->position = ++loop->timer_count;
    }
    sift(loop, timer->position, timer);
    if (timer->position == 1)
        midge_loop_nudge(loop);
}

enum midge_status midge_loop_set_timer(struct midge_loop *loop, struct midge_client_timer *timer,
                                       uint64_t at_ns)
{
    if (timer->position == 0 && midge_loop_reserve_timers(loop, 1) != MIDGE_OK)
        return MIDGE_E_MEMORY;
    midge_loop_set_own_timer(loop, timer, at_ns);
    return MIDGE_OK;
}

void midge_loop_clear_timer(struct midge_loop *loop, struct midge_client_timer *timer)
{
    const uint32_t position = timer->position;
    struct midge_client_timer *last;

    if (position == 0)
        return;
    timer->position = 0;
    last = loop->timers[loop->timer_count--];
    if (last != timer)
        sift(loop, position, last);
}

static uint64_t next_timer_ns(const struct midge_loop *loop)
{
    return loop->timer_count == 0 ? UINT64_MAX : loop->timers[1]->at_ns;
}

static void run_timers(struct midge_loop *loop)
{
    /* As many as are set now: one that sets itself again, for at once, waits for the next turn, or
     * a server that is given up at once and tried again at once would hold everybody up. */
    for (uint32_t left = loop->timer_count; left > 0; left--) {
        struct midge_client_timer *timer = loop->timer_count == 0 ? NULL : loop->timers[1];
        if (timer == NULL || timer->at_ns > loop->now_ns)
            break;
        midge_loop_clear_timer(loop, timer);
        timer->fire(timer);
    }
}

/* --- links --- */

enum midge_status midge_loop_add_link(struct midge_loop *loop, struct midge_link *link)
{
    uint32_t index = 0;

    while (index < loop->link_cap && loop->links[index] != NULL)
        index++;
    if (index == loop->link_cap) {
        const uint32_t cap = loop->link_cap == 0 ? 4 : 2 * loop->link_cap;
        struct midge_link **links = realloc(loop->links, cap * sizeof(struct midge_link *));
        uint32_t *generations;

        if (links == NULL)
            return MIDGE_E_MEMORY;
        loop->links = links;
        generations = realloc(loop->generations, cap * sizeof(*generations));
        if (generations == NULL)
            return MIDGE_E_MEMORY;
        loop->generations = generations;
        for (uint32_t i = loop->link_cap; i < cap; i++) {
            loop->links[i] = NULL;
            loop->generations[i] = 0;
        }
        loop->link_cap = cap;
    }
    loop->links[index] = link;
    link->handle.index = index;
    link->handle.generation = ++loop->generations[index];
    return MIDGE_OK;
}

void midge_loop_remove_link(struct midge_loop *loop, struct midge_link *link)
{
    MIDGE_ASSERT(loop->links[link->handle.index] == link);
    loop->links[link->handle.index] = NULL;
}

/* --- turns --- */

uint64_t midge_loop_deadline(const struct midge_loop *loop, uint32_t timeout_ms)
{
    if (timeout_ms == MIDGE_FOREVER)
        return UINT64_MAX;
    return midge_ring_now_ns(loop->ring) + timeout_ms * NS_PER_MS;
}

static void arm_receivers(struct midge_loop *loop)
{
    while (loop->armed != NULL) {
        struct midge_link *link = loop->armed;
        loop->armed = link->next_armed;
        link->is_recv_wanted = false;
        if (link->state == MIDGE_LINK_DEAD || link->is_receiving)
            continue;
        link->is_receiving = true;
        midge_ring_recv(loop->ring, link->fd, link->handle);
    }
}

static void flush_all(struct midge_loop *loop)
{
    /* A thread-safe client gives the lock up in between, so the list is taken apart one by one. */
    while (loop->dirty != NULL) {
        struct midge_client *client = loop->dirty;
        loop->dirty = client->next_dirty;
        client->is_dirty = false;
        midge_output_flush(client, false);
    }
}

static void step_drains(struct midge_loop *loop)
{
    loop->is_drain_due = false;
    for (struct midge_client *client = loop->clients; client != NULL; client = client->next) {
        if (client->state == MIDGE_CLIENT_DRAINING)
            midge_drain_step(client);
    }
}

/* Hand over, wait, and open the turn. */
static void begin_turn(struct midge_loop *loop, uint64_t deadline_ns)
{
    uint64_t until_ns = next_timer_ns(loop);
    const bool is_awaited = loop->output_waiters > 0 && loop->dirty != NULL;

    MIDGE_ASSERT(!loop->is_turn_open);
    /* What a call did since the last turn may be all that a drain waited for. */
    if (loop->is_drain_due) {
        step_drains(loop);
        until_ns = 0;
    }
    arm_receivers(loop);
    loop->has_more = false;
    flush_all(loop);
    /* A send that takes everything is silent: whoever waits for room must look after it, and so
     * must what comes behind it. */
    if (is_awaited || loop->has_more)
        until_ns = 0;
    if (deadline_ns < until_ns)
        until_ns = deadline_ns;
    midge_loop_unlock(loop);
    midge_ring_wait(loop->ring, until_ns, loop->spin_ns);
    midge_loop_lock(loop);
    loop->now_ns = midge_ring_now_ns(loop->ring);
    loop->is_turn_open = true;
}

/* All events are handled: what the ring was lent is ours again. */
static void end_turn(struct midge_loop *loop)
{
    struct midge_link **at;

    while (loop->sending != NULL) {
        struct midge_link *link = loop->sending;
        loop->sending = link->next_sending;
        if (link->is_sending)
            midge_output_sent(link, UINT64_MAX);
    }
    loop->is_turn_open = false;
    run_timers(loop);
    for (struct midge_client *client = loop->clients; client != NULL; client = client->next) {
        if (client->is_looking_up)
            midge_session_look_up(client);
    }
    step_drains(loop);
    for (at = &loop->dead; *at != NULL;) {
        struct midge_link *link = *at;
        struct midge_link *next = link->next_dead;
        if (midge_link_reap(link))
            *at = next;
        else
            at = &link->next_dead;
    }
}

/* Handle the events of an open turn, up to its end or until a caller has its message. */
static void run_turn(struct midge_loop *loop)
{
    struct midge_ring_event event;

    for (;;) {
        if (loop->parsing != NULL && !midge_link_parse(loop->parsing))
            return;
        if (!midge_ring_next(loop->ring, &event))
            break;
        midge_link_event(loop, &event);
    }
    end_turn(loop);
}

static bool take_interrupt(struct midge_loop *loop)
{
    /* Sequentially consistent: see midge_client_interrupt(). */
    return atomic_load_explicit(&loop->is_interrupted, memory_order_seq_cst) &&
           atomic_exchange_explicit(&loop->is_interrupted, false, memory_order_seq_cst);
}

static enum midge_status drive_alone(struct midge_loop *loop, struct midge_waiter *waiter,
                                     uint64_t deadline_ns)
{
    take_back(loop);
    for (bool has_looked = false;; has_looked = true) {
        if (waiter->is_done(waiter->context))
            return MIDGE_OK;
        if (take_interrupt(loop))
            return MIDGE_AGAIN;
        if (!loop->is_turn_open) {
            if (has_looked && loop->now_ns >= deadline_ns)
                return MIDGE_E_TIMEOUT;
            begin_turn(loop, deadline_ns);
        }
        run_turn(loop);
    }
}

void midge_loop_turn_until(struct midge_loop *loop, uint64_t deadline_ns)
{
    take_back(loop);
    /* An open turn may have done what the caller waits for. */
    if (!loop->is_turn_open)
        begin_turn(loop, deadline_ns);
    while (loop->is_turn_open)
        run_turn(loop);
}

bool midge_loop_has_links(const struct midge_loop *loop, const struct midge_client *client)
{
    for (uint32_t i = 0; i < loop->link_cap; i++) {
        if (loop->links[i] != NULL && loop->links[i]->client == client)
            return true;
    }
    return false;
}

void midge_loop_forget(struct midge_loop *loop, const struct midge_client *client)
{
    for (struct midge_client **at = &loop->dirty; *at != NULL;) {
        if (*at == client)
            *at = client->next_dirty;
        else
            at = &(*at)->next_dirty;
    }
}

/* --- turns of a thread-safe client --- */

void midge_loop_wake(struct midge_waiter *waiter)
{
    if (waiter->is_asleep)
        pthread_cond_signal(&waiter->cond);
}

void midge_loop_wake_done(struct midge_loop *loop)
{
    for (struct midge_waiter *each = loop->waiters; each != NULL; each = each->next) {
        if (each->is_done(each->context))
            pthread_cond_signal(&each->cond);
    }
    /* The reader sleeps in the ring, and would learn of it with the next bytes only. */
    if (loop->reading != NULL && !pthread_equal(loop->reader, pthread_self()) &&
        loop->reading->is_done(loop->reading->context))
        midge_ring_doorbell(loop->ring);
}

static void sleep_beside_reader(struct midge_loop *loop, struct midge_waiter *waiter,
                                uint64_t deadline_ns)
{
    const struct timespec until = {
        .tv_sec = (time_t)(deadline_ns / NS_PER_S),
        .tv_nsec = (long)(deadline_ns % NS_PER_S),
    };
    struct midge_waiter **at = &loop->waiters;

    while (*at != NULL)
        at = &(*at)->next;
    waiter->next = NULL;
    *at = waiter;
    waiter->is_asleep = true;
    if (deadline_ns == UINT64_MAX)
        pthread_cond_wait(&waiter->cond, &loop->lock);
    else
        (void)pthread_cond_timedwait(&waiter->cond, &loop->lock, &until);
    for (at = &loop->waiters; *at != waiter;)
        at = &(*at)->next;
    *at = waiter->next;
    waiter->is_asleep = false;
}

static void read_one_turn(struct midge_loop *loop, struct midge_waiter *waiter,
                          uint64_t deadline_ns)
{
    const uint64_t before = loop->progress;

    loop->has_reader = true;
    loop->reader = pthread_self();
    loop->reading = waiter;
    midge_ring_take(loop->ring);
    begin_turn(loop, deadline_ns);
    run_turn(loop);
    loop->reading = NULL;
    loop->has_reader = false;
    if (loop->progress_waiters > 0 && loop->progress != before)
        midge_loop_wake_done(loop);
}

static enum midge_status drive_among(struct midge_loop *loop, struct midge_waiter *waiter,
                                     uint64_t deadline_ns)
{
    enum midge_status status;
    pthread_condattr_t attributes;

    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&waiter->cond, &attributes);
    pthread_condattr_destroy(&attributes);
    for (bool has_looked = false;; has_looked = true) {
        status = MIDGE_OK;
        if (waiter->is_done(waiter->context))
            break;
        status = MIDGE_AGAIN;
        if (take_interrupt(loop))
            break;
        status = MIDGE_E_TIMEOUT;
        if (has_looked && midge_ring_now_ns(loop->ring) >= deadline_ns)
            break;
        if (loop->has_reader)
            sleep_beside_reader(loop, waiter, deadline_ns);
        else
            read_one_turn(loop, waiter, deadline_ns);
    }
    /* The reader's place may be free now; the one that has waited longest looks. */
    if (!loop->has_reader && loop->waiters != NULL)
        pthread_cond_signal(&loop->waiters->cond);
    pthread_cond_destroy(&waiter->cond);
    return status;
}

enum midge_status midge_loop_drive(struct midge_loop *loop, struct midge_waiter *waiter,
                                   uint64_t deadline_ns)
{
    MIDGE_ASSERT(midge_loop_may_wait(loop));
    return loop->is_thread_safe ? drive_among(loop, waiter, deadline_ns)
                                : drive_alone(loop, waiter, deadline_ns);
}

/* --- other event loops --- */

void midge_loop_nudge(struct midge_loop *loop)
{
    if (loop->ring == NULL)
        return;
    if (loop->is_thread_safe) {
        if (loop->has_reader && !pthread_equal(loop->reader, pthread_self()))
            midge_ring_doorbell(loop->ring);
    } else if (loop->is_parked) {
        loop->is_parked = false;
        midge_ring_doorbell(loop->ring);
    }
}

/* Set the timer that makes the descriptor readable, if it must ring earlier than it would. */
static void set_timer_fd(struct midge_loop *loop, uint64_t at_ns)
{
    struct itimerspec when = {
        .it_value = {.tv_sec = (time_t)(at_ns / NS_PER_S), .tv_nsec = (long)(at_ns % NS_PER_S)}};

    if (loop->timer_fd_at_ns <= loop->now_ns)
        loop->timer_fd_at_ns = UINT64_MAX; /* it has rung; set again, or it stays readable */
    else if (at_ns >= loop->timer_fd_at_ns)
        return;
    if (at_ns == UINT64_MAX)
        memset(&when, 0, sizeof(when));
    (void)timerfd_settime(loop->timer_fd, TFD_TIMER_ABSTIME, &when, NULL);
    loop->timer_fd_at_ns = at_ns;
}

void midge_loop_turn(struct midge_loop *loop)
{
    take_back(loop);
    loop->is_parked = false;
    if (!loop->is_turn_open)
        begin_turn(loop, 0);
    run_turn(loop);
    if (!loop->is_foreign)
        return;
    /* What this turn has queued must leave before the foreign loop sleeps, and a doorbell that came
     * meanwhile is news, too. A server that never stops to speak must not keep the others of the
     * foreign loop waiting: then the timer calls us again at once. */
    for (uint32_t turn = 0; turn < FOREIGN_TURNS_MAX; turn++) {
        if (loop->dirty == NULL && loop->armed == NULL) {
            set_timer_fd(loop, next_timer_ns(loop));
            loop->is_parked = midge_ring_park(loop->ring);
            if (loop->is_parked)
                return;
        }
        begin_turn(loop, 0);
        run_turn(loop);
    }
    set_timer_fd(loop, loop->now_ns);
}

static enum midge_status open_outer(struct midge_loop *loop)
{
    struct epoll_event event = {.events = EPOLLIN};
    const int ring_fd = midge_ring_fd(loop->ring);

    loop->outer_fd = epoll_create1(EPOLL_CLOEXEC);
    loop->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    if (ring_fd >= 0 && loop->outer_fd >= 0 && loop->timer_fd >= 0 &&
        epoll_ctl(loop->outer_fd, EPOLL_CTL_ADD, loop->timer_fd, &event) == 0 &&
        epoll_ctl(loop->outer_fd, EPOLL_CTL_ADD, ring_fd, &event) == 0)
        return MIDGE_OK;
    if (loop->outer_fd >= 0)
        (void)close(loop->outer_fd);
    if (loop->timer_fd >= 0)
        (void)close(loop->timer_fd);
    loop->outer_fd = loop->timer_fd = -1;
    return MIDGE_E_SYSTEM;
}

enum midge_status midge_loop_fd(struct midge_loop *loop, int *fd_out)
{
    enum midge_status status = midge_loop_enter(loop, true);

    if (status != MIDGE_OK)
        return status;
    if (loop->is_thread_safe) {
        status = MIDGE_E_CONFIG;
    } else if (!loop->is_foreign) {
        status = open_outer(loop);
        if (status == MIDGE_OK) {
            loop->is_foreign = true;
            if (loop->callback_depth == 0)
                midge_loop_turn(loop);
        }
    }
    if (status == MIDGE_OK)
        *fd_out = loop->outer_fd;
    midge_loop_leave(loop);
    return status;
}

/* Something was delivered or told since. */
struct progress {
    const struct midge_loop *loop;
    uint64_t before;
};

static bool has_progress(void *context)
{
    const struct progress *progress = context;

    return progress->loop->progress != progress->before;
}

enum midge_status midge_loop_wait_for(struct midge_loop *loop, const struct midge_client *client,
                                      uint32_t timeout_ms)
{
    struct progress progress = {.loop = loop};
    struct midge_waiter waiter = {.is_done = has_progress, .context = &progress};
    enum midge_status status = midge_loop_enter(loop, true);

    if (status != MIDGE_OK)
        return status;
    /* It will have no news any more; its neighbours get their turn. */
    if (client != NULL && client->state == MIDGE_CLIENT_CLOSED)
        timeout_ms = 0;
    progress.before = loop->progress;
    status = MIDGE_AGAIN;
    if (midge_loop_may_wait(loop)) {
        loop->progress_waiters++;
        status = midge_loop_drive(loop, &waiter, midge_loop_deadline(loop, timeout_ms));
        loop->progress_waiters--;
    }
    if (status != MIDGE_OK)
        status =
            client != NULL && client->state == MIDGE_CLIENT_CLOSED ? MIDGE_E_CLOSED : MIDGE_AGAIN;
    midge_loop_leave(loop);
    return status;
}

enum midge_status midge_loop_wait(struct midge_loop *loop, uint32_t timeout_ms)
{
    return midge_loop_wait_for(loop, NULL, timeout_ms);
}

enum midge_status midge_loop_poll(struct midge_loop *loop)
{
    uint64_t before;
    enum midge_status status;

    if (loop->is_thread_safe)
        return midge_loop_wait(loop, 0);
    status = midge_loop_enter(loop, true);
    if (status != MIDGE_OK)
        return status;
    if (loop->callback_depth > 0)
        return MIDGE_AGAIN;
    before = loop->progress;
    midge_loop_turn(loop);
    midge_loop_leave(loop);
    return loop->progress != before ? MIDGE_OK : MIDGE_AGAIN;
}
