/* Log lines about one connection; see trace.h. */
#include "trace.h"

#include <stdarg.h>
#include <stdio.h>

#include "conn.h"
#include "midge/status_peer.h"
#include "shard.h"

#define PREFIX_LEN_MAX 512u
#define TRACE_LEN_MAX  4096u

/* At most one line per second about slow consumers. */
#define SLOW_LOG_INTERVAL_MS 1000u

static const char *text_or_empty(const char *text)
{
    return text != NULL ? text : "";
}

/* `127.0.0.1:4711 - cid:5 - "v1.0:py:name"`. Names come from clients: they are quoted. They are
 * left out for connections of another shard, whose they are to change. */
static void format_prefix(char *out, const struct midge_shard *shard, const struct midge_conn *conn)
{
    const struct midge_connect *options = &conn->options;
    char raw[256];
    char quoted[PREFIX_LEN_MAX - 128];
    uint32_t quoted_len;
    int at;

    if (conn->is_unix)
        at = snprintf(out, PREFIX_LEN_MAX, "unix - cid:%llu", (unsigned long long)conn->cid);
    else
        at = snprintf(out, PREFIX_LEN_MAX, "%s:%u - cid:%llu", conn->ip, conn->port,
                      (unsigned long long)conn->cid);
    if (midge_conn_owner(conn) != shard)
        return;
    if (options->name == NULL && options->lang == NULL && options->version == NULL)
        return;
    (void)snprintf(raw, sizeof(raw), "%s%s%s%s%s%s", options->version != NULL ? "v" : "",
                   text_or_empty(options->version),
                   options->version != NULL && options->lang != NULL ? ":" : "",
                   text_or_empty(options->lang), options->name != NULL ? ":" : "",
                   text_or_empty(options->name));
    quoted_len = midge_log_quote(quoted, sizeof(quoted), midge_slice_text(raw));
    (void)snprintf(out + at, PREFIX_LEN_MAX - (uint32_t)at, " - \"%.*s\"", (int)quoted_len, quoted);
}

void midge_conn_log(struct midge_shard *shard, const struct midge_conn *conn,
                    enum midge_log_level level, const char *format, ...)
{
    char prefix[PREFIX_LEN_MAX];
    char text[TRACE_LEN_MAX];
    va_list args;

    if (MIDGE_LIKELY(!midge_log_enabled(shard->log, level)))
        return;
    format_prefix(prefix, shard, conn);
    va_start(args, format);
    (void)vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    midge_log_write(shard->log, level, "%s - %s", prefix, text);
}

static const char *verb_of(enum midge_op_kind kind)
{
    switch (kind) {
    case MIDGE_OP_CONNECT:
        return "CONNECT";
    case MIDGE_OP_INFO:
        return "INFO";
    case MIDGE_OP_PUB:
        return "PUB";
    case MIDGE_OP_HPUB:
        return "HPUB";
    case MIDGE_OP_SUB:
        return "SUB";
    case MIDGE_OP_UNSUB:
        return "UNSUB";
    case MIDGE_OP_PING:
        return "PING";
    case MIDGE_OP_PONG:
        return "PONG";
    case MIDGE_OP_OK:
        return "+OK";
    case MIDGE_OP_ERR:
        return "-ERR";
    case MIDGE_OP_PIECE:
    case MIDGE_OP_NONE:
        break;
    }
    return "";
}

/* Bytes of a peer as they may stand in a log line: control characters shown, nothing else changed.
 */
static uint32_t printable(char *out, uint32_t cap, struct midge_slice bytes)
{
    uint32_t len = 0;

    for (uint32_t i = 0; i < bytes.len && len + 5 < cap; i++) {
        const uint8_t byte = bytes.base[i];

        if (byte >= 0x20 && byte != 0x7f)
            out[len++] = (char)byte;
        else
            len += (uint32_t)snprintf(out + len, cap - len, "\\x%02x", byte);
    }
    return len;
}

void midge_trace_op(struct midge_shard *shard, const struct midge_conn *conn,
                    const struct midge_op *op)
{
    uint8_t redacted[TRACE_LEN_MAX];
    char text[TRACE_LEN_MAX - 64];
    struct midge_slice line = op->line;
    uint32_t text_len;

    if (op->kind == MIDGE_OP_PIECE || op->kind == MIDGE_OP_NONE)
        return;
    if (op->kind == MIDGE_OP_CONNECT)
        line =
            midge_slice_make(redacted, midge_connect_redact(redacted, sizeof(redacted), op->json));
    text_len = printable(text, sizeof(text), line);
    midge_conn_log(shard, conn, MIDGE_LOG_TRACE, text_len > 0 ? "<<- [%s %.*s]" : "<<- [%s%.*s]",
                   verb_of(op->kind), (int)text_len, text);
    if ((op->kind == MIDGE_OP_PUB || op->kind == MIDGE_OP_HPUB) && op->payload_whole)
        midge_trace_payload(shard, conn, op->payload);
}

void midge_trace_payload(struct midge_shard *shard, const struct midge_conn *conn,
                         struct midge_slice payload)
{
    const uint32_t len_max = shard->config->traced_msg_len_max;
    const bool cut = len_max > 0 && payload.len > len_max;
    char text[TRACE_LEN_MAX - 64];
    uint32_t text_len;

