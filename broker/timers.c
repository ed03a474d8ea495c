/* Timing wheel of one shard; see timers.h. */
#include "timers.h"

#include <stddef.h>

#include "midge/compiler.h"

static uint64_t tick_of(uint64_t at_ns)
{
    /* Rounded up: never early. */
    return (at_ns >> MIDGE_TIMER_SLOT_LOG2_NS) + 1;
}

void midge_timers_init(struct midge_timers *timers, uint64_t now_ns)
{
    for (uint32_t slot = 0; slot < MIDGE_TIMER_SLOT_COUNT; slot++) {
        timers->heads[slot].next = &timers->heads[slot];
        timers->heads[slot].prev = &timers->heads[slot];
    }
    for (uint32_t word = 0; word < MIDGE_TIMER_SLOT_COUNT / 64; word++)
        timers->used[word] = 0;
    timers->tick = now_ns >> MIDGE_TIMER_SLOT_LOG2_NS;
}

static void link_timer(struct midge_timers *timers, struct midge_timer *timer, uint64_t tick)
{
    struct midge_timer *head;

    if (tick <= timers->tick)
        tick = timers->tick + 1;
    if (tick > timers->tick + MIDGE_TIMER_SLOT_COUNT - 1)
        tick = timers->tick + MIDGE_TIMER_SLOT_COUNT - 1;
    timer->slot = (uint32_t)(tick % MIDGE_TIMER_SLOT_COUNT);
    head = &timers->heads[timer->slot];
    timer->next = head;
    timer->prev = head->prev;
    head->prev->next = timer;
    head->prev = timer;
    timers->used[timer->slot / 64] |= 1ull << (timer->slot % 64);
}

void midge_timers_set(struct midge_timers *timers, struct midge_timer *timer, uint64_t at_ns)
{
    if (timer->next != NULL) {
        /* Most deadlines only move away: let the old slot find out. */
        if (at_ns >= timer->at_ns) {
            timer->at_ns = at_ns;
            return;
        }
        midge_timers_clear(timers, timer);
    }
    timer->at_ns = at_ns;
    link_timer(timers, timer, tick_of(at_ns));
}

void midge_timers_clear(struct midge_timers *timers, struct midge_timer *timer)
{
    struct midge_timer *head;

    if (timer->next == NULL)
        return;
    head = &timers->heads[timer->slot];
    timer->prev->next = timer->next;
    timer->next->prev = timer->prev;
    timer->next = NULL;
    timer->prev = NULL;
    if (head->next == head)
        timers->used[timer->slot / 64] &= ~(1ull << (timer->slot % 64));
}

/* The first slot at or behind tick + 1 that is in use, as a tick; 0 if there is none. */
static uint64_t next_used_tick(const struct midge_timers *timers)
{
    const uint64_t first = timers->tick + 1;

    for (uint64_t offset = 0; offset < MIDGE_TIMER_SLOT_COUNT;) {
        const uint32_t slot = (uint32_t)((first + offset) % MIDGE_TIMER_SLOT_COUNT);
        const uint64_t word = timers->used[slot / 64] >> (slot % 64);

        if (word != 0)
            return first + offset + (uint64_t)__builtin_ctzll(word);
        offset += 64 - slot % 64;
    }
    return 0;
}

uint64_t midge_timers_next_ns(const struct midge_timers *timers)
{
    const uint64_t tick = next_used_tick(timers);

    return tick == 0 ? UINT64_MAX : tick << MIDGE_TIMER_SLOT_LOG2_NS;
}

struct midge_timer *midge_timers_expire(struct midge_timers *timers, uint64_t now_ns)
{
    const uint64_t now_tick = now_ns >> MIDGE_TIMER_SLOT_LOG2_NS;

    while (timers->tick < now_tick) {
        const uint64_t tick = next_used_tick(timers);
        struct midge_timer *head;
        struct midge_timer *timer;

        if (tick == 0 || tick > now_tick) {
            timers->tick = now_tick;
            return NULL;
        }
        /* The slot stays "next" until its list is empty. */
        timers->tick = tick - 1;
        head = &timers->heads[tick % MIDGE_TIMER_SLOT_COUNT];
        timer = head->next;
        MIDGE_ASSERT(timer != head);
        midge_timers_clear(timers, timer);
        if (timer->at_ns <= now_ns)
            return timer;
        /* Moved away since, or beyond the horizon: put in again behind this slot. */
        timers->tick = tick;
        link_timer(timers, timer, tick_of(timer->at_ns));
        timers->tick = tick - 1;
    }
    return NULL;
}
