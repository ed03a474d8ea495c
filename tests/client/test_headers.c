/*
 * Lists of headers, and the headers of messages: order, limits, and what a server's status says.
 * What a list must refuse, and how one is changed and sent on, is in test_publish.c; tests/fuzz has
 * a naive twin of the list.
 *
 * Method: a list is sent to a subscription of the same client, and what arrives is compared with
 * it. Blocks that no list can make are read from a message that was made by hand.
 */
#include <stdlib.h>

#include "rig.h"

#define NAME_LEN_MAX  1024u
#define VALUE_LEN_MAX 65535u

static struct midge_headers *make_list(void)
{
    struct midge_headers *headers = midge_headers_create();

    CHECK(headers != NULL);
    return headers;
}

/* One pair must be this. */
static void check_pair(const struct midge_headers *headers, uint32_t index, const char *name,
                       const char *value)
{
    const char *got_name;
    const char *got_value;

    midge_headers_at(headers, index, &got_name, &got_value);
    CHECK(strcmp(got_name, name) == 0);
    CHECK(strcmp(got_value, value) == 0);
}

/* A text of one byte, repeated; owned. */
static char *repeat(char byte, size_t len)
{
    char *text = malloc(len + 1);

    CHECK(text != NULL);
    memset(text, byte, len);
    text[len] = '\0';
    return text;
}

/* --- on their way --- */

/* Send the list, and compare what arrives, pair by pair. */
static void check_travels(struct midge_rig *rig, const struct midge_headers *headers)
{
    struct midge_client *client = midge_rig_connect(rig, NULL);
    struct midge_sub *sub = midge_rig_subscribe(client, "headers");
    const struct midge_outgoing outgoing = {
        .subject = "headers", .headers = headers, .payload = "x", .payload_len = 1};
    struct midge_slice name;
    struct midge_slice value;
    const struct midge_msg *msg;
    uint32_t position = 0;

    MUST(midge_client_publish_msg(client, &outgoing));
    msg = midge_rig_next(sub);
    for (uint32_t i = 0; i < midge_headers_count(headers); i++) {
        const char *sent_name;
        const char *sent_value;

        midge_headers_at(headers, i, &sent_name, &sent_value);
        CHECK(midge_msg_next_header(msg, &position, &name, &value));
        CHECK_TEXT(name, sent_name);
        CHECK_TEXT(value, sent_value);
    }
    CHECK(!midge_msg_next_header(msg, &position, &name, &value));
    CHECK_EQUAL(midge_msg_status(msg, NULL), 0);
    CHECK_TEXT(msg->payload, "x");
    midge_rig_done(rig, msg);
    midge_client_destroy(client);
}

static void values_of_one_name_travel_in_order(struct midge_rig *rig)
{
    struct midge_headers *headers = make_list();

    MUST(midge_headers_add(headers, "A", "1"));
    MUST(midge_headers_add(headers, "B", ""));
    MUST(midge_headers_add(headers, "A", "2"));
    MUST(midge_headers_add(headers, "a", "of another name"));
    MUST(midge_headers_add(headers, "A", ""));
    CHECK(strcmp(midge_headers_get(headers, "A"), "1") == 0);
    CHECK_EQUAL(midge_headers_count(headers), 5);
    check_travels(rig, headers);
    midge_headers_destroy(headers);
}

static void every_character_that_is_allowed_travels(struct midge_rig *rig)
{
    struct midge_headers *headers = make_list();
    char text[256];
    uint32_t len = 0;

    for (int byte = '!'; byte <= '~'; byte++) {
        if (byte != ':')
            text[len++] = (char)byte;
    }
    text[len] = '\0';
    MUST(midge_headers_add(headers, text, text));
    MUST(midge_headers_add(headers, "Tab-and-colon", "a\tb: c :d"));
    /* Bytes beyond ASCII are for values only. */
    for (len = 0; len < 128; len++)
        text[len] = (char)(128 + len);
    text[len] = '\0';
    MUST(midge_headers_add(headers, "Others", text));
    check_travels(rig, headers);
    midge_headers_destroy(headers);
}

