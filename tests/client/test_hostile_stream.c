/*
 * A server that misbehaves on a connection that is ready: broken frames, huge sizes, floods, and
 * messages that nobody asked for.
 *
 * Method: the first connection is attacked, the next one is served well (hostile.h). What breaks
 * the protocol must cost the connection, with its status; what does not must cost nothing; and the
 * client works after it, as its neighbour does all the time. Crashes are AddressSanitizer's to see.
 */
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "hostile.h"

/* The victim's subscription is its first one. Source: client_internal.h, MIDGE_CLIENT_INBOX_SID. */
#define SUBSCRIBED "SUB a 2\r\n"

#define MIB (1024u * 1024)

/* --- single attacks --- */

struct attack {
    const char *bytes;
    size_t len;
    enum midge_status status; /* that the connection is lost with; MIDGE_OK = it is not */
    uint32_t delivered;
    uint32_t stray;
    enum midge_status told; /* by an error event; MIDGE_OK = none */
};

#define BYTES(text) .bytes = (text), .len = sizeof(text) - 1

static void talk_attack(struct midge_rig_fake_conn *conn)
{
    const struct attack *attack = conn->context;

    if (conn->number > 0) {
        midge_hostile_serve(conn);
        return;
    }
    if (!midge_rig_fake_accept(conn, "") || !midge_rig_fake_await(conn, SUBSCRIBED) ||
        !midge_hostile_send(conn, attack->bytes, attack->len))
        return;
    if (attack->status == MIDGE_OK) {
        /* Its PONG says that the client has got through all of it. */
        midge_rig_fake_send(conn, "PING\r\n");
        (void)midge_rig_fake_await(conn, "PONG\r\n");
    } else {
        (void)midge_hostile_read_to_end(conn);
    }
}

/* Look at everything that a message shows. */
static void examine(void *context, const struct midge_msg *msg)
{
    uint32_t *count = context;
    const struct midge_msg *kept = midge_msg_retain(msg);
    struct midge_headers *headers = midge_headers_copy(msg);
    struct midge_slice name;
    struct midge_slice value;
    uint32_t position = 0;

    CHECK(kept != NULL && headers != NULL);
    CHECK(midge_slice_equal(kept->payload, msg->payload));
    while (midge_msg_next_header(kept, &position, &name, &value))
        CHECK(name.len > 0);
    CHECK(midge_msg_status(msg, &value) < 1000);
    (void)midge_msg_header(msg, "A", &value);
    midge_headers_destroy(headers);
    midge_msg_release(kept);
    (*count)++;
}

static void run_attack(struct midge_rig *rig, struct attack *attack)
{
    struct midge_hostile hostile;
    struct midge_sub *sub;
    uint32_t count = 0;

    midge_hostile_open(&hostile, rig, attack, talk_attack, NULL);
    MUST(midge_client_subscribe(hostile.victim, "a", NULL, &sub, &count, examine));
    MUST(midge_client_connect(hostile.victim, RIG_PATIENCE_MS));
    midge_hostile_await_return(&hostile, 1);
    CHECK_STATUS(hostile.events.statuses[MIDGE_EVENT_DISCONNECTED],
                 attack->status == MIDGE_OK ? MIDGE_E_DISCONNECTED : attack->status);
    CHECK_EQUAL(hostile.events.counts[MIDGE_EVENT_ERROR], attack->told != MIDGE_OK);
    if (attack->told != MIDGE_OK)
        CHECK_STATUS(hostile.events.statuses[MIDGE_EVENT_ERROR], attack->told);
    CHECK_EQUAL(count, attack->delivered);
    CHECK_EQUAL(midge_rig_stats(hostile.victim).stray_msgs, attack->stray);
    midge_hostile_check_well(&hostile);
    midge_hostile_close(&hostile);
}

