/*
 * What a server keeps for many connections, and for many subscriptions on one connection.
 *
 * Memory is VmRSS of the server before and after, over how many there are; the first connection is
 * open before. One process and blocking sockets are enough: nothing here depends on what goes on at
 * the same time.
 *
 * Subscription i is `fleet.<i mod 1000>.unit.<i>.state`, every tenth `fleet.<i mod
 * 1000>.unit.<i>.*`, with sid i + 1, so that each publish to a random i has one subscription, which
 * is known. Publishing takes turns with reading: PUBLISH_BATCH messages in one send, then all of
 * them back, each compared with what was sent.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "process.h"
#include "raw.h"
#include "wire.h"

/* Bytes of SUB lines that leave in one send, and of the longest of them. */
#define SUBSCRIBE_LEN 65536u
#define LINE_LEN_MAX  64u

#define PUBLISH_BATCH     256u
#define PUBLISH_FRAME_MAX 128u

/* The same sequence of subjects for every server. */
#define SEED 0x9e3779b97f4a7c15ull

struct many {
    const struct midge_raw_options *options; /* borrow */
    struct midge_wire wire;                  /* the one with the subscriptions */
    struct midge_wire publisher;
    uint64_t state; /* of the random sequence */
    uint64_t resident_before;
    uint64_t resident_after;
    uint64_t subscribe_ns;
    uint64_t published;
    uint64_t publish_cpu_ns;
    uint32_t picks[PUBLISH_BATCH]; /* subscription that each message of the batch is for */
    char batch[PUBLISH_BATCH * PUBLISH_FRAME_MAX];
};

static enum midge_status complain(enum midge_status status, const char *what)
{
    (void)fprintf(stderr, "midge-raw: %s\n", what);
    return status;
}

static enum midge_status resident(const struct midge_raw_options *options, uint64_t *len_out)
{
    const enum midge_status status = midge_process_resident(options->server_pid, len_out);

    return status == MIDGE_OK ? status : complain(status, "no VmRSS of the server");
}

/* xorshift64*: 32 good bits of each step. */
static uint32_t draw(uint64_t *state, uint32_t below)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return (uint32_t)((*state * 0x2545f4914f6cdd1dull >> 32) * below >> 32);
}

static enum midge_status send_text(struct midge_wire *wire, const char *text, uint32_t len)
{
    const enum midge_status status = midge_wire_send(wire, text, len);

    return status == MIDGE_OK ? status : complain(status, strerror(errno));
}

/* CONNECT and PING are in open, SUB and a second PING here. */
static enum midge_status open_all(struct midge_wire *wires, const struct midge_raw_options *options)
{
    enum midge_status status = MIDGE_OK;

    for (uint32_t i = 0; i < options->connections && status == MIDGE_OK; i++) {
        char subject[LINE_LEN_MAX];

        (void)snprintf(subject, sizeof subject, "conns.%u", i);
        status = midge_wire_open(&wires[i], &options->endpoint, false, 0, options->timeout_ms);
        if (status == MIDGE_OK)
            status = midge_wire_subscribe(&wires[i], subject);
    }
    return status;
}

/* Every connection must still be there, and its subscription get what is published to it. */
static enum midge_status check_all(struct midge_wire *wires, struct midge_wire *publisher,
                                   const struct midge_raw_options *options)
{
    enum midge_status status = MIDGE_OK;

    for (uint32_t i = 0; i < options->connections && status == MIDGE_OK; i++) {
        struct midge_wire_frame frame = {.kind = MIDGE_WIRE_PONG};
        uint64_t number = 0;
        char text[2 * LINE_LEN_MAX];
        const int len = snprintf(text, sizeof text, "PUB conns.%u %u\r\n%016x\r\n", i,
                                 MIDGE_WIRE_NUMBER_LEN, i);

        status = send_text(publisher, text, (uint32_t)len);
        if (status == MIDGE_OK)
            status = midge_wire_read(&wires[i], &frame);
        if (status == MIDGE_OK &&
            (frame.kind != MIDGE_WIRE_MSG || frame.payload.len != MIDGE_WIRE_NUMBER_LEN ||
             !midge_wire_get_number(frame.payload, &number) || number != i))
            status = MIDGE_E_PARSE;
        if (status == MIDGE_OK)
            status = midge_wire_fence(&wires[i]);
        if (status != MIDGE_OK)
            (void)fprintf(stderr, "midge-raw: connection %u is lost or got a wrong message\n", i);
    }
    return status;
}

