/*
 * What a client reads of INFO, and what it writes in CONNECT.
 *
 * Method: each text is an allocation of exactly its length. CONNECT is compared byte by byte, and
 * read back by the broker's side.
 */
#include "midge/greeting.h"

#include "midge/info.h"
#include "midge/limits.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>

#define L MIDGE_SLICE_LITERAL
#define R "\xef\xbf\xbd" /* U+FFFD */

static enum midge_status decode(struct midge_server_facts *facts, struct midge_slice text)
{
    uint8_t *copy = malloc(text.len > 0 ? text.len : 1);
    enum midge_status status;

    cr_assert_not_null(copy);
    memcpy(copy, text.base, text.len);
    status = midge_server_facts_decode(facts, midge_slice_make(copy, text.len));
    free(copy);
    return status;
}

/* Refused, and nothing was written. */
static void expect_refused(struct midge_slice text)
{
    struct midge_server_facts facts = {.max_payload = 77};

    cr_expect_eq(decode(&facts, text), MIDGE_E_ARGS, "%.*s", (int)text.len,
                 (const char *)text.base);
    cr_expect_eq(facts.max_payload, 77);
}

static void expect_accepted(struct midge_slice text)
{
    struct midge_server_facts facts = {0};

    cr_expect_eq(decode(&facts, text), MIDGE_OK, "%.*s", (int)text.len, (const char *)text.base);
    midge_server_facts_deinit(&facts);
}

static void expect_max_payload(struct midge_slice text, uint32_t want)
{
    struct midge_server_facts facts = {0};

    cr_assert_eq(decode(&facts, text), MIDGE_OK, "%.*s", (int)text.len, (const char *)text.base);
    cr_expect_eq(facts.max_payload, want, "%.*s: %u", (int)text.len, (const char *)text.base,
                 facts.max_payload);
    midge_server_facts_deinit(&facts);
}

/* The `version` that an INFO leaves; NULL for none. */
static void expect_version(struct midge_slice text, const char *want)
{
    struct midge_server_facts facts = {0};

    cr_assert_eq(decode(&facts, text), MIDGE_OK, "%.*s", (int)text.len, (const char *)text.base);
    if (want == NULL)
        cr_expect_null(facts.version);
    else
        cr_expect_str_eq(facts.version, want);
    midge_server_facts_deinit(&facts);
}

/* Recorded from nats-server 2.15.2 in a cluster, with names and addresses changed. */
Test(facts, an_info_of_nats_server)
{
    struct midge_server_facts facts = {0};

    cr_assert_eq(
        decode(&facts,
               L("{\"server_id\":\"NDSVR\",\"server_name\":\"one\",\"version\":\"2.15.2\","
                 "\"proto\":1,\"git_commit\":\"6a1e3aa\",\"go\":\"go1.26.2\",\"host\":\"0.0.0.0\","
                 "\"port\":4222,\"headers\":true,\"auth_required\":true,\"tls_required\":true,"
                 "\"tls_available\":true,\"max_payload\":1048576,\"jetstream\":true,"
                 "\"client_id\":18446744073709551615,\"client_ip\":\"192.0.2.7\","
                 "\"nonce\":\"Zx1-_9\",\"cluster\":\"c\",\"domain\":\"d\",\"ldm\":true,"
                 "\"connect_urls\":[\"192.0.2.1:4222\",\"[2001:db8::1]:4223\"],\"xkey\":\"XA\"} ")),
        MIDGE_OK);
    cr_expect_str_eq(facts.server_id, "NDSVR");
    cr_expect_str_eq(facts.server_name, "one");
    cr_expect_str_eq(facts.version, "2.15.2");
    cr_expect_null(facts.midge);
    cr_expect_str_eq(facts.host, "0.0.0.0");
    cr_expect_str_eq(facts.nonce, "Zx1-_9");
    cr_expect_str_eq(facts.cluster, "c");
    cr_expect_str_eq(facts.domain, "d");
    cr_expect_str_eq(facts.client_ip, "192.0.2.7");
    cr_assert_eq(facts.connect_url_count, 2);
    cr_expect_str_eq(facts.connect_urls[0], "192.0.2.1:4222");
    cr_expect_str_eq(facts.connect_urls[1], "[2001:db8::1]:4223");
    cr_expect_eq(facts.max_payload, 1048576);
    cr_expect_eq(facts.client_id, UINT64_MAX);
    cr_expect(facts.headers && facts.auth_required && facts.tls_required && facts.tls_available);
    cr_expect(facts.ldm && facts.jetstream);
    midge_server_facts_deinit(&facts);
    cr_expect_null(facts.server_id);
    cr_expect_eq(facts.connect_url_count, 0);
    midge_server_facts_deinit(&facts);
}