static void what_is_no_protocol_costs_the_connection(struct midge_rig *rig)
{
    static struct attack attacks[] = {
        {BYTES("garbage\r\n"), .status = MIDGE_E_PARSE},
        {BYTES("\0\0\0\0\n"), .status = MIDGE_E_PARSE},
        {BYTES("\r\n"), .status = MIDGE_E_PARSE},
        {BYTES("HTTP/1.1 400 Bad Request\r\n\r\n"), .status = MIDGE_E_PARSE},
        {BYTES("\x15\x03\x03\x00\x02\x02\x28\n"), .status = MIDGE_E_PARSE},
        {BYTES("PINGPONG\r\n"), .status = MIDGE_E_PARSE},
        {BYTES("PUB a 1\r\nx\r\n"), .status = MIDGE_E_PARSE},
        {BYTES("MSG\r\n"), .status = MIDGE_E_PARSE},
        {BYTES("MSG a 2\r\n"), .status = MIDGE_E_PARSE},
        {BYTES("MSG a x 1\r\nx\r\n"), .status = MIDGE_E_PARSE},
        {BYTES("MSG a -2 1\r\nx\r\n"), .status = MIDGE_E_PARSE},
        {BYTES("MSG a 18446744073709551616 1\r\nx\r\n"), .status = MIDGE_E_PARSE},
        {BYTES("INFO [1]\r\n"), .status = MIDGE_E_ARGS},
        {BYTES("INFO {\"max_payload\":\r\n"), .status = MIDGE_E_ARGS},
        {BYTES("INFO {\"max_payload\":-1}\r\n"), .status = MIDGE_E_ARGS},
        {BYTES("INFO {\"connect_urls\":[{}]}\r\n"), .status = MIDGE_E_ARGS},
    };

    for (size_t i = 0; i < sizeof(attacks) / sizeof(attacks[0]); i++)
        run_attack(rig, &attacks[i]);
}

static void what_is_torn_costs_the_connection(struct midge_rig *rig)
{
    static struct attack attacks[] = {
        {BYTES("MSG a 2 4\r\nhello\r\n"), .status = MIDGE_E_PARSE},
        {BYTES("MSG a 2 6\r\nhello\r\nPING\r\n"), .status = MIDGE_E_PARSE},
        {BYTES("MSG a 2 5\r\nhello\n\n"), .status = MIDGE_E_PARSE},
        {BYTES("HMSG a 2 6 5\r\nhello\r\n"), .status = MIDGE_E_PARSE},
        {BYTES("MSG a 2 1\r\nx\r\nMSG a 2 1\r\nxMSG a 2 1\r\nx\r\n"), .status = MIDGE_E_PARSE,
         .delivered = 1},
        {BYTES("MSG a 2 5\r\nhello\r\nINGMSG a 2 5\r\nhello\r\n"), .status = MIDGE_E_PARSE,
         .delivered = 1},
    };

    for (size_t i = 0; i < sizeof(attacks) / sizeof(attacks[0]); i++)
        run_attack(rig, &attacks[i]);
}

static void a_huge_size_is_refused_before_its_bytes(struct midge_rig *rig)
{
    static struct attack attacks[] = {
        {BYTES("MSG a 2 67108865\r\n"), .status = MIDGE_E_PAYLOAD},
        {BYTES("MSG a 2 999999999\r\n"), .status = MIDGE_E_PAYLOAD},
        {BYTES("HMSG a 2 999999999 999999999\r\n"), .status = MIDGE_E_PAYLOAD},
        {BYTES("MSG a 2 4294967296\r\n"), .status = MIDGE_E_PARSE},
        {BYTES("MSG a 2 99999999999999999999\r\n"), .status = MIDGE_E_PARSE},
        {BYTES("MSG a 2 -1\r\n"), .status = MIDGE_E_PARSE},
    };

    for (size_t i = 0; i < sizeof(attacks) / sizeof(attacks[0]); i++)
        run_attack(rig, &attacks[i]);
}

static void what_is_for_nobody_is_counted(struct midge_rig *rig)
{
    static struct attack attacks[] = {
        {BYTES("MSG a 3 1\r\nx\r\nMSG a 0 1\r\nx\r\nMSG a 18446744073709551615 1\r\nx\r\n"),
         .stray = 3},
        {BYTES("MSG _INBOX.x 1 1\r\nx\r\nMSG a 1 1\r\nx\r\nHMSG a 1 12 12\r\nNATS/1.0\r\n\r\n\r\n"),
         .stray = 3},
        {BYTES("MSG b 2 1\r\nx\r\n"), .delivered = 1}, /* the sid decides, as the server chose it */
    };

    for (size_t i = 0; i < sizeof(attacks) / sizeof(attacks[0]); i++)
        run_attack(rig, &attacks[i]);
}

