/*
 * A storm of connects, then idle connections.
 *
 * Several parties connect at the same time, each one connection after the other, all before the run
 * begins; the latency of a connect is from before the socket is made until the first PONG. The
 * measured time after it is idle.
 */
#include <stdlib.h>
#include <unistd.h>

#include "party.h"
#include "server.h"

/* From the end of the measured time until somebody does something again: the parent reads what the
 * server used. */
#define READING_NS 50000000ull

static enum midge_status connect_all(struct midge_party *party, struct midge_driver_conn **conns)
{
    struct midge_row *row = party->row;
    struct midge_server_usage before;
    struct midge_server_usage after;

    if (midge_server_usage(getpid(), &before) != MIDGE_OK)
        return MIDGE_E_SYSTEM;
    row->begin_ns = midge_process_now_ns();
    for (uint32_t i = 0; i < party->conn_count; i++) {
        const uint64_t begin_ns = midge_process_now_ns();
        const enum midge_status status = party->library->connect_cb(party->driver, &conns[i]);

        if (status != MIDGE_OK)
            return midge_party_fail(party, status, "connection %u: %s", i,
                                    midge_status_name(status));
        row->end_ns = midge_process_now_ns();
        midge_histogram_add(&row->latency, row->end_ns - begin_ns, 1);
        midge_row_add(&row->sent, 1);
        midge_row_add(&row->received, 1);
        if (midge_party_is_over(party))
            return MIDGE_E_CLOSED;
    }
    if (midge_server_usage(getpid(), &after) != MIDGE_OK)
        return MIDGE_E_SYSTEM;
    if (after.resident_bytes > before.resident_bytes)
        midge_row_add(&row->resident_bytes, after.resident_bytes - before.resident_bytes);
    return MIDGE_OK;
}

/* What the server pings is answered. */
static enum midge_status idle(struct midge_party *party)
{
    enum midge_status status = MIDGE_OK;

    while (status == MIDGE_OK && !midge_party_is_over(party) &&
           midge_process_now_ns() < party->board->measure_until_ns) {
        status = party->library->wait_cb(party->driver, party->board->measure_until_ns);
        if (status == MIDGE_AGAIN)
            status = MIDGE_OK;
    }
    return status == MIDGE_OK ? status
                              : midge_party_fail(party, status, "an idle connection was lost");
}

/* Each connection must still be good. */
static enum midge_status check_all(struct midge_party *party, struct midge_driver_conn **conns)
{
    midge_process_sleep_until_ns(party->board->measure_until_ns + READING_NS);
    for (uint32_t i = 0; i < party->conn_count && !midge_party_is_over(party); i++) {
        const enum midge_status status = party->library->fence_cb(conns[i]);

        if (status != MIDGE_OK)
            return midge_party_fail(party, status, "idle connection %u gave no PONG at the end", i);
    }
    return MIDGE_OK;
}

enum midge_status midge_party_connect(struct midge_party *party)
{
    struct midge_driver_conn **conns =
        calloc(party->conn_count, sizeof(struct midge_driver_conn *));
    enum midge_status status = MIDGE_OK;

    if (conns == NULL)
        return midge_party_fail(party, MIDGE_E_MEMORY, "no memory for connections");
    status = connect_all(party, conns);
    if (status == MIDGE_OK)
        status = midge_party_await_begin(party);
    if (status == MIDGE_OK)
        status = idle(party);
    if (status == MIDGE_OK)
        status = check_all(party, conns);
    if (status == MIDGE_OK)
        midge_party_finish(party);
    free(conns);
    return status;
}
