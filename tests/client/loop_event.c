/* A loop of libevent. Source: event2/event.h, event_base_loop(EVLOOP_ONCE). */
#include <event2/event.h>
#include <stdlib.h>

#include "loop_rig.h"
#include "rig.h"

struct midge_outer {
    struct event_base *base;
    struct event *timer;
    struct event *readable;
    uint32_t ticks;
    void *context;
    midge_outer_cb readable_cb;
};

static void on_tick(evutil_socket_t fd, short what, void *context)
{
    struct midge_outer *outer = context;

    (void)fd;
    CHECK_EQUAL(what, EV_TIMEOUT);
    outer->ticks++;
}

static void on_readable(evutil_socket_t fd, short what, void *context)
{
    const struct midge_outer *outer = context;

    (void)fd;
    CHECK_EQUAL(what, EV_READ);
    outer->readable_cb(outer->context);
}

struct midge_outer *midge_outer_start(int fd, void *context, midge_outer_cb readable_cb)
{
    const struct timeval tick = {.tv_usec = OUTER_TICK_MS * 1000};
    struct midge_outer *outer = calloc(1, sizeof(*outer));

    CHECK(outer != NULL);
    outer->context = context;
    outer->readable_cb = readable_cb;
    outer->base = event_base_new();
    CHECK(outer->base != NULL);
    outer->timer = event_new(outer->base, -1, EV_PERSIST, on_tick, outer);
    outer->readable = event_new(outer->base, fd, EV_READ | EV_PERSIST, on_readable, outer);
    CHECK(outer->timer != NULL);
    CHECK(outer->readable != NULL);
    CHECK(event_add(outer->timer, &tick) == 0);
    CHECK(event_add(outer->readable, NULL) == 0);
    return outer;
}

void midge_outer_step(struct midge_outer *outer)
{
    CHECK(event_base_loop(outer->base, EVLOOP_ONCE) == 0);
}

uint32_t midge_outer_ticks(const struct midge_outer *outer)
{
    return outer->ticks;
}

void midge_outer_end(struct midge_outer *outer)
{
    event_free(outer->timer);
    event_free(outer->readable);
    event_base_free(outer->base);
    free(outer);
}