static void malformed_headers_are_delivered_as_they_are(struct midge_rig *rig)
{
    static const struct midge_slice blocks[] = {
        MIDGE_SLICE_LITERAL(""),
        MIDGE_SLICE_LITERAL("AAAA"),
        MIDGE_SLICE_LITERAL("\0\0\0\0"),
        MIDGE_SLICE_LITERAL("NATS/1.0"),
        MIDGE_SLICE_LITERAL("NATS/1.0\r\n"),
        MIDGE_SLICE_LITERAL("NATS/1.0 \r\n\r\n"),
        MIDGE_SLICE_LITERAL("NATS/1.0 9x9\r\n\r\n"),
        MIDGE_SLICE_LITERAL("NATS/1.0 99999999999\r\n\r\n"),
        MIDGE_SLICE_LITERAL("NATS/1.0\n:\n\n\0\0"),
        MIDGE_SLICE_LITERAL("NATS/1.0\r\nA\r\n:b\r\n\r"),
        MIDGE_SLICE_LITERAL("NATS/1.0\r\nA: b"),
        MIDGE_SLICE_LITERAL("NATS/1.0\r\n\x01\x7f: \xff\0\r\n\r\n"),
        MIDGE_SLICE_LITERAL("NATS/1.0\r\n\r\nPING\r\nMSG a 2 1\r\nx\r\n"),
    };

    for (size_t i = 0; i < sizeof(blocks) / sizeof(blocks[0]); i++) {
        char bytes[256];
        struct attack attack = {.bytes = bytes, .delivered = 1};
        int len =
            snprintf(bytes, sizeof(bytes), "HMSG a 2 %u %u\r\n", blocks[i].len, blocks[i].len + 1);

        memcpy(bytes + len, blocks[i].base, blocks[i].len);
        len += (int)blocks[i].len;
        memcpy(bytes + len, "x\r\n", 3);
        attack.len = (size_t)len + 3;
        run_attack(rig, &attack);
    }
}

static void errors_are_told_and_only_some_end_the_connection(struct midge_rig *rig)
{
    static struct attack attacks[] = {
        {BYTES("-ERR 'Permissions Violation for Publish to \"x\"'\r\n"),
         .told = MIDGE_E_PERMISSION},
        {BYTES("-ERR 'Invalid Subject'\r\n"), .told = MIDGE_E_SUBJECT},
        {BYTES("-ERR 'maximum subscriptions exceeded'\r\n"), .told = MIDGE_E_MAX_SUBS},
        {BYTES("-ERR 'Slow Consumer'\r\n"), .told = MIDGE_E_PEER_ERR},
        {BYTES("-ERR\r\n"), .told = MIDGE_E_PEER_ERR},
        {BYTES("-ERR '\r\n"), .told = MIDGE_E_PEER_ERR},
        {BYTES("-ERR 'Authorization Violation'\r\n"), .status = MIDGE_E_AUTH},
        {BYTES("-ERR 'User Authentication Expired'\r\n"), .status = MIDGE_E_AUTH},
    };

    for (size_t i = 0; i < sizeof(attacks) / sizeof(attacks[0]); i++)
        run_attack(rig, &attacks[i]);
}

static void noise_costs_nothing(struct midge_rig *rig)
{
    static struct attack attacks[] = {
        {BYTES("+OK\r\n+OK\r\nPONG\r\nPONG\r\nPONG\r\n+OK\r\n")},
        {BYTES("INFO {}\r\nINFO {\"nonce\":\"x\",\"tls_required\":true}\r\n")},
        {BYTES(
            "INFO {\"connect_urls\":[\"\",\":\",\"[\",\"a:0\",\"u@h:1\",\"\\u0000:1\",\"h/x:1\"]}"
            "\r\n")},
        {BYTES("MSG a 2 0\r\n\r\n"), .delivered = 1},
        {BYTES("MSG a\x01\x1b[31m\xff 2 \x02 0\r\n\r\n"), .delivered = 1},
    };

    for (size_t i = 0; i < sizeof(attacks) / sizeof(attacks[0]); i++)
        run_attack(rig, &attacks[i]);
}

