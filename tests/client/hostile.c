/* See hostile.h. */
#include "hostile.h"

#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

/* --- the fake's side --- */

bool midge_hostile_send(const struct midge_rig_fake_conn *conn, const void *bytes, size_t len)
{
    const char *at = bytes;

    while (len > 0) {
        const ssize_t sent = send(conn->fd, at, len, MSG_NOSIGNAL);
        if (sent < 0)
            return false;
        at += sent;
        len -= (size_t)sent;
    }
    return true;
}

void midge_hostile_behave(const struct midge_rig_fake_conn *conn)
{
    while (midge_rig_fake_await(conn, "PING\r\n"))
        midge_rig_fake_send(conn, "PONG\r\n");
}

void midge_hostile_serve(const struct midge_rig_fake_conn *conn)
{
    if (midge_rig_fake_accept(conn, ""))
        midge_hostile_behave(conn);
}

uint64_t midge_hostile_read_to_end(const struct midge_rig_fake_conn *conn)
{
    char bytes[4096];
    uint64_t len = 0;
    ssize_t got;

    while ((got = recv(conn->fd, bytes, sizeof(bytes), 0)) > 0)
        len += (uint64_t)got;
    return len;
}

/* --- the clients' side --- */

static uint64_t read_rss(void)
{
    FILE *file = fopen("/proc/self/statm", "re");
    unsigned long long pages = 0;

    CHECK(file != NULL);
    CHECK(fscanf(file, "%*s %llu", &pages) == 1);
    (void)fclose(file);
    return pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

struct midge_options midge_hostile_options(struct midge_hostile *hostile)
{
    struct midge_options options;

    midge_options_init(&options);
    options.connect_timeout_ms = RIG_PATIENCE_MS;
    options.reconnect_max = UINT32_MAX;
    options.reconnect_wait_ms = 1;
    options.reconnect_wait_max_ms = 1;
    options.reconnect_jitter_ms = 0;
    options.drain_timeout_ms = 0; /* nobody reads what is left */
    options.context = &hostile->events;
    options.event_cb = midge_rig_note_event;
    return options;
}

void midge_hostile_open(struct midge_hostile *hostile, struct midge_rig *rig, void *context,
                        midge_rig_talk_cb talk_cb, const struct midge_options *options)
{
    struct midge_options victim;
    struct midge_options neighbour = midge_rig_options(rig);
    struct midge_sub *sub;

    *hostile = (struct midge_hostile){.rig = rig};
    hostile->fake = midge_rig_fake_start(context, talk_cb);
    if (!rig->is_thread_safe)
        MUST(midge_loop_create(rig->io, 0, &hostile->loop));
    neighbour.loop = hostile->loop;
    hostile->neighbour = midge_rig_connect(rig, &neighbour);
    MUST(midge_client_subscribe(hostile->neighbour, "neighbour", NULL, &sub, NULL, midge_rig_echo));
    victim = options == NULL ? midge_hostile_options(hostile) : *options;
    if (victim.url == NULL)
        victim.url = midge_rig_fake_url(hostile->fake);
    victim.loop = hostile->loop;
    victim.io = rig->io;
    victim.thread_safe = rig->is_thread_safe;
    hostile->victim = midge_rig_create(rig, &victim);
    midge_hostile_check_neighbour(hostile);
    hostile->rss_before = read_rss();
}

void midge_hostile_check_neighbour(struct midge_hostile *hostile)
{
    const struct midge_msg *reply;

    MUST(midge_client_request(hostile->neighbour, "neighbour", "hi", 2, RIG_PATIENCE_MS, &reply));
    CHECK_TEXT(reply->payload, "hi");
    midge_rig_done(hostile->rig, reply);
}

void midge_hostile_check_well(struct midge_hostile *hostile)
{
    midge_hostile_check_neighbour(hostile);
    midge_rig_flush(hostile->victim);
    CHECK_EQUAL(midge_client_state(hostile->victim), MIDGE_CLIENT_CONNECTED);
}

void midge_hostile_await_return(struct midge_hostile *hostile, uint32_t times)
{
    WAIT_UNTIL(hostile->victim, hostile->events.counts[MIDGE_EVENT_RECONNECTED] >= times);
}

void midge_hostile_check_memory(const struct midge_hostile *hostile, uint64_t growth_max)
{
    const char *sanitizer = getenv("MIDGE_SANITIZE");
    const uint64_t now = read_rss();

    if (sanitizer != NULL && strcmp(sanitizer, "none") != 0)
        return; /* it keeps what is freed */
    if (now > hostile->rss_before + growth_max)
        midge_rig_fail(__FILE__, __LINE__, "memory grew by %" PRIu64 " KiB",
                       (now - hostile->rss_before) / 1024);
}

void midge_hostile_close(struct midge_hostile *hostile)
{
    midge_client_destroy(hostile->victim);
    midge_client_destroy(hostile->neighbour);
    midge_loop_destroy(hostile->loop);
    midge_rig_fake_end(hostile->fake);
}
