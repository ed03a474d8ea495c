/* INFO and CONNECT; see handshake.h. */
#include "handshake.h"

#include "auth.h"
#include "conn.h"
#include "shard.h"
#include "trace.h"

#define NS_PER_MS 1000000ull

void midge_handshake_send_info(struct midge_shard *shard, struct midge_conn *conn,
                               bool connect_info)
{
    const struct midge_broker *broker = shard->broker;
    const struct midge_info info = {
        .server_id = broker->server_id,
        .server_name = broker->server_name,
        .version = MIDGE_NATS_VERSION,
        .midge = MIDGE_VERSION,
        .host = broker->info_host,
        .client_ip = conn->ip,
        .remote_account = "$G",
        .client_id = conn->cid,
        .max_payload = shard->config->payload_len_max,
        .port = broker->info_port,
        .headers = !shard->config->no_header_support,
        .auth_required = midge_config_auth_required(shard->config),
        .connect_info = connect_info,
    };
    uint8_t line[MIDGE_INFO_LEN_MAX];
    const uint32_t len = midge_info_encode(line, sizeof(line), &info);

    /* The strings are bounded when the configuration is read. */
    MIDGE_ASSERT(len > 0);
    (void)midge_conn_enqueue(shard, conn, midge_slice_make(line, len));
}

/* The first PING, which measures the round trip, comes soon after CONNECT, spread by up to a fifth.
 * Source: nats-server v2.15.2, server/client.go:7127 setFirstPingTimer. */
static void set_first_ping(struct midge_shard *shard, struct midge_conn *conn)
{
    const uint64_t interval_ms = shard->config->ping_interval_ms < MIDGE_FIRST_PING_MS
                                     ? shard->config->ping_interval_ms
                                     : MIDGE_FIRST_PING_MS;
    const uint64_t interval_ns = interval_ms * NS_PER_MS;
    const uint64_t spread_ns = midge_ring_random(shard->ring) % (interval_ns / 5 + 1);

    conn->ping_at_ns = shard->now_ns + interval_ns + spread_ns;
}

static void apply_options(struct midge_shard *shard, struct midge_conn *conn)
{
    const bool headers = conn->options.headers && !shard->config->no_header_support;

    conn->verbose = conn->options.verbose;
    conn->pedantic = conn->options.pedantic;
    conn->echo = conn->options.echo;
    conn->no_responders = conn->options.no_responders;
    conn->parser.limits.headers = headers;
    midge_outbox_lock(&conn->outbox);
    conn->outbox.headers = headers;
    midge_outbox_unlock(&conn->outbox);
}

void midge_handshake_connect(struct midge_shard *shard, struct midge_conn *conn,
                             struct midge_slice json)
{
    const uint64_t bytes = midge_connect_bytes(&conn->options);
    enum midge_status status;

    conn->auth_at_ns = UINT64_MAX;
    set_first_ping(shard, conn);
    status = midge_connect_merge(&conn->options, json);
    midge_shard_charge(shard, (int64_t)(midge_connect_bytes(&conn->options) - bytes));
    if (status != MIDGE_OK) {
        midge_trace_parse_error(shard, conn, status);
        midge_conn_close(shard, conn, status);
        return;
    }
    apply_options(shard, conn);
    /* A later CONNECT drops what the connection subscribed to, silently. */
    if (conn->connected)
        midge_conn_drop_subs(shard, conn);
    if (conn->state != MIDGE_CONN_OPEN)
        return; /* no memory */
    if (!midge_auth_check(shard->config, &conn->options)) {
        midge_conn_log(shard, conn, MIDGE_LOG_ERROR, "authentication error%s%s%s",
                       conn->options.user != NULL ? " - User \"" : "",
                       conn->options.user != NULL ? conn->options.user : "",
                       conn->options.user != NULL ? "\"" : "");
        midge_conn_close(shard, conn, MIDGE_E_AUTH);
        return;
    }
    if (conn->options.account_given) {
        midge_conn_close(shard, conn, MIDGE_E_AUTH);
        return;
    }
    conn->connected = true;
    conn->must_connect = false;
    if (conn->options.protocol < 0 || conn->options.protocol > 1)
        midge_conn_close(shard, conn, MIDGE_E_PROTOCOL);
    else if (conn->no_responders && !conn->parser.limits.headers)
        midge_conn_close(shard, conn, MIDGE_E_NEEDS_HEADERS);
    else if (conn->verbose)
        (void)midge_conn_enqueue(shard, conn, MIDGE_SLICE_LITERAL("+OK\r\n"));
    if (conn->state == MIDGE_CONN_OPEN)
        midge_conn_set_timer(shard, conn);
}