/* What a terminal would obey does not come through. */
static void the_words_of_an_error_are_printable(struct midge_rig *rig)
{
    struct attack attack = {BYTES("-ERR '\x1b[31mred\x07\x7f'\r\n"), .told = MIDGE_E_PEER_ERR};
    struct midge_hostile hostile;
    struct midge_sub *sub;
    uint32_t count = 0;

    midge_hostile_open(&hostile, rig, &attack, talk_attack, NULL);
    MUST(midge_client_subscribe(hostile.victim, "a", NULL, &sub, &count, examine));
    MUST(midge_client_connect(hostile.victim, RIG_PATIENCE_MS));
    midge_hostile_await_return(&hostile, 1);
    CHECK_TEXT(midge_slice_text(hostile.events.texts[MIDGE_EVENT_ERROR]), "?[31mred??");
    midge_hostile_close(&hostile);
}

/* --- lines and bodies without end --- */

/* A word, then a letter again and again, until the peer goes. */
static void talk_endless(struct midge_rig_fake_conn *conn)
{
    static char letters[65536];

    if (conn->number > 0) {
        midge_hostile_serve(conn);
        return;
    }
    memset(letters, 'x', sizeof(letters));
    if (!midge_rig_fake_accept(conn, "") || !midge_rig_fake_await(conn, SUBSCRIBED))
        return;
    midge_rig_fake_send(conn, conn->context);
    while (midge_hostile_send(conn, letters, sizeof(letters)))
        ;
}

static void expect_end_of(struct midge_rig *rig, const char *beginning, enum midge_status status)
{
    struct midge_hostile hostile;
    struct midge_sub *sub;
    char words[64];

    (void)snprintf(words, sizeof(words), "%s", beginning);
    midge_hostile_open(&hostile, rig, words, talk_endless, NULL);
    MUST(midge_client_subscribe(hostile.victim, "a", NULL, &sub, NULL, NULL));
    MUST(midge_client_connect(hostile.victim, RIG_PATIENCE_MS));
    midge_hostile_await_return(&hostile, 1);
    CHECK_STATUS(hostile.events.statuses[MIDGE_EVENT_DISCONNECTED], status);
    midge_hostile_check_memory(&hostile, 16ull * MIB);
    midge_hostile_check_well(&hostile);
    midge_hostile_close(&hostile);
}

static void a_line_without_end_is_not_kept(struct midge_rig *rig)
{
    expect_end_of(rig, "INFO {", MIDGE_E_CONTROL_LINE);
    expect_end_of(rig, "MSG ", MIDGE_E_CONTROL_LINE);
    expect_end_of(rig, "-ERR ", MIDGE_E_CONTROL_LINE);
    expect_end_of(rig, "", MIDGE_E_CONTROL_LINE);
}

/* --- the end at every byte --- */

static const char frames[] = "MSG a 2 1\r\nx\r\nHMSG a 2 r 12 13\r\nNATS/1.0\r\n\r\ny\r\nPING\r\n";

static void talk_one_byte_more(struct midge_rig_fake_conn *conn)
{
    if (conn->number >= sizeof(frames)) {
        midge_hostile_serve(conn);
        return;
    }
    if (midge_rig_fake_accept(conn, "") && midge_rig_fake_await(conn, SUBSCRIBED))
        (void)midge_hostile_send(conn, frames, conn->number);
}

static void a_server_may_go_at_any_byte(struct midge_rig *rig)
{
    /* Lengths at which the two messages are whole. */
    const uint32_t first_len = 14;
    const uint32_t both_len = sizeof(frames) - 1 - 6;
    struct midge_hostile hostile;
    struct midge_sub *sub;
    uint32_t count = 0;

    midge_hostile_open(&hostile, rig, NULL, talk_one_byte_more, NULL);
    MUST(midge_client_subscribe(hostile.victim, "a", NULL, &sub, &count, examine));
    MUST(midge_client_connect(hostile.victim, RIG_PATIENCE_MS));
    midge_hostile_await_return(&hostile, sizeof(frames));
    CHECK_EQUAL(count, (sizeof(frames) - first_len) + (sizeof(frames) - both_len));
    midge_hostile_check_well(&hostile);
    midge_hostile_close(&hostile);
}

/* --- floods --- */

struct flood {
    const char *frame;
    uint32_t count; /* of frames; 0 = until it is told to stop */
    _Atomic bool is_over;
    bool reads; /* what the client answers */
};

