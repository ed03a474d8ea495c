/*
 * What a plain socket cuts out of a stream, however the stream comes. Method: a socket pair through
 * a listener; the far side sends some bytes, and the near side receives them before the next ones.
 */
#include "raw_socket.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#define TIMEOUT_MS 10000u

struct pair {
    struct midge_raw_socket near;
    int far; /* own */
    uint8_t *room;
};

static void open_pair(struct pair *pair, bool is_relay)
{
    char path[] = "/tmp/midge-raw-socket.XXXXXX";
    char text[64];
    struct midge_endpoint endpoint;
    int listener = -1;

    cr_assert_not_null(mkdtemp(path));
    (void)snprintf(text, sizeof text, "unix:%s/socket", path);
    cr_assert_eq(midge_endpoint_parse(text, &endpoint), MIDGE_OK);
    cr_assert_eq(midge_endpoint_listen(&endpoint, &listener), MIDGE_OK);
    cr_assert_eq(midge_raw_socket_open(&pair->near, &endpoint, is_relay, TIMEOUT_MS, 0), MIDGE_OK);
    cr_assert_eq(midge_endpoint_accept(&endpoint, listener, &pair->far), MIDGE_OK);
    (void)close(listener);
    (void)unlink(text + 5);
    (void)rmdir(path);
    pair->room = malloc(MIDGE_RAW_ROOM_LEN);
    cr_assert_not_null(pair->room);
}

static void close_pair(struct pair *pair)
{
    midge_raw_socket_close(&pair->near);
    (void)close(pair->far);
    free(pair->room);
}

/* Operations, written down: so that every way to cut must give the same text. */
struct record {
    char text[4096];
    uint32_t len;
    enum midge_status status; /* the last one */
};

static void note(struct record *record, const struct midge_server_op *op)
{
    const int len =
        snprintf(record->text + record->len, sizeof record->text - record->len,
                 "%d %.*s %llu %.*s %u/%u %.*s [%.*s];", (int)op->kind, (int)op->subject.len,
                 (const char *)op->subject.base, (unsigned long long)op->sid, (int)op->reply.len,
                 (const char *)op->reply.base, op->header_len, op->total_len, (int)op->text.len,
                 (const char *)op->text.base, (int)op->body.len, (const char *)op->body.base);

    cr_assert(len > 0 && (size_t)len < sizeof record->text - record->len);
    record->len += (uint32_t)len;
}

/* Take all that is there. */
static void receive_all(struct pair *pair, struct record *record)
{
    struct midge_slice input;

    while (record->status == MIDGE_AGAIN &&
           midge_raw_socket_receive(&pair->near, pair->room, false, &input) == MIDGE_OK) {
        for (;;) {
            /* Only what an operation's kind has is set. */
            struct midge_server_op op = {.kind = MIDGE_SERVER_OP_NONE};

            record->status = midge_raw_socket_next(&pair->near, &input, &op);
            if (record->status != MIDGE_OK)
                break;
            cr_assert(op.kind != MIDGE_SERVER_OP_MSG || op.whole);
            note(record, &op);
        }
    }
}

static void send_far(const struct pair *pair, const char *bytes, size_t len)
{
    cr_assert_eq(send(pair->far, bytes, len, MSG_NOSIGNAL), (ssize_t)len);
}

/* Send the stream in two parts, cut anywhere, or byte by byte where `cut` is beyond it. */
static void run(bool is_relay, const char *stream, size_t cut, struct record *record)
{
    const size_t len = strlen(stream);
    struct pair pair;

    *record = (struct record){.status = MIDGE_AGAIN};
    open_pair(&pair, is_relay);
    if (cut <= len) {
        if (cut > 0)
            send_far(&pair, stream, cut);
        receive_all(&pair, record);
        if (cut < len)
            send_far(&pair, stream + cut, len - cut);
        receive_all(&pair, record);
    } else {
        for (size_t i = 0; i < len; i++) {
            send_far(&pair, stream + i, 1);
            receive_all(&pair, record);
        }
    }
    close_pair(&pair);
}