static enum midge_status measure_conns(struct midge_wire *wires, struct midge_wire *publisher,
                                       const struct midge_raw_options *options)
{
    uint64_t before = 0;
    uint64_t after = 0;
    enum midge_status status =
        midge_wire_open(publisher, &options->endpoint, false, 0, options->timeout_ms);

    if (status == MIDGE_OK)
        status = resident(options, &before);
    const uint64_t begin_ns = midge_process_now_ns();

    if (status == MIDGE_OK)
        status = open_all(wires, options);
    const uint64_t elapsed_ns = midge_process_now_ns() - begin_ns;

    midge_process_sleep_ns(options->idle_ms * 1000000ull);
    if (status == MIDGE_OK)
        status = resident(options, &after);
    if (status == MIDGE_OK)
        status = check_all(wires, publisher, options);
    if (status != MIDGE_OK)
        return status;
    const double each = ((double)after - (double)before) / options->connections;

    if (options->is_json)
        printf("{\"mode\":\"conns\",\"connections\":%u,\"errors\":0,\"idle_ms\":%u,"
               "\"elapsed_ns\":%llu,\"resident_before\":%llu,\"resident_after\":%llu,"
               "\"resident_each\":%.1f}\n",
               options->connections, options->idle_ms, (unsigned long long)elapsed_ns,
               (unsigned long long)before, (unsigned long long)after, each);
    else
        printf("%u connections, 0 errors, %.3f s; server: %.1f bytes resident for each\n",
               options->connections, (double)elapsed_ns / 1e9, each);
    return MIDGE_OK;
}

enum midge_status midge_conns_run(const struct midge_raw_options *options)
{
    struct midge_wire publisher = {.fd = -1};
    struct midge_wire *wires = (struct midge_wire *)calloc(options->connections, sizeof *wires);

    if (wires == NULL)
        return complain(MIDGE_E_MEMORY, "no memory for the connections");
    for (uint32_t i = 0; i < options->connections; i++)
        wires[i].fd = -1;
    const enum midge_status status = measure_conns(wires, &publisher, options);

    for (uint32_t i = 0; i < options->connections; i++)
        midge_wire_close(&wires[i]);
    midge_wire_close(&publisher);
    free(wires);
    return status;
}

static enum midge_status subscribe_all(struct many *many)
{
    static char lines[SUBSCRIBE_LEN + LINE_LEN_MAX]; /* style: scratch, too large for the stack */
    uint32_t len = 0;
    enum midge_status status = MIDGE_OK;
    const uint64_t begin_ns = midge_process_now_ns();

    for (uint32_t i = 0; i < many->options->subscriptions && status == MIDGE_OK; i++) {
        len += (uint32_t)snprintf(lines + len, LINE_LEN_MAX, "SUB fleet.%u.unit.%u.%s %u\r\n",
                                  i % 1000, i, i % 10 == 9 ? "*" : "state", i + 1);
        if (len >= SUBSCRIBE_LEN || i + 1 == many->options->subscriptions) {
            status = send_text(&many->wire, lines, len);
            len = 0;
        }
    }
    if (status == MIDGE_OK)
        status = midge_wire_fence(&many->wire);
    many->subscribe_ns = midge_process_now_ns() - begin_ns;
    return status;
}

/* Publish to PUBLISH_BATCH random subscriptions. */
static enum midge_status publish_batch(struct many *many)
{
    uint32_t len = 0;

    for (uint32_t i = 0; i < PUBLISH_BATCH; i++) {
        const uint32_t pick = draw(&many->state, many->options->subscriptions);

        many->picks[i] = pick;
        len += (uint32_t)snprintf(many->batch + len, PUBLISH_FRAME_MAX,
                                  "PUB fleet.%u.unit.%u.state %u\r\n%016llx\r\n", pick % 1000, pick,
                                  MIDGE_WIRE_NUMBER_LEN, (unsigned long long)(many->published + i));
    }
    return send_text(&many->publisher, many->batch, len);
}

static enum midge_status take_batch(struct many *many)
{
    enum midge_status status = MIDGE_OK;