/* Frames by the thousand in each send. */
static void talk_flood(struct midge_rig_fake_conn *conn)
{
    struct flood *flood = conn->context;
    const size_t frame_len = strlen(flood->frame);
    const uint32_t frames_per_send = frame_len > 65536 ? 1 : (uint32_t)(65536 / frame_len);
    char *bytes = malloc(frames_per_send * frame_len);
    uint32_t left = flood->count;

    CHECK(bytes != NULL);
    for (uint32_t i = 0; i < frames_per_send; i++)
        memcpy(bytes + i * frame_len, flood->frame, frame_len);
    if (conn->number > 0)
        midge_hostile_serve(conn);
    else if (midge_rig_fake_accept(conn, "") && midge_rig_fake_await(conn, SUBSCRIBED)) {
        /* Relaxed: the flag says all there is. */
        while (!atomic_load_explicit(&flood->is_over, memory_order_relaxed) &&
               (flood->count == 0 || left > 0)) {
            const uint32_t now =
                flood->count == 0 || left > frames_per_send ? frames_per_send : left;
            if (!midge_hostile_send(conn, bytes, now * frame_len))
                break;
            left -= flood->count == 0 ? 0 : now;
        }
        if (flood->reads) {
            midge_rig_fake_send(conn, "PING\r\n");
            (void)midge_rig_fake_await(conn, "PONG\r\n");
        }
    }
    free(bytes);
}

/* PONGs that nobody reads are not kept beyond what may be queued. */
static void pings_without_end_do_not_fill_the_memory(struct midge_rig *rig)
{
    struct flood flood = {.frame = "PING\r\n", .count = 3000000};
    struct midge_hostile hostile;
    struct midge_options options = midge_hostile_options(&hostile);
    uint64_t queued_max = 0;
    struct midge_sub *sub;

    options.send_bytes_max = 65536;
    options.send_wait_ms = 0;
    midge_hostile_open(&hostile, rig, &flood, talk_flood, &options);
    MUST(midge_client_subscribe(hostile.victim, "a", NULL, &sub, NULL, NULL));
    MUST(midge_client_connect(hostile.victim, RIG_PATIENCE_MS));
    while (hostile.events.counts[MIDGE_EVENT_RECONNECTED] == 0) {
        const uint64_t queued = midge_rig_stats(hostile.victim).queued_bytes;
        const enum midge_status status = midge_client_wait(hostile.victim, 1);

        CHECK(status == MIDGE_OK || status == MIDGE_AGAIN);
        if (queued > queued_max)
            queued_max = queued;
    }
    /* The bound and one PONG, in each of the two buffers. */
    CHECK(queued_max <= 2 * (options.send_bytes_max + 6));
    midge_hostile_check_memory(&hostile, 8ull * MIB);
    midge_hostile_check_well(&hostile);
    midge_hostile_close(&hostile);
}

/* A call that polls comes back though there is always more to do, and the neighbour is heard. */
static void a_flood_does_not_hold_an_event_loop_up(struct midge_rig *rig)
{
    struct flood flood = {.frame = "PING\r\nMSG a 2 1\r\nx\r\n"};
    struct midge_hostile hostile;
    struct midge_sub *sub;
    uint32_t count = 0;
    uint32_t polls = 0;
    int fd;

    if (rig->is_thread_safe)
        return; /* has no descriptor */
    midge_hostile_open(&hostile, rig, &flood, talk_flood, NULL);
    MUST(midge_client_subscribe(hostile.victim, "a", NULL, &sub, &count, examine));
    MUST(midge_client_connect(hostile.victim, RIG_PATIENCE_MS));
    MUST(midge_loop_fd(hostile.loop, &fd));
    for (; polls < 200 || count < 10000; polls++) {
        const enum midge_status status = midge_loop_poll(hostile.loop);
        CHECK(status == MIDGE_OK || status == MIDGE_AGAIN);
    }
    atomic_store_explicit(&flood.is_over, true, memory_order_relaxed);
    while (hostile.events.counts[MIDGE_EVENT_RECONNECTED] == 0) {
        const enum midge_status status = midge_loop_poll(hostile.loop);
        CHECK(status == MIDGE_OK || status == MIDGE_AGAIN);
    }
    midge_hostile_close(&hostile);
}