static void check_all_cuts(bool is_relay, const char *stream, const char *expected)
{
    struct record record;

    for (size_t cut = 0; cut <= strlen(stream) + 1; cut++) {
        run(is_relay, stream, cut, &record);
        cr_assert_str_eq(record.text, expected, "cut at %zu", cut);
        cr_assert_eq(record.status, MIDGE_AGAIN, "cut at %zu", cut);
    }
}

Test(raw_socket, cuts_what_a_server_says_the_same_however_it_comes)
{
    check_all_cuts(false,
                   "INFO {\"a\":1}\r\nPING\r\nMSG a.b 7 3\r\nxyz\r\nMSG c 8 re.ply 0\r\n\r\n"
                   "HMSG d 9 r 16 20\r\nNATS/1.0 503\r\n\r\nbody\r\nPONG\r\n-ERR 'no'\r\n+OK\r\n"
                   "MSG a.b 7 2\r\n\r\n\r\n",
                   "1  0  0/0 {\"a\":1} [];3  0  0/0  [];2 a.b 7  0/3  [xyz];"
                   "2 c 8 re.ply 0/0  [];2 d 9 r 16/20  [NATS/1.0 503\r\n\r\nbody];4  0  0/0  [];"
                   "6  0  0/0 no [];5  0  0/0  [];2 a.b 7  0/2  [\r\n];");
}

Test(raw_socket, cuts_what_a_relay_forwards_the_same_however_it_comes)
{
    check_all_cuts(true,
                   "PUB a.b 3\r\nxyz\r\nPUB c re.ply 0\r\n\r\n"
                   "HPUB d r 12 16\r\nNATS/1.0\r\n\r\nbody\r\nPUB a.b 2\r\n\r\n\r\n",
                   "2 a.b 0  0/3  [xyz];2 c 0 re.ply 0/0  [];"
                   "2 d 0 r 12/16  [NATS/1.0\r\n\r\nbody];2 a.b 0  0/2  [\r\n];");
}

/* A control line like the one before is not read again; one that differs anywhere is. */
Test(raw_socket, tells_control_lines_apart_that_are_nearly_the_same)
{
    check_all_cuts(
        false,
        "MSG a.b.c.d 17 2\r\nxy\r\nMSG a.b.c.d 17 2\r\nzz\r\nMSG a.b.c.d 18 2\r\nxy\r\n"
        "MSG a.b.c.d 18 3\r\nxyz\r\nMSG a.b.c.e 18 3\r\nxyz\r\nMSG a.b.c.e 18 3 3\r\nxyz\r\n"
        "MSG a.b.c.e 18 3\r\n3\r\n\r\nPING\r\nMSG a.b.c.e 18 3\r\nMSG\r\n",
        "2 a.b.c.d 17  0/2  [xy];2 a.b.c.d 17  0/2  [zz];2 a.b.c.d 18  0/2  [xy];"
        "2 a.b.c.d 18  0/3  [xyz];2 a.b.c.e 18  0/3  [xyz];2 a.b.c.e 18 3 0/3  [xyz];"
        "2 a.b.c.e 18  0/3  [3\r\n];3  0  0/0  [];2 a.b.c.e 18  0/3  [MSG];");
    check_all_cuts(
        true,
        "PUB a 0\r\n\r\nPUB a 0\r\n\r\nPUB a 1\r\nx\r\nPUB b 1\r\nx\r\nPUB b 1 1\r\nx\r\n"
        "PUB b 1\r\nx\r\n",
        "2 a 0  0/0  [];2 a 0  0/0  [];2 a 0  0/1  [x];2 b 0  0/1  [x];2 b 0 1 0/1  [x];"
        "2 b 0  0/1  [x];");
}

/* Subjects around the longest control line that is kept. */
Test(raw_socket, cuts_control_lines_of_any_length)
{
    for (uint32_t subject_len = 40; subject_len < 70; subject_len++) {
        char subject[80] = "";
        char stream[512];
        char expected[512];
        struct record record;

        memset(subject, 's', subject_len);
        (void)snprintf(stream, sizeof stream,
                       "MSG %s 1 2\r\nab\r\nMSG %s 1 2\r\ncd\r\nMSG %.*st 1 2\r\nef\r\n", subject,
                       subject, (int)subject_len - 1, subject);
        (void)snprintf(expected, sizeof expected,
                       "2 %s 1  0/2  [ab];2 %s 1  0/2  [cd];2 %.*st 1  0/2  [ef];", subject,
                       subject, (int)subject_len - 1, subject);
        run(false, stream, 0, &record);
        cr_assert_str_eq(record.text, expected);
    }
}

