/* -ERR lines that name a subject; see violation.h. */
#include "violation.h"

#include <string.h>

#include "conn.h"
#include "log.h"
#include "shard.h"

/* Longest escape of one byte: \xNN. Those of longer UTF-8 sequences are shorter for each byte. */
#define ESCAPE_LEN_MAX 4u

/* Text that grows at its end; the caller has counted that everything fits. */
struct line {
    char *base;
    uint32_t len;
    uint32_t cap;
};

static void append(struct line *line, const char *text)
{
    const uint32_t len = (uint32_t)strlen(text);

    MIDGE_ASSERT(len <= line->cap - line->len);
    memcpy(line->base + line->len, text, len);
    line->len += len;
}

static void append_quoted(struct line *line, struct midge_slice bytes)
{
    append(line, "\"");
    line->len += midge_log_quote(line->base + line->len, line->cap - line->len, bytes);
    append(line, "\"");
}

void midge_violation_send(struct midge_shard *shard, struct midge_conn *conn, const char *what,
                          struct midge_slice subject, struct midge_slice queue, const char *tail)
{
    const char using[] = " using queue ";
    const uint32_t words_len = (uint32_t)(strlen(what) + sizeof(using) + strlen(tail));
    const uint32_t room = words_len + 8 + ESCAPE_LEN_MAX * (subject.len + queue.len);
    struct line line = {.len = 0};

    line.base = midge_pool_alloc(&shard->pool, room, &line.cap);
    if (line.base == NULL) {
        midge_conn_close(shard, conn, MIDGE_E_MEMORY);
        return;
    }
    append(&line, what);
    append(&line, " ");
    append_quoted(&line, subject);
    if (queue.len > 0) {
        append(&line, using);
        append_quoted(&line, queue);
    }
    append(&line, tail);
    midge_conn_send_err(shard, conn, midge_slice_make(line.base, line.len));
    midge_pool_free(&shard->pool, line.base, line.cap);
}