/* A pull subscription is bounded in bytes, however they are spread over a message. */
static void long_subjects_count(struct midge_rig *rig)
{
    enum {
        SUBJECT_LEN = 100000,
        COUNT = 100, /* ten times as much as may wait */
    };
    static char frame[SUBJECT_LEN + 64];
    struct flood flood = {.frame = frame, .count = COUNT, .reads = true};
    const struct midge_sub_options bounds = {.bytes_max = MIB};
    struct midge_hostile hostile;
    struct midge_sub_stats stats;
    struct midge_sub *sub;

    memcpy(frame, "MSG ", 4);
    memset(frame + 4, 's', SUBJECT_LEN);
    (void)snprintf(frame + 4 + SUBJECT_LEN, 60, " 2 r 0\r\n\r\n");
    midge_hostile_open(&hostile, rig, &flood, talk_flood, NULL);
    MUST(midge_client_subscribe(hostile.victim, "a", &bounds, &sub, NULL, NULL));
    MUST(midge_client_connect(hostile.victim, RIG_PATIENCE_MS));
    midge_hostile_await_return(&hostile, 1);
    midge_sub_read_stats(sub, &stats);
    CHECK(stats.waiting_bytes <= MIB && stats.waiting_bytes > MIB - 2 * SUBJECT_LEN);
    CHECK_EQUAL(stats.waiting_msgs + stats.dropped_msgs, COUNT);
    CHECK_EQUAL(hostile.events.counts[MIDGE_EVENT_SLOW], 1);
    midge_hostile_check_memory(&hostile, 8ull * MIB);
    midge_hostile_check_well(&hostile);
    midge_hostile_close(&hostile);
}

static void tell_no_more(void *context, const struct midge_event *event)
{
    /* The first word about a slow subscription is the last: it is destroyed while it is told. */
    midge_rig_note_event(context, event);
    if (event->kind == MIDGE_EVENT_SLOW)
        midge_sub_destroy(event->sub);
}

static void a_slow_subscription_may_be_destroyed_when_told(struct midge_rig *rig)
{
    struct flood flood = {.frame = "MSG a 2 1\r\nx\r\n", .count = 1000, .reads = true};
    const struct midge_sub_options bounds = {.msgs_max = 10};
    struct midge_hostile hostile;
    struct midge_options options = midge_hostile_options(&hostile);
    struct midge_sub *sub;

    options.event_cb = tell_no_more;
    midge_hostile_open(&hostile, rig, &flood, talk_flood, &options);
    MUST(midge_client_subscribe(hostile.victim, "a", &bounds, &sub, NULL, NULL));
    MUST(midge_client_connect(hostile.victim, RIG_PATIENCE_MS));
    midge_hostile_await_return(&hostile, 1);
    CHECK_EQUAL(midge_rig_stats(hostile.victim).stray_msgs, 1000 - 11);
    midge_hostile_check_well(&hostile);
    midge_hostile_close(&hostile);
}

/* --- call-backs that end things --- */

struct destroyer {
    struct midge_sub *sub;
    uint32_t count;
};

static void destroy_sub(void *context, const struct midge_msg *msg)
{
    struct destroyer *destroyer = context;

    destroyer->count++;
    midge_sub_destroy(destroyer->sub);
    /* What it shows stays until the call-back returns. */
    CHECK_TEXT(msg->payload, "x");
    CHECK_TEXT(msg->subject, "a");
}

static void messages_behind_the_end_of_a_subscription_are_stray(struct midge_rig *rig)
{
    struct flood flood = {.frame = "MSG a 2 1\r\nx\r\n", .count = 5000, .reads = true};
    struct destroyer destroyer = {.count = 0};
    struct midge_hostile hostile;

    midge_hostile_open(&hostile, rig, &flood, talk_flood, NULL);
    MUST(
        midge_client_subscribe(hostile.victim, "a", NULL, &destroyer.sub, &destroyer, destroy_sub));
    MUST(midge_client_connect(hostile.victim, RIG_PATIENCE_MS));
    midge_hostile_await_return(&hostile, 1);
    CHECK_EQUAL(destroyer.count, 1);
    CHECK_EQUAL(midge_rig_stats(hostile.victim).stray_msgs, 4999);
    midge_hostile_check_well(&hostile);
    midge_hostile_close(&hostile);
}

static void drain_client(void *context, const struct midge_msg *msg)
{
    uint32_t *count = context;

    if ((*count)++ == 0)
        CHECK_STATUS(midge_client_drain(msg->client, 0), MIDGE_AGAIN);
    CHECK_TEXT(msg->payload, "x");
}