Test(raw_socket, refuses_what_is_not_nats)
{
    struct record record;

    /* Behind a control line that was seen before. */
    run(false, "MSG a 1 1\r\nx\r\nMSG a 1 1\r\nxx\r\n", 0, &record);
    cr_assert_eq(record.status, MIDGE_E_PARSE);
    run(true, "PUB a 1\r\nx\r\nPUB a 1\r\nx\n\r", 0, &record);
    cr_assert_eq(record.status, MIDGE_E_PARSE);

    run(false, "PUB a 1\r\nx\r\n", 4, &record);
    cr_assert_eq(record.status, MIDGE_E_PARSE);
    run(false, "MSG a 1 1\r\nxx\r\n", 12, &record);
    cr_assert_eq(record.status, MIDGE_E_PARSE);
    run(true, "MSG a 1 1\r\nx\r\n", 4, &record);
    cr_assert_lt(record.status, MIDGE_OK);
    run(true, "SUB a 1\r\n", 4, &record);
    cr_assert_eq(record.status, MIDGE_E_PARSE);
}

Test(raw_socket, tells_the_end_of_the_stream)
{
    struct pair pair;
    struct midge_slice input;

    open_pair(&pair, false);
    cr_assert_eq(midge_raw_socket_receive(&pair.near, pair.room, false, &input), MIDGE_AGAIN);
    (void)shutdown(pair.far, SHUT_RDWR);
    cr_assert_eq(midge_raw_socket_receive(&pair.near, pair.room, false, &input), MIDGE_E_EOF);
    cr_assert_not_null(midge_raw_socket_reserve(&pair.near, 1));
    midge_raw_socket_commit(&pair.near, 1);
    cr_assert_eq(midge_raw_socket_send(&pair.near), MIDGE_E_EOF);
    cr_assert_eq(midge_raw_socket_queued(&pair.near), 0);
    close_pair(&pair);
}

/* Append bytes that follow from their place in the stream. */
static void append(struct midge_raw_socket *socket, uint32_t len, uint64_t *place)
{
    uint8_t *out = midge_raw_socket_reserve(socket, len);

    cr_assert_not_null(out);
    for (uint32_t i = 0; i < len; i++)
        out[i] = (uint8_t)((*place)++ * 31 >> 3);
    midge_raw_socket_commit(socket, len);
}

Test(raw_socket, sends_all_in_order_though_the_kernel_takes_it_in_parts)
{
    struct pair pair;
    uint64_t put = 0;
    uint64_t got = 0;
    uint32_t full_count = 0;

    open_pair(&pair, false);
    /* The far side reads less at a time than is appended, so that much waits, moves and grows. */
    while (put < 8u * 1024 * 1024 || midge_raw_socket_queued(&pair.near) > 0) {
        ssize_t len;

        if (put < 8u * 1024 * 1024)
            append(&pair.near, (uint32_t)(1 + put % 50000), &put);
        cr_assert_eq(midge_raw_socket_send(&pair.near), MIDGE_OK);
        cr_assert_eq(pair.near.is_full, midge_raw_socket_queued(&pair.near) > 0);
        full_count += pair.near.is_full ? 1 : 0;
        len = recv(pair.far, pair.room, 20000, MSG_DONTWAIT);
        for (ssize_t i = 0; i < len; i++)
            cr_assert_eq(pair.room[i], (uint8_t)(got++ * 31 >> 3));
    }
    for (ssize_t len; (len = recv(pair.far, pair.room, 20000, MSG_DONTWAIT)) > 0;) {
        for (ssize_t i = 0; i < len; i++)
            cr_assert_eq(pair.room[i], (uint8_t)(got++ * 31 >> 3));
    }
    cr_assert_eq(got, put);
    cr_assert_gt(full_count, 0);
    close_pair(&pair);
}
