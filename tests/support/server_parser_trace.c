/* See server_parser_trace.h. */
#include "server_parser_trace.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

struct run {
    struct midge_server_parser parser;
    FILE *out;
    struct midge_slice chunk; /* the whole chunk that is being read */
    long message_off;         /* where the last message begins in the text */
    uint32_t body_expected;   /* bytes of the message announced and not seen yet */
    bool in_message;
    bool failed;
};

static bool within(struct midge_slice part, const uint8_t *base, uint32_t len)
{
    return base != NULL && part.base >= base && part.base + part.len <= base + len;
}

static void put_view(struct run *run, const char *open, struct midge_slice view, const char *close)
{
    /* Of the chunk or of the line buffer, and nothing else. */
    MIDGE_ASSERT(view.len == 0 || within(view, run->chunk.base, run->chunk.len) ||
                 within(view, run->parser.line, run->parser.line_cap));
    (void)fputs(open, run->out);
    for (uint32_t i = 0; i < view.len; i++) {
        if (view.base[i] > ' ' && view.base[i] < 0x7f && view.base[i] != '\\')
            (void)fputc(view.base[i], run->out);
        else
            (void)fprintf(run->out, "\\%02x", view.base[i]);
    }
    (void)fputs(close, run->out);
}

static void put_body(struct run *run, struct midge_slice body, bool last)
{
    MIDGE_ASSERT(run->in_message);
    MIDGE_ASSERT(body.len <= run->body_expected);
    put_view(run, "", body, "");
    run->body_expected -= body.len;
    if (last) {
        MIDGE_ASSERT(run->body_expected == 0);
        (void)fputs(".\n", run->out);
        run->in_message = false;
    }
}

static void put_message(struct run *run, const struct midge_server_op *op)
{
    run->message_off = ftell(run->out);
    (void)fputs("MSG ", run->out);
    put_view(run, "[", op->subject, "]");
    put_view(run, "[", op->reply, "]");
    (void)fprintf(run->out, " %" PRIu64 " %" PRIu32 "/%" PRIu32 ":", op->sid, op->header_len,
                  op->total_len);
    MIDGE_ASSERT(op->header_len <= op->total_len);
    MIDGE_ASSERT(!op->whole || op->body.len == op->total_len);
    run->in_message = true;
    run->body_expected = op->total_len;
    put_body(run, op->body, op->whole);
}

static void put_op(struct run *run, const struct midge_server_op *op)
{
    MIDGE_ASSERT(run->in_message == (op->kind == MIDGE_SERVER_OP_PIECE));
    switch (op->kind) {
    case MIDGE_SERVER_OP_INFO:
        put_view(run, "INFO [", op->text, "]\n");
        break;
    case MIDGE_SERVER_OP_MSG:
        put_message(run, op);
        break;
    case MIDGE_SERVER_OP_PING:
        (void)fputs("PING\n", run->out);
        break;
    case MIDGE_SERVER_OP_PONG:
        (void)fputs("PONG\n", run->out);
        break;
    case MIDGE_SERVER_OP_OK:
        (void)fputs("OK\n", run->out);
        break;
    case MIDGE_SERVER_OP_ERR:
        put_view(run, "ERR [", op->text, "]\n");
        break;
    case MIDGE_SERVER_OP_PIECE:
        put_body(run, op->body, op->last);
        break;
    case MIDGE_SERVER_OP_NONE:
        MIDGE_ASSERT(op->kind != MIDGE_SERVER_OP_NONE);
    }
}

/* Exactly what is asked for, so that every growth is seen. */
static void lend_line(struct run *run)
{
    const uint32_t cap = midge_server_parser_line_needed(&run->parser);
    uint8_t *line = malloc(cap);

    MIDGE_ASSERT(line != NULL);
    MIDGE_ASSERT(cap > run->parser.line_cap);
    MIDGE_ASSERT(cap <= run->parser.limits.line_len_max);
    if (run->parser.line_len > 0)
        memcpy(line, run->parser.line, run->parser.line_len);
    free(run->parser.line);
    midge_server_parser_lend_line(&run->parser, line, cap);
}

/* One call of the parser. False when it needs the next chunk or has failed. */
static bool step(struct run *run, struct midge_slice *input)
{
    const struct midge_slice before = *input;
    struct midge_server_op op;
    enum midge_status status;

    memset(&op, 0xa5, sizeof(op)); /* a field that the parser leaves out must not be looked at */
    status = midge_server_parser_next(&run->parser, input, &op);
    if (status < 0) {
        MIDGE_ASSERT(status == MIDGE_E_PARSE || status == MIDGE_E_CONTROL_LINE ||
                     status == MIDGE_E_PAYLOAD);
        /* How much of a message is told before the error depends on the cuts. */
        if (run->in_message)
            MIDGE_ASSERT(fseek(run->out, run->message_off, SEEK_SET) == 0);
        (void)fprintf(run->out, "%s\n", midge_status_name(status));
        run->failed = true;
        return false;
    }
    MIDGE_ASSERT(input->base + input->len == before.base + before.len);
    if (status == MIDGE_FULL) {
        MIDGE_ASSERT(input->len > 0);
        lend_line(run);
        return true;
    }
    if (status == MIDGE_AGAIN) {
        MIDGE_ASSERT(input->len == 0);
        return false;
    }
    MIDGE_ASSERT(input->len < before.len);
    put_op(run, &op);
    return true;
}

static void feed(struct run *run, struct midge_slice bytes)
{
    uint8_t *copy = malloc(bytes.len > 0 ? bytes.len : 1);
    struct midge_slice input;

    MIDGE_ASSERT(copy != NULL);
    if (bytes.len > 0)
        memcpy(copy, bytes.base, bytes.len);
    run->chunk = midge_slice_make(copy, bytes.len);
    input = run->chunk;
    while (step(run, &input))
        ;
    free(copy);
}

static void run_begin(struct run *run, const struct midge_server_parser_limits *limits, char **text,
                      size_t *text_len)
{
    *run = (struct run){.out = open_memstream(text, text_len)};
    MIDGE_ASSERT(run->out != NULL);
    midge_server_parser_init(&run->parser, limits);
    MIDGE_ASSERT(midge_server_parser_at_start(&run->parser));
}

static void run_end(struct run *run)
{
    if (!run->failed) {
        (void)fprintf(run->out, "%s\n",
                      midge_server_parser_at_start(&run->parser) ? "START" : "INSIDE");
    }
    free(run->parser.line);
    (void)fclose(run->out);
}

char *midge_server_parser_trace(const struct midge_server_parser_limits *limits,
                                struct midge_slice data, const uint32_t *cuts, uint32_t cut_count)
{
    struct run run;
    uint32_t off = 0;
    char *text = NULL;
    size_t text_len = 0;

    run_begin(&run, limits, &text, &text_len);
    for (uint32_t i = 0; i <= cut_count && !run.failed; i++) {
        const uint32_t end = i < cut_count ? cuts[i] : data.len;

        if (end < off || end > data.len)
            continue;
        feed(&run, midge_slice_make(data.base + off, end - off));
        off = end;
    }
    run_end(&run);
    return text;
}

char *midge_server_parser_trace_bytes(const struct midge_server_parser_limits *limits,
                                      struct midge_slice data)
{
    struct run run;
    char *text = NULL;
    size_t text_len = 0;

    run_begin(&run, limits, &text, &text_len);
    for (uint32_t i = 0; i < data.len && !run.failed; i++)
        feed(&run, midge_slice_make(data.base + i, 1));
    run_end(&run);
    return text;
}