Test(facts, an_info_of_our_broker)
{
    const struct midge_info info = {
        .server_id = "NID",
        .server_name = "name",
        .version = "2.15.2",
        .midge = "0.1.0",
        .host = "127.0.0.1",
        .client_ip = "127.0.0.1",
        .remote_account = "$G",
        .client_id = 6,
        .max_payload = 65536,
        .port = 4222,
        .headers = true,
    };
    struct midge_server_facts facts = {0};
    uint8_t line[1024];
    const uint32_t len = midge_info_encode(line, sizeof(line), &info);

    cr_assert_gt(len, 7);
    cr_assert_eq(decode(&facts, midge_slice_make(line + 5, len - 7)), MIDGE_OK);
    cr_expect_str_eq(facts.server_id, "NID");
    cr_expect_str_eq(facts.midge, "0.1.0");
    cr_expect_eq(facts.client_id, 6);
    cr_expect_eq(facts.max_payload, 65536);
    cr_expect(facts.headers);
    cr_expect_not(facts.auth_required || facts.tls_required || facts.tls_available || facts.ldm);
    cr_expect_null(facts.connect_urls);
    midge_server_facts_deinit(&facts);
}

Test(facts, what_is_absent_has_its_default)
{
    struct midge_server_facts facts;

    memset(&facts, 0xa5, sizeof(facts));
    cr_assert_eq(decode(&facts, L("{}")), MIDGE_OK);
    cr_expect_null(facts.server_id);
    cr_expect_null(facts.nonce);
    cr_expect_null(facts.connect_urls);
    cr_expect_eq(facts.connect_url_count, 0);
    cr_expect_eq(facts.max_payload, MIDGE_PAYLOAD_DEFAULT);
    cr_expect_not(facts.headers);
    midge_server_facts_deinit(&facts);
}

Test(facts, anything_but_one_object_is_refused)
{
    expect_refused(L(""));
    expect_refused(L(" "));
    expect_refused(L("null"));
    expect_refused(L("[]"));
    expect_refused(L("7"));
    expect_refused(L("\"x\""));
    expect_refused(L("{"));
    expect_refused(L("{}}"));
    expect_refused(L("{} {}"));
    expect_refused(L("{\"a\":}"));
    expect_refused(L("{\"a\":1,}"));
    expect_refused(L("{a:1}"));
    expect_refused(L("{\"version\":\"x}"));
    expect_refused(L("{\"version\":\"x\"} \0"));
}

Test(facts, a_known_key_has_its_type)
{
    expect_refused(L("{\"version\":1}"));
    expect_refused(L("{\"version\":{}}"));
    expect_refused(L("{\"headers\":1}"));
    expect_refused(L("{\"headers\":\"true\"}"));
    expect_refused(L("{\"client_id\":\"7\"}"));
    expect_refused(L("{\"client_id\":-1}"));
    expect_refused(L("{\"client_id\":1.5}"));
    expect_refused(L("{\"client_id\":1e3}"));
    expect_refused(L("{\"max_payload\":true}"));
    expect_refused(L("{\"max_payload\":-1}"));
    expect_refused(L("{\"connect_urls\":\"a:1\"}"));
    expect_refused(L("{\"connect_urls\":{}}"));
    expect_refused(L("{\"connect_urls\":[1]}"));
    expect_refused(L("{\"connect_urls\":[\"a:1\",null]}"));
    /* Strings that were read before are not lost, which LeakSanitizer would see. */
    expect_refused(L("{\"server_id\":\"x\",\"connect_urls\":[\"a:1\"],\"headers\":0}"));
}

