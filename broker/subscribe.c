/* SUB and UNSUB; see subscribe.h. */
#include "subscribe.h"

#include "conn.h"
#include "midge/status_peer.h"
#include "midge/subject.h"
#include "shard.h"
#include "trace.h"
#include "violation.h"

/* Eighths of max_memory from which on SUB is refused. Over the whole of it connections are closed,
 * which would bring back nothing of what subscriptions hold. */
#define SUBS_EIGHTHS_MAX 7u

/* For one subscription to leave, on average: a table is looked through for it that is filled to a
 * sixteenth at least, but for one that is just being halved. */
#define WAY_STEPS (MIDGE_PURGE_SUB_STEPS + 32u)

/* What every refused subscription is told, before the subject. */
static const char refusal[] = "Permissions Violation for Subscription to";

static uint32_t token_count(struct midge_slice subject)
{
    uint32_t count = 1;

    for (uint32_t i = 0; i < subject.len; i++)
        count += subject.base[i] == '.';
    return count;
}

/* Checks in nats-server's order; true if the subscription may be made. */
static bool is_allowed(struct midge_shard *shard, struct midge_conn *conn,
                       const struct midge_op *op)
{
    const struct midge_config *config = shard->config;

    if (midge_slice_equal(op->queue, MIDGE_SLICE_LITERAL("_sys_"))) {
        midge_violation_send(shard, conn, refusal, op->subject, op->queue, "");
        return false;
    }
    if (config->sub_tokens_max > 0 && token_count(op->subject) > config->sub_tokens_max) {
        midge_violation_send(shard, conn, refusal, op->subject, midge_slice_make(NULL, 0),
                             ", too many tokens");
        return false;
    }
    if ((config->subs_max > 0 && conn->subs.count >= config->subs_max) ||
        midge_broker_memory_bytes(shard->broker) >
            shard->broker->memory_bytes_max / 8 * SUBS_EIGHTHS_MAX) {
        midge_conn_send_err(shard, conn, midge_slice_text(midge_status_text(MIDGE_E_MAX_SUBS)));
        return false;
    }
    return true;
}

/* Make the subscription and put it into table and index. */
static enum midge_status make_sub(struct midge_shard *shard, struct midge_conn *conn,
                                  const struct midge_op *op)
{
    struct midge_broker *broker = shard->broker;
    enum midge_status status = MIDGE_E_MEMORY;
    struct midge_sub *sub;

    if (!midge_subject_is_valid(op->subject))
        return MIDGE_E_SUBJECT;
    /* Written by this shard only, so it may be read without the lock. */
    sub = midge_sub_create(conn, conn->outbox.sub_generation, op->sid, op->queue);
    if (sub == NULL)
        return MIDGE_E_MEMORY;
    if (!midge_sub_table_add(&conn->subs, broker->seed, sub))
        goto err_destroy_sub;
    status = midge_subindex_insert(broker->index, shard->participant, MIDGE_ACCOUNT_DEFAULT,
                                   op->subject, op->queue, sub, &sub->record);
    if (status != MIDGE_OK)
        goto err_remove_from_table;
    midge_shard_charge(shard, midge_sub_bytes(sub));
    return MIDGE_OK;

err_remove_from_table:
    midge_sub_table_remove(&conn->subs, broker->seed, sub);
err_destroy_sub:
    midge_sub_destroy(sub);
    return status;
}

static enum midge_status add_sub(struct midge_shard *shard, struct midge_conn *conn,
                                 const struct midge_op *op)
{
    const uint64_t table_bytes = midge_sub_table_bytes(&conn->subs);
    const enum midge_status status = make_sub(shard, conn, op);

    /* Where it failed the table may have changed its size, too. */
    midge_shard_charge(shard, (int64_t)(midge_sub_table_bytes(&conn->subs) - table_bytes));
    return status;
}

/* For each new subscription one that a CONNECT dropped leaves. So those that still leave are never
 * more than the connection once had at a time, however fast it goes on with CONNECT and SUB. */
static void make_way(struct midge_shard *shard, struct midge_conn *conn)
{
    uint32_t steps = WAY_STEPS;

    if (MIDGE_UNLIKELY(conn->old_subs != NULL))
        (void)midge_conn_purge(shard, conn, &steps);
}

void midge_subscribe_sub(struct midge_shard *shard, struct midge_conn *conn,
                         const struct midge_op *op)
{
    conn->in_ops++;
    make_way(shard, conn);
    /* What reached its max makes room for its sid, and in the count. */
    midge_conn_remove_expired(shard, conn);
    if (!is_allowed(shard, conn, op))
        return;
    /* The index is reached while the table of sids is looked at. */
    midge_subindex_expect(shard->reader, MIDGE_ACCOUNT_DEFAULT, op->subject);
    if (midge_sub_table_find(&conn->subs, shard->broker->seed, op->sid) == NULL) {
        const enum midge_status status = add_sub(shard, conn, op);

        if (status == MIDGE_E_SUBJECT) {
            midge_conn_send_err(shard, conn, midge_slice_text(midge_status_text(status)));
            return;
        }
        if (status != MIDGE_OK) {
            midge_conn_send_err(shard, conn, midge_slice_text(midge_status_text(MIDGE_E_MAX_SUBS)));
            return;
        }
    }
    if (conn->verbose)
        (void)midge_conn_enqueue(shard, conn, MIDGE_SLICE_LITERAL("+OK\r\n"));
}

void midge_subscribe_unsub(struct midge_shard *shard, struct midge_conn *conn,
                           const struct midge_op *op)
{
    struct midge_sub *sub;
    bool remove = false;

    conn->in_ops++;
    midge_conn_remove_expired(shard, conn);
    sub = midge_sub_table_find(&conn->subs, shard->broker->seed, op->sid);
    if (sub != NULL) {
        midge_outbox_lock(&conn->outbox);
        if (op->max > 0 && op->max > sub->delivered) {
            sub->max = op->max;
        } else {
            /* From this moment nothing is appended for it: the PONG that follows is a fence. */
            sub->live = false;
            remove = true;
        }
        midge_outbox_unlock(&conn->outbox);
    }
    if (remove) {
        if (MIDGE_UNLIKELY(midge_log_enabled(shard->log, MIDGE_LOG_TRACE)))
            midge_trace_delsub(shard, conn, op->sid);
        midge_conn_remove_sub(shard, conn, sub);
    }
    if (conn->verbose)
        (void)midge_conn_enqueue(shard, conn, MIDGE_SLICE_LITERAL("+OK\r\n"));
}