    if (cut)
        payload.len = len_max;
    text_len = midge_log_quote(text, sizeof(text), payload);
    midge_conn_log(shard, conn, MIDGE_LOG_TRACE, "<<- MSG_PAYLOAD: [\"%.*s%s\"]", (int)text_len,
                   text, cut ? "..." : "");
}

void midge_trace_out(struct midge_shard *shard, const struct midge_conn *conn,
                     struct midge_slice line)
{
    char text[TRACE_LEN_MAX - 64];
    const uint32_t text_len = printable(text, sizeof(text), line);

    midge_conn_log(shard, conn, MIDGE_LOG_TRACE, "->> [%.*s]", (int)text_len, text);
}

void midge_trace_delsub(struct midge_shard *shard, const struct midge_conn *conn,
                        struct midge_slice sid)
{
    char text[256];
    const uint32_t text_len = printable(text, sizeof(text), sid);

    midge_conn_log(shard, conn, MIDGE_LOG_TRACE, "<-> [DELSUB %.*s]", (int)text_len, text);
}

void midge_trace_parse_error(struct midge_shard *shard, const struct midge_conn *conn,
                             enum midge_status status)
{
    midge_conn_log(shard, conn, MIDGE_LOG_ERROR, "Client parser ERROR: %s",
                   midge_status_text(status)[0] != '\0' ? midge_status_text(status)
                                                        : "bad arguments, size or JSON");
}

/* The reasons that nats-server knows. Source: nats-server v2.15.2, server/monitor.go ClosedState.
 */
static const char *reason_of(enum midge_status status)
{
    switch (status) {
    case MIDGE_E_PARSE:
    case MIDGE_E_ARGS:
        return "Parse Error";
    case MIDGE_E_CONTROL_LINE:
        return "Maximum Control Line Exceeded";
    case MIDGE_E_PAYLOAD:
        return "Maximum Message Payload Exceeded";
    case MIDGE_E_AUTH:
        return "Authentication Failure";
    case MIDGE_E_AUTH_TIMEOUT:
        return "Authentication Timeout";
    case MIDGE_E_PROTOCOL:
        return "Bad Client Protocol Version";
    case MIDGE_E_NEEDS_HEADERS:
        return "No Responders Requires Headers";
    case MIDGE_E_MAX_CONNECTIONS:
        return "Maximum Connections Exceeded";
    case MIDGE_E_STALE:
        return "Stale Connection";
    case MIDGE_E_PEER_ERR:
    case MIDGE_E_EOF:
        return "Client Closed";
    case MIDGE_E_HEADERS:
        return "Message Header Violation";
    case MIDGE_E_SLOW_PENDING:
        return "Slow Consumer (Pending Bytes)";
    case MIDGE_E_SLOW_DEADLINE:
        return "Slow Consumer (Write Deadline)";
    case MIDGE_E_READ:
        return "Read Error";
    case MIDGE_E_WRITE:
        return "Write Error";
    case MIDGE_E_SHUTDOWN:
        return "Server Shutdown";
    case MIDGE_E_MEMORY:
        return "Memory Exhausted";
    case MIDGE_E_SUBJECT:
    case MIDGE_E_PUB_SUBJECT:
    case MIDGE_E_MAX_SUBS:
    case MIDGE_E_CONFIG:
    case MIDGE_E_SYSTEM:
    case MIDGE_E_THREAD:
    case MIDGE_E_TIMEOUT:
    case MIDGE_E_NO_RESPONDERS:
    case MIDGE_E_DISCONNECTED:
    case MIDGE_E_NO_SERVERS:
    case MIDGE_E_CLOSED:
    case MIDGE_E_SUB_ENDED:
    case MIDGE_E_TLS:
    case MIDGE_E_PERMISSION:
    case MIDGE_OK:
    case MIDGE_AGAIN:
    case MIDGE_FULL:
        break;
    }
    return "Internal Error";
}

void midge_trace_close(struct midge_shard *shard, struct midge_conn *conn, enum midge_status status)
{
    uint64_t suppressed;

    if ((status == MIDGE_E_SLOW_PENDING || status == MIDGE_E_SLOW_DEADLINE) &&
        midge_log_allow(&shard->slow_limit, shard->now_ns, SLOW_LOG_INTERVAL_MS, &suppressed)) {
        if (status == MIDGE_E_SLOW_PENDING)
            midge_conn_log(shard, conn, MIDGE_LOG_INFO,
                           "Slow Consumer Detected: MaxPending of %llu Exceeded (%llu more not "
                           "logged)",
                           (unsigned long long)shard->config->pending_bytes_max,
                           (unsigned long long)suppressed);
        else
            midge_conn_log(
                shard, conn, MIDGE_LOG_INFO,
                "Slow Consumer Detected: WriteDeadline of %llums exceeded (%llu more not "
                "logged)",
                (unsigned long long)shard->config->write_deadline_ms,
                (unsigned long long)suppressed);
    }
    midge_conn_log(shard, conn, MIDGE_LOG_DEBUG, "Client connection closed: %s", reason_of(status));
}