Test(facts, unknown_keys_and_null_are_passed_over)
{
    expect_accepted(L("{\"x\":{\"version\":1},\"y\":[[]],\"z\":-1.5e3}"));
    expect_version(L("{\"version\":null}"), NULL);
    expect_version(L("{\"version\":\"a\",\"version\":null}"), "a");
    expect_accepted(L("{\"connect_urls\":null,\"headers\":null,\"max_payload\":null}"));
}

Test(facts, keys_may_have_any_case_and_the_last_one_wins)
{
    expect_version(L("{\"Version\":\"a\"}"), "a");
    expect_version(L("{\"version\":\"a\",\"VERSION\":\"b\"}"), "b");
    expect_version(L("{\"version \":\"a\"}"), NULL);
    expect_max_payload(L("{\"max_payload\":1,\"MAX_payload\":2}"), 2);
}

Test(facts, strings_are_decoded_and_end_at_no_nul)
{
    expect_version(L("{\"version\":\"\"}"), "");
    expect_version(L("{\"version\":\"a\\\"\\\\\\/\\b\\f\\n\\r\\t\\u00e9\"}"),
                   "a\"\\/\b\f\n\r\t\xc3\xa9");
    expect_version(L("{\"version\":\"a\\u0000b\"}"), "a" R "b");
    expect_version(L("{\"version\":\"\xff\"}"), R);
}

Test(facts, a_number_too_large_becomes_the_largest)
{
    expect_max_payload(L("{\"max_payload\":0}"), 0);
    expect_max_payload(L("{\"max_payload\":999999999}"), MIDGE_PAYLOAD_MAX);
    expect_max_payload(L("{\"max_payload\":1000000000}"), MIDGE_PAYLOAD_MAX);
    expect_max_payload(L("{\"max_payload\":4294967297}"), MIDGE_PAYLOAD_MAX);
    expect_max_payload(L("{\"max_payload\":18446744073709551617}"), MIDGE_PAYLOAD_MAX);
    expect_max_payload(L("{\"max_payload\":99999999999999999999999999999999}"), MIDGE_PAYLOAD_MAX);
}

/* An INFO with URLs from "h:0" on. @return owned */
static char *info_with_urls(uint32_t count)
{
    char *text = NULL;
    size_t len = 0;
    FILE *out = open_memstream(&text, &len);

    cr_assert_not_null(out);
    (void)fputs("{\"connect_urls\":[", out);
    for (uint32_t i = 0; i < count; i++)
        (void)fprintf(out, "%s\"h:%u\"", i == 0 ? "" : ",", i);
    (void)fputs("]}", out);
    (void)fclose(out);
    return text;
}

Test(facts, urls_beyond_the_limit_are_left_out)
{
    struct midge_server_facts facts = {0};
    char *text = info_with_urls(MIDGE_CONNECT_URLS_MAX + 2);

    cr_assert_eq(decode(&facts, midge_slice_text(text)), MIDGE_OK);
    cr_expect_eq(facts.connect_url_count, MIDGE_CONNECT_URLS_MAX);
    cr_expect_str_eq(facts.connect_urls[0], "h:0");
    cr_expect_str_eq(facts.connect_urls[MIDGE_CONNECT_URLS_MAX - 1], "h:1023");
    midge_server_facts_deinit(&facts);
    free(text);
}

