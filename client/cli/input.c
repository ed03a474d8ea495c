/*
 * Payloads: a word of the command line, or what standard input has, whole or line by line.
 *
 * Memory: a payload, or the longest line, is held as a whole; at most PAYLOAD_LEN_MAX.
 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli.h"

/* The largest payload that a server may take. Source: nats-server v2.15.2, server/const.go. */
#define PAYLOAD_LEN_MAX (64u * 1024 * 1024)

#define READ_LEN_FIRST 65536u

/* The connection is looked after so often while nobody types. midge_client_fd() would tell at once,
 * but from then on midge_client_flush() could not wait for the end. */
#define LOOK_MS 250

static void fail(const char *why)
{
    midge_cli_say("standard input: %s", why);
    exit(MIDGE_CLI_EXIT_ERROR);
}

static void grow(char **bytes, size_t *cap)
{
    size_t larger = *cap == 0 ? READ_LEN_FIRST : *cap * 2;
    char *grown;

    /* A byte more, by which a longer one is told. */
    if (larger > PAYLOAD_LEN_MAX)
        larger = PAYLOAD_LEN_MAX + 1u;

    if (*cap > PAYLOAD_LEN_MAX)
        fail("more than 64 MiB in one payload, which no server takes");
    grown = realloc(*bytes, larger);
    if (grown == NULL)
        fail("out of memory");
    *bytes = grown;
    *cap = larger;
}

/* @return 0 at the end of the input */
static size_t read_some(char *bytes, size_t cap)
{
    ssize_t len;

    do
        len = read(STDIN_FILENO, bytes, cap);
    while (len < 0 && errno == EINTR && !midge_cli_is_stopped());
    if (len < 0 && errno != EINTR)
        fail(strerror(errno));
    return len > 0 ? (size_t)len : 0;
}

struct midge_cli_payload midge_cli_read_payload(const char *word)
{
    struct midge_cli_payload payload = {.bytes = ""};
    size_t cap = 0;
    size_t len;

    if (word != NULL && strcmp(word, "-") != 0) {
        payload.bytes = word;
        payload.len = strlen(word);
        return payload;
    }
    if (word == NULL && isatty(STDIN_FILENO) == 1)
        return payload;
    do {
        if (payload.len == cap)
            grow(&payload.owned, &cap);
        len = read_some(payload.owned + payload.len, cap - payload.len);
        payload.len += len;
    } while (len > 0);
    payload.bytes = payload.owned;
    return payload;
}

/* --- lines --- */

/* The next line of what has been read. @return false if it holds none */
static bool take_line(struct midge_cli_lines *lines, struct midge_slice *line_out)
{
    const char *first = lines->bytes + lines->start;
    const char *newline = NULL;

    if (lines->end > lines->looked)
        newline = memchr(lines->bytes + lines->looked, '\n', lines->end - lines->looked);
    lines->looked = lines->end;
    if (newline == NULL && (!lines->is_over || lines->start == lines->end))
        return false;
    if (newline == NULL) {
        line_out->len = (uint32_t)(lines->end - lines->start);
        lines->start = lines->end;
    } else {
        line_out->len = (uint32_t)(newline - first);
        lines->start += line_out->len + 1;
        lines->looked = lines->start;
    }
    line_out->base = (const uint8_t *)first;
    return true;
}

static void read_more(struct midge_cli_lines *lines)
{
    size_t len;

    if (lines->start > 0) {
        memmove(lines->bytes, lines->bytes + lines->start, lines->end - lines->start);
        lines->end -= lines->start;
        lines->looked -= lines->start;
        lines->start = 0;
    }
    if (lines->end == lines->cap)
        grow(&lines->bytes, &lines->cap);
    len = read_some(lines->bytes + lines->end, lines->cap - lines->end);
    lines->end += len;
    lines->is_over = len == 0;
}

/* Send what is queued, and keep the connection alive until there is something to read.
 * @return MIDGE_OK; MIDGE_AGAIN if it was interrupted; why there is no connection any more */
static enum midge_status wait_for_input(const struct midge_cli *cli)
{
    struct pollfd input = {.fd = STDIN_FILENO, .events = POLLIN};

    while (!midge_cli_is_stopped()) {
        const enum midge_status status = midge_client_poll(cli->client);

        if (status != MIDGE_OK && status != MIDGE_AGAIN)
            return status;
        if (poll(&input, 1, LOOK_MS) > 0)
            return MIDGE_OK;
    }
    return MIDGE_AGAIN;
}

enum midge_status midge_cli_next_line(const struct midge_cli *cli, struct midge_cli_lines *lines,
                                      struct midge_slice *line_out)
{
    while (!take_line(lines, line_out)) {
        enum midge_status status;

        if (lines->is_over)
            return MIDGE_AGAIN;
        status = wait_for_input(cli);
        if (status != MIDGE_OK)
            return status;
        read_more(lines);
    }
    return MIDGE_OK;
}