/* The server neither stops nor answers the drain. */
static void a_drain_that_nobody_answers_ends(struct midge_rig *rig)
{
    struct flood flood = {.frame = "MSG a 2 1\r\nx\r\n", .count = 5000};
    struct midge_hostile hostile;
    struct midge_sub *sub;
    uint32_t count = 0;

    midge_hostile_open(&hostile, rig, &flood, talk_flood, NULL);
    MUST(midge_client_subscribe(hostile.victim, "a", NULL, &sub, &count, drain_client));
    MUST(midge_client_connect(hostile.victim, RIG_PATIENCE_MS));
    WAIT_UNTIL(hostile.victim, hostile.events.counts[MIDGE_EVENT_CLOSED] == 1);
    CHECK(count >= 1);
    CHECK_EQUAL(hostile.events.counts[MIDGE_EVENT_RECONNECTED], 0);
    midge_hostile_check_neighbour(&hostile);
    midge_hostile_close(&hostile);
}

/* --- replies --- */

#define REQUESTS 3u

struct replies {
    uint32_t answers[REQUESTS];
    enum midge_status statuses[REQUESTS];
};

/* The replies that one asked for, each twice, among thousands that nobody did. */
static void talk_replies(struct midge_rig_fake_conn *conn)
{
    char inbox[256];
    char line[1024];

    if (conn->number > 0) {
        midge_hostile_serve(conn);
        return;
    }
    if (!midge_rig_fake_accept(conn, "") || !midge_rig_fake_await(conn, SUBSCRIBED))
        return;
    for (uint32_t request = 0; request < REQUESTS; request++) {
        uint32_t len = 0;

        if (!midge_rig_fake_await(conn, "PUB q "))
            return;
        while (len < sizeof(inbox) - 1 && recv(conn->fd, inbox + len, 1, 0) == 1 &&
               inbox[len] != ' ')
            len++;
        inbox[len] = '\0';
        for (uint32_t i = 0; i < 1000; i++) {
            /* A token that is none yet, or never, or of another length. */
            (void)snprintf(line, sizeof(line),
                           "MSG %.*s%08u 1 1\r\nx\r\nMSG %sx 1 1\r\nx\r\nMSG %.*s 1 0\r\n\r\n",
                           (int)len - 8, inbox, i, inbox, (int)len - 1, inbox);
            midge_rig_fake_send(conn, line);
        }
        (void)snprintf(line, sizeof(line), "MSG %s 1 2\r\nok\r\nMSG %s 1 2\r\nok\r\n", inbox,
                       inbox);
        midge_rig_fake_send(conn, line);
    }
    midge_rig_fake_send(conn, "PING\r\n");
    (void)midge_rig_fake_await(conn, "PONG\r\n");
}

static void a_request_gets_its_reply_and_no_other(struct midge_rig *rig)
{
    struct midge_hostile hostile;
    struct midge_sub *sub;

    midge_hostile_open(&hostile, rig, NULL, talk_replies, NULL);
    MUST(midge_client_subscribe(hostile.victim, "a", NULL, &sub, NULL, NULL));
    MUST(midge_client_connect(hostile.victim, RIG_PATIENCE_MS));
    for (uint32_t i = 0; i < REQUESTS; i++) {
        const struct midge_msg *reply;

        MUST(midge_client_request(hostile.victim, "q", NULL, 0, RIG_PATIENCE_MS, &reply));
        CHECK_TEXT(reply->payload, "ok");
        midge_rig_done(rig, reply);
    }
    midge_hostile_await_return(&hostile, 1);
    CHECK_EQUAL(midge_rig_stats(hostile.victim).stray_msgs, REQUESTS * 3001);
    midge_hostile_check_well(&hostile);
    midge_hostile_close(&hostile);
}

/* --- a server that does not read, or does not answer --- */

static void talk_deaf(struct midge_rig_fake_conn *conn)
{
    _Atomic bool *is_over = conn->context;

    if (!midge_rig_fake_accept(conn, ""))
        return;
    while (!atomic_load_explicit(is_over, memory_order_relaxed))
        midge_rig_sleep_ms(1);
}

