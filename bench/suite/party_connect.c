/*
 * A storm of connects, then idle connections.
 *
 * Several parties connect at the same time, each one connection after the other, all before the run
 * begins; the latency of a connect is from before the socket is made until the first PONG. The
 * measured time after it is idle.
 */
#include <unistd.h>

#include "party.h"
#include "server.h"

enum midge_status midge_party_connect(struct midge_party *party)
{
    struct midge_row *row = party->row;

    struct midge_server_usage before;
    struct midge_server_usage after;

    if (midge_server_usage(getpid(), &before) != MIDGE_OK)
        return MIDGE_E_SYSTEM;
    row->begin_ns = midge_process_now_ns();
    for (uint32_t i = 0; i < party->conn_count; i++) {
        const uint64_t begin_ns = midge_process_now_ns();
        struct midge_driver_conn *conn = NULL;
        const enum midge_status status = party->library->connect_cb(party->driver, &conn);

        if (status != MIDGE_OK)
            return midge_party_fail(party, status, "connection %u: %s", i,
                                    midge_status_name(status));
        row->end_ns = midge_process_now_ns();
        midge_histogram_add(&row->latency, row->end_ns - begin_ns, 1);
        midge_row_add(&row->sent, 1);
        midge_row_add(&row->received, 1);
        if (midge_party_is_over(party))
            return MIDGE_OK;
    }
    if (midge_server_usage(getpid(), &after) != MIDGE_OK)
        return MIDGE_E_SYSTEM;
    if (after.resident_bytes > before.resident_bytes)
        midge_row_add(&row->resident_bytes, after.resident_bytes - before.resident_bytes);

    enum midge_status status = midge_party_await_begin(party);

    /* What the server pings is answered. */
    while (status == MIDGE_OK && !midge_party_is_over(party) &&
           midge_process_now_ns() < party->board->measure_until_ns) {
        status = party->library->wait_cb(party->driver, party->board->measure_until_ns);
        if (status == MIDGE_AGAIN)
            status = MIDGE_OK;
    }
    if (status == MIDGE_OK)
        midge_party_finish(party);
    return status == MIDGE_OK ? status
                              : midge_party_fail(party, status, "an idle connection was lost");
}
