/* A loop of libuv. Source: docs.libuv.org, uv_poll_t, uv_timer_t, uv_run(UV_RUN_ONCE). */
#include <stdlib.h>
#include <uv.h>

#include "loop_rig.h"
#include "rig.h"

struct midge_outer {
    uv_loop_t loop;
    uv_timer_t timer;
    uv_poll_t poll;
    uint32_t ticks;
    void *context;
    midge_outer_cb readable_cb;
};

static void on_tick(uv_timer_t *timer)
{
    struct midge_outer *outer = timer->data;

    outer->ticks++;
}

static void on_readable(uv_poll_t *poll, int status, int events)
{
    struct midge_outer *outer = poll->data;

    CHECK_EQUAL(status, 0);
    CHECK_EQUAL(events, UV_READABLE);
    outer->readable_cb(outer->context);
}

struct midge_outer *midge_outer_start(int fd, void *context, midge_outer_cb readable_cb)
{
    struct midge_outer *outer = calloc(1, sizeof(*outer));

    CHECK(outer != NULL);
    outer->context = context;
    outer->readable_cb = readable_cb;
    outer->timer.data = outer->poll.data = outer;
    CHECK_EQUAL(uv_loop_init(&outer->loop), 0);
    CHECK_EQUAL(uv_timer_init(&outer->loop, &outer->timer), 0);
    CHECK_EQUAL(uv_timer_start(&outer->timer, on_tick, OUTER_TICK_MS, OUTER_TICK_MS), 0);
    CHECK_EQUAL(uv_poll_init(&outer->loop, &outer->poll, fd), 0);
    CHECK_EQUAL(uv_poll_start(&outer->poll, UV_READABLE, on_readable), 0);
    return outer;
}

void midge_outer_step(struct midge_outer *outer)
{
    CHECK(uv_run(&outer->loop, UV_RUN_ONCE) != 0);
}

uint32_t midge_outer_ticks(const struct midge_outer *outer)
{
    return outer->ticks;
}

void midge_outer_end(struct midge_outer *outer)
{
    uv_close((uv_handle_t *)&outer->timer, NULL);
    uv_close((uv_handle_t *)&outer->poll, NULL);
    CHECK_EQUAL(uv_run(&outer->loop, UV_RUN_DEFAULT), 0);
    CHECK_EQUAL(uv_loop_close(&outer->loop), 0);
    free(outer);
}