Test(facts, a_repeated_list_of_urls_replaces_the_first)
{
    struct midge_server_facts facts = {0};

    cr_assert_eq(
        decode(&facts, L("{\"connect_urls\":[\"a:1\",\"b:2\"],\"connect_urls\":[\"c:3\"]}")),
        MIDGE_OK);
    cr_assert_eq(facts.connect_url_count, 1);
    cr_expect_str_eq(facts.connect_urls[0], "c:3");
    midge_server_facts_deinit(&facts);
}

/* --- CONNECT --- */

static void expect_connect(const struct midge_connect_options *options, const char *want)
{
    const uint32_t len = midge_connect_encode_len(options);
    uint8_t *out = malloc(len);

    cr_assert_not_null(out);
    cr_assert_eq(len, strlen(want), "%u, not %zu of %s", len, strlen(want), want);
    cr_assert_eq(midge_connect_encode(out, options), out + len);
    cr_expect_arr_eq(out, want, len, "got %.*s", (int)len, (const char *)out);
    free(out);
}

Test(connect_line, the_shortest)
{
    const struct midge_connect_options options = {0};

    expect_connect(&options,
                   "CONNECT {\"verbose\":false,\"pedantic\":false,\"tls_required\":false,"
                   "\"protocol\":0,\"echo\":false,\"headers\":false,\"no_responders\":false}\r\n");
}

Test(connect_line, everything_that_can_be_said)
{
    const struct midge_connect_options options = {
        .user = "u",
        .pass = "p",
        .auth_token = "t",
        .jwt = "j.w.t",
        .nkey = "UA",
        .sig = "-_",
        .name = "n",
        .lang = "midge",
        .version = "0.1.0",
        .protocol = 1,
        .verbose = true,
        .pedantic = true,
        .tls_required = true,
        .echo = true,
        .headers = true,
        .no_responders = true,
    };

    expect_connect(&options, "CONNECT {\"verbose\":true,\"pedantic\":true,\"tls_required\":true,"
                             "\"user\":\"u\",\"pass\":\"p\",\"auth_token\":\"t\",\"jwt\":\"j.w.t\","
                             "\"nkey\":\"UA\",\"sig\":\"-_\",\"name\":\"n\",\"lang\":\"midge\","
                             "\"version\":\"0.1.0\",\"protocol\":1,\"echo\":true,\"headers\":true,"
                             "\"no_responders\":true}\r\n");
}

/* Nothing in a string can end the line, or the object. */
Test(connect_line, strings_are_escaped)
{
    const struct midge_connect_options options = {.name = "\"}\r\nPUB a 0\r\n\\\x01\x7f\xff" R};

    expect_connect(&options,
                   "CONNECT {\"verbose\":false,\"pedantic\":false,\"tls_required\":false,"
                   "\"name\":\"\\\"}\\r\\nPUB a 0\\r\\n\\\\\\u0001\x7f\\ufffd\\ufffd\","
                   "\"protocol\":0,\"echo\":false,\"headers\":false,\"no_responders\":false}\r\n");
}

Test(connect_line, the_broker_reads_what_was_written)
{
    const struct midge_connect_options options = {
        .user = "\xc3\xa9\"",
        .pass = "p\\<&>",
        .name = "\t",
        .protocol = 1,
        .headers = true,
        .no_responders = true,
    };
    const uint32_t len = midge_connect_encode_len(&options);
    uint8_t *line = malloc(len);
    struct midge_connect connect;

    cr_assert_not_null(line);
    (void)midge_connect_encode(line, &options);
    midge_connect_init(&connect);
    cr_assert_eq(midge_connect_merge(&connect, midge_slice_make(line + 8, len - 10)), MIDGE_OK);
    cr_expect_str_eq(connect.user, "\xc3\xa9\"");
    cr_expect_str_eq(connect.pass, "p\\<&>");
    cr_expect_str_eq(connect.name, "\t");
    cr_expect_eq(connect.protocol, 1);
    cr_expect(connect.headers && connect.no_responders);
    cr_expect_not(connect.verbose || connect.pedantic || connect.echo);
    midge_connect_deinit(&connect);
    free(line);
}
