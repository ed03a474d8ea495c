/*
 * Draining a client: no new messages, then everything that is on its way, then the end.
 *
 *   1. every subscription is drained: UNSUB, PING;
 *   2. when all PONGs are there, and no request is open, a last PING goes behind what call-backs
 *      have published meanwhile;
 *   3. when its PONG is there, the client closes.
 *
 * What waits in a pull queue by then can still be taken.
 */
#include "client_internal.h"

/* Nothing is left to be delivered. */
static bool is_delivered(const struct midge_client *client)
{
    return !midge_sub_is_draining(client) && client->open_requests == 0;
}

void midge_drain_step(struct midge_client *client)
{
    if (client->link == NULL || client->link->state != MIDGE_LINK_READY) {
        midge_client_close(client, MIDGE_E_DISCONNECTED);
    } else if (client->drain_ping == 0) {
        if (!is_delivered(client))
            return;
        if (midge_output_ping(client) != MIDGE_OK)
            midge_client_close(client, MIDGE_E_MEMORY);
        else
            client->drain_ping = client->ping_sent;
    } else if (client->ping_answered >= client->drain_ping) {
        /* Nothing of the user's is behind that PING: at most the answer to one of the server's. */
        midge_client_close(client, MIDGE_OK);
    }
}

void midge_drain_note(struct midge_client *client)
{
    if (client->state != MIDGE_CLIENT_DRAINING)
        return;
    client->loop->is_drain_due = true;
    midge_loop_nudge(client->loop);
}

void midge_drain_fire(struct midge_client *client)
{
    /* Without a connection the end of this turn closes it. */
    if (client->link == NULL || client->link->state != MIDGE_LINK_READY)
        return;
    midge_client_note(client, "the drain took too long");
    midge_client_close(client, MIDGE_E_TIMEOUT);
}

static bool is_closed(void *context)
{
    const struct midge_client *client = context;

    return client->state == MIDGE_CLIENT_CLOSED;
}

static enum midge_status begin(struct midge_client *client, uint32_t timeout_ms)
{
    uint64_t at_ns = UINT64_MAX;

    if (client->state == MIDGE_CLIENT_CLOSED)
        return MIDGE_E_CLOSED;
    /* Without a connection it closes, but in a turn, as everything that touches a socket. */
    if (client->state != MIDGE_CLIENT_CONNECTED && client->state != MIDGE_CLIENT_DRAINING)
        at_ns = midge_loop_deadline(client->loop, 0);
    else if (timeout_ms > 0 && timeout_ms != MIDGE_FOREVER)
        at_ns = midge_loop_deadline(client->loop, timeout_ms);
    if (client->state != MIDGE_CLIENT_DRAINING) {
        client->state = MIDGE_CLIENT_DRAINING;
        client->drain_ping = 0;
        midge_sub_drain_all(client);
    }
    if (at_ns != UINT64_MAX)
        midge_loop_set_own_timer(client->loop, &client->drain_timer, at_ns);
    midge_drain_note(client);
    return MIDGE_OK;
}

enum midge_status midge_client_drain(struct midge_client *client, uint32_t timeout_ms)
{
    struct midge_waiter waiter = {.is_done = is_closed, .context = client};
    enum midge_status status = midge_loop_enter(client->loop, true);

    if (status != MIDGE_OK)
        return status;
    status = begin(client, timeout_ms);
    if (status == MIDGE_OK) {
        if (timeout_ms == 0 || !midge_loop_may_wait(client->loop))
            status = MIDGE_AGAIN;
        else
            status = midge_loop_drive(client->loop, &waiter, UINT64_MAX);
        if (status == MIDGE_OK)
            status = client->close_status;
    }
    midge_loop_leave(client->loop);
    return status;
}