static void longest_name_and_value_travel(struct midge_rig *rig)
{
    struct midge_headers *headers = make_list();
    char *name = repeat('n', NAME_LEN_MAX);
    char *value = repeat('v', VALUE_LEN_MAX);
    char *long_name = repeat('n', NAME_LEN_MAX + 1);
    char *long_value = repeat('v', VALUE_LEN_MAX + 1);

    MUST(midge_headers_add(headers, name, value));
    CHECK_STATUS(midge_headers_add(headers, long_name, "x"), MIDGE_E_HEADERS);
    CHECK_STATUS(midge_headers_set(headers, long_name, "x"), MIDGE_E_HEADERS);
    CHECK_STATUS(midge_headers_add(headers, name, long_value), MIDGE_E_HEADERS);
    CHECK_STATUS(midge_headers_set(headers, name, long_value), MIDGE_E_HEADERS);
    CHECK_EQUAL(midge_headers_count(headers), 1);
    check_travels(rig, headers);
    free(name);
    free(value);
    free(long_name);
    free(long_value);
    midge_headers_destroy(headers);
}

static void list_without_pairs_is_no_headers(struct midge_rig *rig)
{
    struct midge_client *client = midge_rig_connect(rig, NULL);
    struct midge_sub *sub = midge_rig_subscribe(client, "headers");
    struct midge_headers *headers = make_list();
    const struct midge_outgoing outgoing = {.subject = "headers", .headers = headers};
    const struct midge_msg *msg;

    MUST(midge_headers_add(headers, "A", "1"));
    CHECK_EQUAL(midge_headers_delete(headers, "A"), 1);
    MUST(midge_client_publish_msg(client, &outgoing));
    msg = midge_rig_next(sub);
    CHECK_EQUAL(msg->headers.len, 0);
    midge_rig_done(rig, msg);
    midge_headers_destroy(headers);
    midge_client_destroy(client);
}

static void talk_without_headers(struct midge_rig_fake_conn *conn)
{
    midge_rig_fake_send(conn, "INFO {\"server_id\":\"OLD\",\"max_payload\":1048576}\r\n");
    while (midge_rig_fake_await(conn, "PING\r\n"))
        midge_rig_fake_send(conn, "PONG\r\n");
}

static void server_that_takes_none_gets_none(struct midge_rig *rig)
{
    struct midge_rig_fake *fake = midge_rig_fake_start(NULL, talk_without_headers);
    struct midge_options options = midge_rig_options(rig);
    struct midge_headers *headers = make_list();
    struct midge_outgoing outgoing = {.subject = "a", .headers = headers};
    struct midge_client *client;

    options.url = midge_rig_fake_url(fake);
    client = midge_rig_connect(rig, &options);
    MUST(midge_headers_add(headers, "A", "1"));
    CHECK_STATUS(midge_client_publish_msg(client, &outgoing), MIDGE_E_HEADERS);
    CHECK_EQUAL(midge_rig_stats(client).out_msgs, 0);
    CHECK_EQUAL(midge_headers_delete(headers, "A"), 1);
    MUST(midge_client_publish_msg(client, &outgoing));
    midge_rig_flush(client);
    midge_headers_destroy(headers);
    midge_client_destroy(client);
    midge_rig_fake_end(fake);
}

/* --- lists --- */

static void set_takes_the_place_of_the_first_value(struct midge_rig *rig)
{
    struct midge_headers *headers = make_list();

    (void)rig;
    MUST(midge_headers_add(headers, "First", "1"));
    MUST(midge_headers_add(headers, "Kind", "green"));
    MUST(midge_headers_add(headers, "Last", "2"));
    MUST(midge_headers_add(headers, "Kind", "black"));
    MUST(midge_headers_set(headers, "Kind", "white, and much longer than before"));
    MUST(midge_headers_set(headers, "New", "3"));
    CHECK_EQUAL(midge_headers_count(headers), 4);
    check_pair(headers, 0, "First", "1");
    check_pair(headers, 1, "Kind", "white, and much longer than before");
    check_pair(headers, 2, "Last", "2");
    check_pair(headers, 3, "New", "3");
    midge_headers_destroy(headers);
}