static void what_nobody_reads_is_bounded(struct midge_rig *rig)
{
    static const char payload[65536];
    _Atomic bool is_over = false;
    struct midge_hostile hostile;
    struct midge_options options = midge_hostile_options(&hostile);
    enum midge_status status = MIDGE_OK;
    uint64_t sent = 0;

    options.send_bytes_max = MIB;
    options.send_wait_ms = 20;
    options.drain_timeout_ms = 20;
    midge_hostile_open(&hostile, rig, &is_over, talk_deaf, &options);
    MUST(midge_client_connect(hostile.victim, RIG_PATIENCE_MS));
    while (status == MIDGE_OK) {
        status = midge_client_publish(hostile.victim, "x", payload, sizeof(payload));
        CHECK(sent++ < 4096);
    }
    CHECK_STATUS(status, MIDGE_FULL);
    CHECK(midge_rig_stats(hostile.victim).queued_bytes <= MIB + 2 * sizeof(payload));
    midge_hostile_check_neighbour(&hostile);
    midge_hostile_check_memory(&hostile, 16ull * MIB);
    /* The end of the client is not held up by it. */
    midge_client_destroy(hostile.victim);
    hostile.victim = NULL;
    atomic_store_explicit(&is_over, true, memory_order_relaxed);
    midge_hostile_check_neighbour(&hostile);
    midge_hostile_close(&hostile);
}

static void talk_mute(struct midge_rig_fake_conn *conn)
{
    if (conn->number > 0)
        midge_hostile_serve(conn);
    else if (midge_rig_fake_accept(conn, ""))
        (void)midge_hostile_read_to_end(conn);
}

static void a_server_that_answers_no_ping_is_left(struct midge_rig *rig)
{
    struct midge_hostile hostile;
    struct midge_options options = midge_hostile_options(&hostile);

    options.ping_interval_ms = 10;
    options.pings_max = 2;
    midge_hostile_open(&hostile, rig, NULL, talk_mute, &options);
    MUST(midge_client_connect(hostile.victim, RIG_PATIENCE_MS));
    midge_hostile_await_return(&hostile, 1);
    CHECK_STATUS(hostile.events.statuses[MIDGE_EVENT_DISCONNECTED], MIDGE_E_STALE);
    midge_hostile_check_well(&hostile);
    midge_hostile_close(&hostile);
}

static void calls_to_a_mute_server_end(struct midge_rig *rig)
{
    const struct midge_msg *reply;
    struct midge_hostile hostile;

    midge_hostile_open(&hostile, rig, NULL, talk_mute, NULL);
    MUST(midge_client_connect(hostile.victim, RIG_PATIENCE_MS));
    CHECK_STATUS(midge_client_flush(hostile.victim, 20, NULL), MIDGE_E_TIMEOUT);
    CHECK_STATUS(midge_client_request(hostile.victim, "q", NULL, 0, 20, &reply), MIDGE_E_TIMEOUT);
    CHECK_STATUS(midge_client_drain(hostile.victim, 0), MIDGE_AGAIN);
    CHECK_STATUS(midge_client_drain(hostile.victim, 20), MIDGE_E_TIMEOUT);
    midge_hostile_check_neighbour(&hostile);
    midge_hostile_close(&hostile);
}

int main(int argc, char **argv)
{
    static const struct midge_rig_case cases[] = {
        RIG_CASE(what_is_no_protocol_costs_the_connection),
        RIG_CASE(what_is_torn_costs_the_connection),
        RIG_CASE(a_huge_size_is_refused_before_its_bytes),
        RIG_CASE(what_is_for_nobody_is_counted),
        RIG_CASE(malformed_headers_are_delivered_as_they_are),
        RIG_CASE(errors_are_told_and_only_some_end_the_connection),
        RIG_CASE(noise_costs_nothing),
        RIG_CASE(the_words_of_an_error_are_printable),
        RIG_CASE(a_line_without_end_is_not_kept),
        RIG_CASE(a_server_may_go_at_any_byte),
        RIG_CASE(pings_without_end_do_not_fill_the_memory),
        RIG_CASE(a_flood_does_not_hold_an_event_loop_up),
        RIG_CASE(long_subjects_count),
        RIG_CASE(a_slow_subscription_may_be_destroyed_when_told),
        RIG_CASE(messages_behind_the_end_of_a_subscription_are_stray),
        RIG_CASE(a_drain_that_nobody_answers_ends),
        RIG_CASE(a_request_gets_its_reply_and_no_other),
        RIG_CASE(what_nobody_reads_is_bounded),
        RIG_CASE(a_server_that_answers_no_ping_is_left),
        RIG_CASE(calls_to_a_mute_server_end),
    };

    return midge_rig_main(argc, argv, cases, sizeof(cases) / sizeof(cases[0]));
}