    for (uint32_t i = 0; i < PUBLISH_BATCH && status == MIDGE_OK; i++) {
        struct midge_wire_frame frame;
        char expected[2 * LINE_LEN_MAX];
        uint64_t number = 0;

        status = midge_wire_read(&many->wire, &frame);
        if (status != MIDGE_OK)
            return complain(status, "a message to a subscription is lost");
        (void)snprintf(expected, sizeof expected, "fleet.%u.unit.%u.state", many->picks[i] % 1000,
                       many->picks[i]);
        if (frame.kind != MIDGE_WIRE_MSG ||
            !midge_slice_equal(frame.subject, midge_slice_text(expected)))
            return complain(MIDGE_E_PARSE, "a message to a subscription is lost, doubled or wrong");
        (void)snprintf(expected, sizeof expected, "%u", many->picks[i] + 1);
        if (!midge_slice_equal(frame.sid, midge_slice_text(expected)) ||
            frame.payload.len != MIDGE_WIRE_NUMBER_LEN ||
            !midge_wire_get_number(frame.payload, &number) || number != many->published)
            return complain(MIDGE_E_PARSE, "a message has a wrong sid or payload");
        many->published++;
    }
    return status;
}

/* Publish at least `count` messages after the warm-up, and until the server has used its time. */
static enum midge_status publish_all(struct many *many)
{
    const struct midge_raw_options *options = many->options;
    const uint64_t wanted_ns = options->cpu_ms * 1000000ull;
    uint64_t begin_ns = 0;
    uint64_t now_ns = 0;
    uint64_t begin_count = UINT64_MAX;
    enum midge_status status = MIDGE_OK;

    while (status == MIDGE_OK) {
        if (begin_count == UINT64_MAX && many->published >= options->warmup) {
            begin_count = many->published;
            status = midge_process_cpu_ns(options->server_pid, &begin_ns);
        }
        if (status == MIDGE_OK)
            status = publish_batch(many);
        if (status == MIDGE_OK)
            status = take_batch(many);
        if (status != MIDGE_OK || begin_count == UINT64_MAX)
            continue;
        status = midge_process_cpu_ns(options->server_pid, &now_ns);
        if (options->cpu_ms > 0 ? now_ns - begin_ns >= wanted_ns
                                : many->published - begin_count >= options->count)
            break;
    }
    many->publish_cpu_ns = now_ns - begin_ns;
    many->published -= begin_count == UINT64_MAX ? 0 : begin_count;
    return status == MIDGE_OK ? midge_wire_fence(&many->wire) : status;
}

static enum midge_status measure_subs(struct many *many)
{
    const struct midge_raw_options *options = many->options;
    enum midge_status status =
        midge_wire_open(&many->wire, &options->endpoint, false, 0, options->timeout_ms);

    if (status == MIDGE_OK)
        status =
            midge_wire_open(&many->publisher, &options->endpoint, false, 0, options->timeout_ms);
    if (status == MIDGE_OK)
        status = resident(options, &many->resident_before);
    if (status == MIDGE_OK)
        status = subscribe_all(many);
    if (status == MIDGE_OK) {
        midge_process_sleep_ns(options->idle_ms * 1000000ull);
        status = resident(options, &many->resident_after);
    }
    return status == MIDGE_OK ? publish_all(many) : status;
}

static void print_subs(const struct many *many)
{
    const struct midge_raw_options *options = many->options;
    const double per_s = options->subscriptions * 1e9 / (double)many->subscribe_ns;
    const double each =
        ((double)many->resident_after - (double)many->resident_before) / options->subscriptions;

    if (options->is_json)
        printf("{\"mode\":\"subs\",\"subscriptions\":%u,\"errors\":0,\"idle_ms\":%u,"
               "\"subscribe_ns\":%llu,\"subscribed_per_s\":%.0f,\"resident_before\":%llu,"
               "\"resident_after\":%llu,\"resident_each\":%.1f,\"published\":%llu,"
               "\"server_cpu_ns\":%llu}\n",
               options->subscriptions, options->idle_ms, (unsigned long long)many->subscribe_ns,
               per_s, (unsigned long long)many->resident_before,
               (unsigned long long)many->resident_after, each, (unsigned long long)many->published,
               (unsigned long long)many->publish_cpu_ns);
    else
        printf("%u subscriptions, 0 errors, %.0f a second; server: %.1f bytes resident for each, "
               "%.3f us of CPU time a publish (%llu published)\n",
               options->subscriptions, per_s, each,
               (double)many->publish_cpu_ns / (double)many->published / 1e3,
               (unsigned long long)many->published);
}

enum midge_status midge_subs_run(const struct midge_raw_options *options)
{
    struct many many = {.options = options, .state = SEED};

    many.wire.fd = -1;
    many.publisher.fd = -1;
    const enum midge_status status = measure_subs(&many);

    if (status == MIDGE_OK)
        print_subs(&many);
    midge_wire_close(&many.publisher);
    midge_wire_close(&many.wire);
    return status;
}
