/* See parser_trace.h. */
#include "parser_trace.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

struct run {
    struct midge_parser parser;
    FILE *out;
    struct midge_slice chunk;  /* the whole chunk that is being read */
    uint32_t payload_expected; /* bytes of the message announced and not seen yet */
    bool in_message;
    bool failed;
};

static void put_escaped(FILE *out, struct midge_slice bytes)
{
    for (uint32_t i = 0; i < bytes.len; i++) {
        if (bytes.base[i] > ' ' && bytes.base[i] < 0x7f && bytes.base[i] != '\\')
            (void)fputc(bytes.base[i], out);
        else
            (void)fprintf(out, "\\%02x", bytes.base[i]);
    }
}

static bool within(struct midge_slice part, const uint8_t *base, uint32_t len)
{
    return base != NULL && part.base >= base && part.base + part.len <= base + len;
}

/* A view is of the chunk or of the line buffer. */
static void check_view(const struct run *run, struct midge_slice view)
{
    MIDGE_ASSERT(view.len == 0 || within(view, run->chunk.base, run->chunk.len) ||
                 within(view, run->parser.line, run->parser.line_cap));
}

static void put_view(struct run *run, const char *open, struct midge_slice view, const char *close)
{
    check_view(run, view);
    (void)fputs(open, run->out);
    put_escaped(run->out, view);
    (void)fputs(close, run->out);
}

static void put_payload(struct run *run, struct midge_slice payload, bool last)
{
    MIDGE_ASSERT(run->in_message);
    MIDGE_ASSERT(payload.len <= run->payload_expected);
    put_view(run, "", payload, "");
    run->payload_expected -= payload.len;
    if (last) {
        MIDGE_ASSERT(run->payload_expected == 0);
        (void)fputs(".\n", run->out);
        run->in_message = false;
    }
}

static void put_op(struct run *run, const struct midge_op *op)
{
    static const char *const names[] = {"NONE",  "CONNECT", "INFO", "PUB", "HPUB", "SUB",
                                        "UNSUB", "PING",    "PONG", "+OK", "-ERR", "PIECE"};

    MIDGE_ASSERT(op->kind > MIDGE_OP_NONE && op->kind <= MIDGE_OP_PIECE);
    if (op->kind == MIDGE_OP_PIECE) {
        MIDGE_ASSERT(op->payload.len > 0 || op->last);
        put_payload(run, op->payload, op->last);
        return;
    }
    MIDGE_ASSERT(!run->in_message);
    (void)fprintf(run->out, "%s ", names[op->kind]);
    put_view(run, "[", op->subject, "]");
    put_view(run, "[", op->reply, "]");
    put_view(run, "[", op->queue, "]");
    put_view(run, "[", op->sid, "]");
    put_view(run, "[", op->json, "]");
    put_view(run, "{", op->header_text, "}");
    put_view(run, "{", op->size_text, "}");
    (void)fprintf(run->out, "=%" PRIu32 " ", op->max);
    put_view(run, "", op->line, "");
    if (op->kind != MIDGE_OP_PUB && op->kind != MIDGE_OP_HPUB) {
        (void)fputs("\n", run->out);
        return;
    }
    (void)fprintf(run->out, " %" PRIu32 "/%" PRIu32 ":", op->header_len, op->total_len);
    MIDGE_ASSERT(op->header_len <= op->total_len);
    MIDGE_ASSERT(op->payload_whole ? op->payload.len == op->total_len : op->payload.len == 0);
    run->in_message = true;
    run->payload_expected = op->total_len;
    if (op->payload_whole)
        put_payload(run, op->payload, true);
}

static void lend_line(struct run *run)
{
    const uint32_t cap = run->parser.limits.control_line_len_max;
    uint8_t *line = malloc(cap > 0 ? cap : 1);

    MIDGE_ASSERT(line != NULL);
    MIDGE_ASSERT(run->parser.line == NULL);
    midge_parser_lend_line(&run->parser, line, cap);
}

/* One call of the parser. False when it needs the next chunk or has failed. */
static bool step(struct run *run, struct midge_slice *input)
{
    const struct midge_slice before = *input;
    struct midge_op untouched;
    struct midge_op op;
    enum midge_status status;

    memset(&untouched, 0xa5, sizeof(untouched));
    memcpy(&op, &untouched, sizeof(op));
    status = midge_parser_next(&run->parser, input, &op);
    /* Not compared by member, so that no write goes unseen: NOLINTNEXTLINE(*-memory-comparison) */
    MIDGE_ASSERT(status == MIDGE_OK || memcmp(&op, &untouched, sizeof(op)) == 0);
    if (status < 0) {
        MIDGE_ASSERT(input->base == before.base && input->len == before.len);
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
        if (midge_parser_line_idle(&run->parser))
            free(midge_parser_take_line(&run->parser));
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

static void run_begin(struct run *run, const struct midge_parser_limits *limits, char **text,
                      size_t *text_len)
{
    *run = (struct run){.out = open_memstream(text, text_len)};
    MIDGE_ASSERT(run->out != NULL);
    midge_parser_init(&run->parser, limits);
    MIDGE_ASSERT(midge_parser_at_start(&run->parser));
}

static void run_end(struct run *run)
{
    if (!run->failed)
        (void)fprintf(run->out, "%s\n", midge_parser_at_start(&run->parser) ? "START" : "INSIDE");
    free(run->parser.line);
    (void)fclose(run->out);
}

char *midge_parser_trace(const struct midge_parser_limits *limits, struct midge_slice data,
                         const uint32_t *cuts, uint32_t cut_count)
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

char *midge_parser_trace_bytes(const struct midge_parser_limits *limits, struct midge_slice data)
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