static void delete_takes_all_values_and_says_how_many(struct midge_rig *rig)
{
    struct midge_headers *headers = make_list();

    (void)rig;
    CHECK_EQUAL(midge_headers_delete(headers, "A"), 0);
    for (uint32_t i = 0; i < 3; i++) {
        MUST(midge_headers_add(headers, "A", "gone"));
        MUST(midge_headers_add(headers, "B", i == 0 ? "0" : i == 1 ? "1" : "2"));
    }
    CHECK_EQUAL(midge_headers_delete(headers, "a"), 0);
    CHECK_EQUAL(midge_headers_delete(headers, "A"), 3);
    CHECK(midge_headers_get(headers, "A") == NULL);
    CHECK_EQUAL(midge_headers_count(headers), 3);
    check_pair(headers, 0, "B", "0");
    check_pair(headers, 2, "B", "2");
    midge_headers_destroy(headers);
}

static void arguments_may_lie_in_the_list(struct midge_rig *rig)
{
    struct midge_headers *headers = make_list();
    const char *name;
    const char *value;

    (void)rig;
    MUST(midge_headers_add(headers, "Name", "value"));
    /* Far beyond the room it began with, each time out of what it holds. */
    for (uint32_t i = 0; i < 200; i++) {
        midge_headers_at(headers, i, &name, &value);
        MUST(midge_headers_add(headers, name, value));
    }
    check_pair(headers, 200, "Name", "value");
    midge_headers_at(headers, 100, &name, &value);
    MUST(midge_headers_set(headers, name, value));
    CHECK_EQUAL(midge_headers_count(headers), 1);
    check_pair(headers, 0, "Name", "value");
    midge_headers_at(headers, 0, &name, &value);
    CHECK_EQUAL(midge_headers_delete(headers, name), 1);
    CHECK_EQUAL(midge_headers_count(headers), 0);
    midge_headers_destroy(headers);
}

/* --- status --- */

static void status_and_description_are_read(struct midge_rig *rig)
{
    static const struct {
        const char *block;
        uint32_t status;
        const char *description;
        uint32_t pairs;
    } blocks[] = {
        {"NATS/1.0\r\n\r\n", 0, "", 0},
        {"NATS/1.0\r\nA: b\r\n\r\n", 0, "", 1},
        {"NATS/1.0 503\r\n\r\n", 503, "", 0},
        {"NATS/1.0 404 No Messages\r\n\r\n", 404, "No Messages", 0},
        {"NATS/1.0 100 Idle Heartbeat\r\nA: b\r\nC:d\r\n\r\n", 100, "Idle Heartbeat", 2},
        {"NATS/1.0   409   two  blanks \r\n\r\n", 409, "two  blanks", 0},
        {"NATS/1.0 50\r\n\r\n", 0, "", 0},
        {"NATS/1.0 5x3 No\r\n\r\n", 0, "", 0},
        {"NATS/1.0 -12\r\n\r\n", 0, "", 0},
        {"HTTP/1.1 200 OK\r\nA: b\r\n\r\n", 0, "", 0},
        {"", 0, "", 0},
    };

    (void)rig;
    for (size_t i = 0; i < sizeof(blocks) / sizeof(blocks[0]); i++) {
        const struct midge_msg msg = {.headers = midge_slice_text(blocks[i].block)};
        struct midge_headers *headers = midge_headers_copy(&msg);
        struct midge_slice description;

        CHECK_EQUAL(midge_msg_status(&msg, &description), blocks[i].status);
        CHECK_TEXT(description, blocks[i].description);
        CHECK_EQUAL(midge_msg_status(&msg, NULL), blocks[i].status);
        /* A copy has the pairs alone. */
        CHECK(headers != NULL);
        CHECK_EQUAL(midge_headers_count(headers), blocks[i].pairs);
        midge_headers_destroy(headers);
    }
}

int main(int argc, char **argv)
{
    static const struct midge_rig_case cases[] = {
        RIG_CASE(values_of_one_name_travel_in_order),
        RIG_CASE(every_character_that_is_allowed_travels),
        RIG_CASE(longest_name_and_value_travel),
        RIG_CASE(list_without_pairs_is_no_headers),
        RIG_CASE(server_that_takes_none_gets_none),
        RIG_CASE(set_takes_the_place_of_the_first_value),
        RIG_CASE(delete_takes_all_values_and_says_how_many),
        RIG_CASE(arguments_may_lie_in_the_list),
        RIG_CASE(status_and_description_are_read),
    };

    return midge_rig_main(argc, argv, cases, sizeof(cases) / sizeof(cases[0]));
}
