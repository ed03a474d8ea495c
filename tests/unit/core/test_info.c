/*
 * INFO as nats-server writes it, CONNECT as nats-server reads it.
 *
 * Method: INFO is compared byte by byte. For CONNECT each test merges one text and looks at the
 * options; what is accepted and what closes was observed on nats-server 2.15.2. Every text is an
 * allocation of exactly its length.
 */
#include "midge/info.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>

static const struct midge_info plain_info = {
    .server_id = "NID",
    .server_name = "name",
    .version = "2.15.2",
    .midge = "0.1.0",
    .host = "127.0.0.1",
    .client_ip = "127.0.0.1",
    .remote_account = "$G",
    .client_id = 6,
    .max_payload = 1048576,
    .port = 4222,
    .headers = true,
};

static void expect_info(const struct midge_info *info, const char *want)
{
    const uint32_t len = (uint32_t)strlen(want);
    uint8_t *out = malloc(len);

    cr_assert_not_null(out);
    cr_expect_eq(midge_info_encode(out, len, info), len, "%s", want);
    cr_expect_arr_eq(out, want, len, "got %.*s", (int)len, (const char *)out);
    for (uint32_t cap = 0; cap < len; cap++) {
        uint8_t *small = malloc(cap > 0 ? cap : 1);

        cr_assert_not_null(small);
        cr_expect_eq(midge_info_encode(small, cap, info), 0, "%u", cap);
        free(small);
    }
    free(out);
}

Test(info, keys_are_in_the_order_of_nats_server)
{
    expect_info(&plain_info,
                "INFO {\"server_id\":\"NID\",\"server_name\":\"name\",\"version\":\"2.15.2\","
                "\"proto\":1,\"go\":\"c17\",\"host\":\"127.0.0.1\",\"port\":4222,\"headers\":true,"
                "\"max_payload\":1048576,\"client_id\":6,\"client_ip\":\"127.0.0.1\","
                "\"midge\":\"0.1.0\"} \r\n");
}

Test(info, the_info_after_the_first_pong_has_more_keys)
{
    struct midge_info info = plain_info;

    info.connect_info = true;
    info.auth_required = true;
    info.headers = false;
    expect_info(&info,
                "INFO {\"server_id\":\"NID\",\"server_name\":\"name\",\"version\":\"2.15.2\","
                "\"proto\":1,\"go\":\"c17\",\"host\":\"127.0.0.1\",\"port\":4222,\"headers\":false,"
                "\"auth_required\":true,\"max_payload\":1048576,\"client_id\":6,"
                "\"client_ip\":\"127.0.0.1\",\"connect_info\":true,\"remote_account\":\"$G\","
                "\"midge\":\"0.1.0\"} \r\n");
}

Test(info, a_unix_socket_has_no_client_ip)
{
    struct midge_info info = plain_info;

    info.client_ip = "";
    info.client_id = UINT64_MAX;
    expect_info(&info,
                "INFO {\"server_id\":\"NID\",\"server_name\":\"name\",\"version\":\"2.15.2\","
                "\"proto\":1,\"go\":\"c17\",\"host\":\"127.0.0.1\",\"port\":4222,\"headers\":true,"
                "\"max_payload\":1048576,\"client_id\":18446744073709551615,"
                "\"midge\":\"0.1.0\"} \r\n");
}

Test(info, strings_are_escaped_as_go_does)
{
    struct midge_info info = plain_info;

    info.server_name = "a\"b\\c<d>e&f\b\f\n\r\t\x01\x1f\x7f/\xc3\xa9\xe2\x80\xa8\xe2\x80\xa9\xff";
    expect_info(&info,
                "INFO {\"server_id\":\"NID\",\"server_name\":\"a\\\"b\\\\c\\u003cd\\u003ee\\u0026f"
                "\\b\\f\\n\\r\\t\\u0001\\u001f\x7f/\xc3\xa9\\u2028\\u2029\\ufffd\","
                "\"version\":\"2.15.2\","
                "\"proto\":1,\"go\":\"c17\",\"host\":\"127.0.0.1\",\"port\":4222,\"headers\":true,"
                "\"max_payload\":1048576,\"client_id\":6,\"client_ip\":\"127.0.0.1\","
                "\"midge\":\"0.1.0\"} \r\n");
}

/* Merge a text that has exactly its own length. */
static enum midge_status merge(struct midge_connect *connect, struct midge_slice text)
{
    uint8_t *copy = malloc(text.len > 0 ? text.len : 1);
    enum midge_status status;

    cr_assert_not_null(copy);
    memcpy(copy, text.base, text.len);
    status = midge_connect_merge(connect, midge_slice_make(copy, text.len));
    free(copy);
    return status;
}

static void expect_refused(struct midge_slice text)
{
    struct midge_connect connect;

    midge_connect_init(&connect);
    cr_assert_eq(merge(&connect, MIDGE_SLICE_LITERAL("{\"user\":\"u\",\"headers\":true}")),
                 MIDGE_OK);
    cr_expect_eq(merge(&connect, text), MIDGE_E_ARGS, "%.*s", (int)text.len,
                 (const char *)text.base);
    cr_expect_str_eq(connect.user, "u");
    cr_expect_null(connect.name);
    cr_expect(connect.headers);
    cr_expect(connect.verbose);
    cr_expect_eq(connect.protocol, 0);
    midge_connect_deinit(&connect);
}

static void expect_accepted(struct midge_slice text)
{
    struct midge_connect connect;

    midge_connect_init(&connect);
    cr_expect_eq(merge(&connect, text), MIDGE_OK, "%.*s", (int)text.len, (const char *)text.base);
    midge_connect_deinit(&connect);
}

/* The name that a CONNECT leaves; NULL for none. */
static void expect_name(struct midge_slice text, const char *want)
{
    struct midge_connect connect;

    midge_connect_init(&connect);
    cr_assert_eq(merge(&connect, text), MIDGE_OK, "%.*s", (int)text.len, (const char *)text.base);
    if (want == NULL)
        cr_expect_null(connect.name);
    else
        cr_expect_str_eq(connect.name, want);
    midge_connect_deinit(&connect);
}

static void expect_verbose(struct midge_slice text, bool want)
{
    struct midge_connect connect;

    midge_connect_init(&connect);
    cr_assert_eq(merge(&connect, text), MIDGE_OK, "%.*s", (int)text.len, (const char *)text.base);
    cr_expect_eq(connect.verbose, want, "%.*s", (int)text.len, (const char *)text.base);
    midge_connect_deinit(&connect);
}

static void expect_account(struct midge_slice text, bool want)
{
    struct midge_connect connect;

    midge_connect_init(&connect);
    cr_assert_eq(merge(&connect, text), MIDGE_OK, "%.*s", (int)text.len, (const char *)text.base);
    cr_expect_eq(connect.account_given, want, "%.*s", (int)text.len, (const char *)text.base);
    midge_connect_deinit(&connect);
}

static void expect_protocol(struct midge_slice text, int32_t want)
{
    struct midge_connect connect;

    midge_connect_init(&connect);
    cr_assert_eq(merge(&connect, text), MIDGE_OK, "%.*s", (int)text.len, (const char *)text.base);
    cr_expect_eq(connect.protocol, want, "%.*s", (int)text.len, (const char *)text.base);
    midge_connect_deinit(&connect);
}

#define L MIDGE_SLICE_LITERAL

Test(connect, defaults_are_verbose_pedantic_echo)
{
    struct midge_connect connect;

    midge_connect_init(&connect);
    cr_expect(connect.verbose && connect.pedantic && connect.echo);
    cr_expect_not(connect.headers || connect.no_responders || connect.account_given);
    cr_expect_eq(connect.protocol, 0);
    cr_expect_null(connect.user);
    midge_connect_deinit(&connect);
}

Test(connect, every_field_is_taken)
{
    struct midge_connect connect;

    midge_connect_init(&connect);
    cr_assert_eq(merge(&connect, L("{\"verbose\":false,\"pedantic\":false,\"echo\":false,"
                                   "\"headers\":true,\"no_responders\":true,\"protocol\":1,"
                                   "\"user\":\"a\",\"pass\":\"b\",\"auth_token\":\"c\",\"name\":"
                                   "\"d\",\"lang\":\"e\",\"version\":\"f\",\"tls_required\":true,"
                                   "\"nkey\":\"\",\"jwt\":\"x\",\"sig\":\"x\"}")),
                 MIDGE_OK);
    cr_expect_not(connect.verbose || connect.pedantic || connect.echo);
    cr_expect(connect.headers && connect.no_responders);
    cr_expect_eq(connect.protocol, 1);
    cr_expect_str_eq(connect.user, "a");
    cr_expect_str_eq(connect.pass, "b");
    cr_expect_str_eq(connect.auth_token, "c");
    cr_expect_str_eq(connect.name, "d");
    cr_expect_str_eq(connect.lang, "e");
    cr_expect_str_eq(connect.version, "f");
    midge_connect_deinit(&connect);
    cr_expect_null(connect.pass);
}

Test(connect, a_second_connect_keeps_what_it_does_not_name)
{
    struct midge_connect connect;

    midge_connect_init(&connect);
    cr_assert_eq(merge(&connect, L("{\"auth_token\":\"t\",\"verbose\":false,\"name\":\"n\"}")),
                 MIDGE_OK);
    cr_assert_eq(merge(&connect, L("{}")), MIDGE_OK);
    cr_assert_eq(merge(&connect, L("null")), MIDGE_OK);
    cr_assert_eq(merge(&connect, L("{\"auth_token\":null,\"name\":\"m\"}")), MIDGE_OK);
    cr_expect_str_eq(connect.auth_token, "t");
    cr_expect_str_eq(connect.name, "m");
    cr_expect_not(connect.verbose);
    cr_assert_eq(merge(&connect, L("{\"name\":\"\"}")), MIDGE_OK);
    cr_expect_null(connect.name);
    midge_connect_deinit(&connect);
}

Test(connect, bytes_are_those_of_the_strings_that_are_kept)
{
    struct midge_connect connect;
    uint64_t bytes;

    midge_connect_init(&connect);
    cr_expect_eq(midge_connect_bytes(&connect), 0);
    cr_assert_eq(merge(&connect, L("{\"name\":\"1234567890\",\"protocol\":1}")), MIDGE_OK);
    bytes = midge_connect_bytes(&connect);
    cr_expect_geq(bytes, 11);
    cr_assert_eq(merge(&connect, L("{\"pass\":\"1234567890\",\"jwt\":\"not kept\"}")), MIDGE_OK);
    cr_expect_eq(midge_connect_bytes(&connect), 2 * bytes);
    cr_assert_eq(merge(&connect, L("{\"name\":\"\",\"pass\":\"\\ud800234567\"}")), MIDGE_OK);
    cr_expect_eq(midge_connect_bytes(&connect), bytes - 1);
    midge_connect_deinit(&connect);
    cr_expect_eq(midge_connect_bytes(&connect), 0);
}

Test(connect, keys_are_matched_in_any_case)
{
    expect_verbose(L("{\"VERBOSE\":false}"), false);
    expect_verbose(L("{\"vErBoSe\":false}"), false);
    expect_verbose(L("{\"verbo\\u0073e\":false}"), false);
    expect_verbose(L("{\"verbo\xc5\xbf"
                     "e\":false}"),
                   false);
    expect_verbose(L("{\"verbos\":false}"), true);
    expect_verbose(L("{\"verbosee\":false}"), true);
    expect_verbose(L("{\"verbose\\u0000\":false}"), true);
    expect_verbose(L("{\"\":false}"), true);
}

Test(connect, the_later_of_two_keys_wins)
{
    expect_verbose(L("{\"verbose\":true,\"verbose\":false}"), false);
    expect_verbose(L("{\"verbose\":false,\"VERBOSE\":true,\"verbose\":false}"), false);
    expect_verbose(L("{\"verbose\":false,\"VERBOSE\":true}"), true);
    expect_verbose(L("{\"verbose\":false,\"verbose\":null}"), false);
    expect_name(L("{\"name\":\"a\",\"Name\":\"b\",\"name\":null}"), "b");
    expect_name(L("{\"name\":\"a\",\"name\":\"\"}"), NULL);
}

Test(connect, unknown_keys_are_ignored_whatever_they_hold)
{
    expect_verbose(L("{\"x\":{\"verbose\":false},\"y\":[\"verbose\",{\"verbose\":false}]}"), true);
    expect_accepted(L("{\"x\":99999999999999999999,\"y\":1e999,\"z\":\"\\ud800\"}"));
    expect_accepted(L(" {\"x\" : [ ] , \"y\"\t:{ }\r,\"z\":[1 ,-0.5e+2 , null,true , false]\n} "));
    expect_verbose(L("{\"x\":\"\\\\\",\"verbose\":false}"), false);
    expect_verbose(L("{\"x\":\"}]\\\"\",\"verbose\":false}"), false);
}

Test(connect, a_wrong_type_is_refused)
{
    static const char *const texts[] = {
        "{\"verbose\":\"x\"}",
        "{\"verbose\":0}",
        "{\"verbose\":[]}",
        "{\"verbose\":\"x\",\"verbose\":false}",
        "{\"name\":\"changed\",\"echo\":1}",
        "{\"user\":1}",
        "{\"user\":{}}",
        "{\"name\":true}",
        "{\"protocol\":\"1\"}",
        "{\"protocol\":true}",
        "{\"protocol\":1.0}",
        "{\"protocol\":1e0}",
        "{\"protocol\":99999999999999999999}",
        "{\"protocol\":9223372036854775808}",
        "{\"protocol\":-9223372036854775809}",
        "{\"tls_required\":\"a\"}",
        "{\"nkey\":1}",
        "{\"jwt\":1}",
        "{\"sig\":1}",
        "{\"proxy_sig\":1}",
        "{\"remote_account\":1}",
        "{\"account\":1}",
        "{\"new_account\":\"\"}",
        "{\"import\":5}",
        "{\"import\":[]}",
        "{\"export\":{\"allow\":5}}",
        "{\"export\":{\"DENY\":[\"a\",5]}}",
    };

    for (uint32_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
        expect_refused(midge_slice_text(texts[i]));
    expect_accepted(
        L("{\"import\":{\"allow\":[\"a\",null],\"deny\":null,\"x\":5},\"export\":null}"));
}

Test(connect, what_is_not_one_json_object_is_refused)
{
    static const char *const texts[] = {
        "",
        " ",
        "{",
        "}",
        "[]",
        "5",
        "\"a\"",
        "true",
        "nul",
        "{} x",
        "{}{}",
        "{]",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\":1,}",
        "{,}",
        "{\"a\":01}",
        "{\"a\":1.}",
        "{\"a\":.5}",
        "{\"a\":-}",
        "{\"a\":1e}",
        "{\"a\":+1}",
        "{\"a\":1e+}",
        "{\"a\":nul}",
        "{\"a\":tru}",
        "{a:1}",
        "{'a':1}",
        "{\"a\" 1}",
        "{\"a\":1 \"b\":2}",
        "{\"a\":[1,]}",
        "{\"a\":[1 2]}",
        "{\"a\":[}",
        "{\"a\":\"\\x\"}",
        "{\"a\":\"\\u12g4\"}",
        "{\"a\":\"\\u12\"}",
        "{\"a\":\"\\",
        "{\"a\":\"",
        "{\"a\":\"\x01\"}",
        "{\"a\":\"\n\"}",
        "\xef\xbb\xbf{}",
        "{\"a\":1}//",
        "\x0b{}",
        "{\"a\":NaN}",
        "{1:1}",
    };

    for (uint32_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
        expect_refused(midge_slice_text(texts[i]));
    expect_refused(L("\0{}"));
    expect_refused(L("{}\0"));
}

Test(connect, strings_are_decoded)
{
    expect_name(L("{\"name\":\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"}"), "\"\\/\b\f\n\r\t");
    expect_name(L("{\"name\":\"\\u00e9\\u20AC\\ud83d\\ude00\"}"),
                "\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80");
    expect_name(L("{\"name\":\"\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\"}"),
                "\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80");
}

#define R "\xef\xbf\xbd"

Test(connect, what_is_no_character_becomes_the_replacement_character)
{
    expect_name(L("{\"name\":\"a\xff\xfe"
                  "b\"}"),
                "a" R R "b");
    expect_name(L("{\"name\":\"\xc3\"}"), R);
    expect_name(L("{\"name\":\"\xc0\xaf\"}"), R R);             /* overlong */
    expect_name(L("{\"name\":\"\xe0\x80\xaf\"}"), R R R);       /* overlong */
    expect_name(L("{\"name\":\"\xed\xa0\x80\"}"), R R R);       /* surrogate */
    expect_name(L("{\"name\":\"\xf4\x90\x80\x80\"}"), R R R R); /* over U+10FFFF */
    expect_name(L("{\"name\":\"\xf0\x8f\xbf\xbf\"}"), R R R R); /* overlong */
    expect_name(L("{\"name\":\"\xe2\x82"
                  "a\"}"),
                R R "a");
    expect_name(L("{\"name\":\"\\ud800\"}"), R);
    expect_name(L("{\"name\":\"\\udc00\\ud800x\"}"), R R "x");
    expect_name(L("{\"name\":\"\\ud83d\\u0041\"}"), R "A");
    expect_name(L("{\"name\":\"\\ud83d\\ud83d\\ude00\"}"), R "\xf0\x9f\x98\x80");
    expect_name(L("{\"name\":\"\\ud83d\\n\"}"), R "\n");
}

/* Cut at the NUL, "secret NUL anything" would pass for "secret". */
Test(connect, nul_in_a_string_does_not_end_it)
{
    expect_name(L("{\"name\":\"a\\u0000b\"}"), "a" R "b");
}

Test(connect, protocol_is_an_integer_of_64_bits)
{
    expect_protocol(L("{\"protocol\":1}"), 1);
    expect_protocol(L("{\"protocol\":-0}"), 0);
    expect_protocol(L("{\"protocol\":-1}"), -1);
    expect_protocol(L("{\"protocol\":9}"), 9);
    expect_protocol(L("{\"protocol\":2147483647}"), INT32_MAX);
    expect_protocol(L("{\"protocol\":4294967296}"), INT32_MAX);
    expect_protocol(L("{\"protocol\":9223372036854775807}"), INT32_MAX);
    expect_protocol(L("{\"protocol\":-9223372036854775808}"), -INT32_MAX);
}

Test(connect, an_account_counts_if_it_is_not_empty)
{
    expect_account(L("{\"account\":\"x\"}"), true);
    expect_account(L("{\"new_account\":true}"), true);
    expect_account(L("{\"account\":\"\"}"), false);
    expect_account(L("{\"account\":null}"), false);
    expect_account(L("{\"new_account\":false}"), false);
    expect_account(L("{\"account\":\"x\",\"account\":\"\"}"), false);
    expect_account(L("{\"new_account\":true,\"account\":\"\"}"), true);
}

/* Source: Go encoding/json, scanner.go maxNestingDepth. */
Test(connect, nesting_is_limited_to_10000_levels)
{
    const uint32_t depth = 10000 - 1; /* the outer object is a level too */
    const uint32_t len = 5 + 2 * depth + 1;
    char *text = malloc(len + 2);

    cr_assert_not_null(text);
    memcpy(text, "{\"x\":", 5);
    memset(text + 5, '[', depth);
    memset(text + 5 + depth, ']', depth);
    text[len - 1] = '}';
    expect_accepted(midge_slice_make(text, len));
    memset(text + 5, '[', depth + 1);
    memset(text + 5 + depth + 1, ']', depth + 1);
    text[len + 1] = '}';
    expect_refused(midge_slice_make(text, len + 2));
    free(text);
}

Test(info, a_clients_info_is_an_object_or_null)
{
    cr_expect(midge_info_is_object(L("{}")));
    cr_expect(midge_info_is_object(L(" {\"a\":[1,{}]}\t")));
    cr_expect(midge_info_is_object(L("null")));
    cr_expect_not(midge_info_is_object(L("[]")));
    cr_expect_not(midge_info_is_object(L("")));
    cr_expect_not(midge_info_is_object(L("{}x")));
    cr_expect_not(midge_info_is_object(L("5")));
}

static void expect_shown(const char *json, const char *wanted)
{
    uint8_t out[256];
    const uint32_t len = midge_connect_redact(out, sizeof(out), midge_slice_text(json));

    cr_expect(midge_slice_equal(midge_slice_make(out, len), midge_slice_text(wanted)),
              "%s is shown as %.*s", json, (int)len, (const char *)out);
}

Test(connect, redacted_shows_all_but_the_values_of_secrets)
{
    expect_shown("{\"user\":\"u\",\"pass\":\"p\",\"echo\":true}",
                 "{\"user\":\"u\",\"pass\":\"[REDACTED]\",\"echo\":true}");
    expect_shown(" { \"Pass\" : \"a\\\"b\" , \"jwt\":\"\" } ",
                 " { \"Pass\" : \"[REDACTED]\" , \"jwt\":\"[REDACTED]\" } ");
    expect_shown("{\"p\\u0061ss\"\r:\r\"p\"}", "{\"p\\u0061ss\"\r:\r\"[REDACTED]\"}");
    expect_shown("{\"sig\":[\"s\"],\"nkey\":{\"a\":1},\"auth_token\":7}",
                 "{\"sig\":[REDACTED],\"nkey\":[REDACTED],\"auth_token\":[REDACTED]}");
    expect_shown("{}", "{}");
}

Test(connect, redacted_shows_nothing_of_what_is_no_object)
{
    expect_shown("", "(not a JSON object)");
    expect_shown("{\"pass\":\"p", "(not a JSON object)");
    expect_shown("{\"pass\":p}", "(not a JSON object)");
    expect_shown("\"p\"", "(not a JSON object)");
}

Test(connect, redacted_is_cut_where_there_is_no_room)
{
    const struct midge_slice json = L("{\"user\":\"u\",\"pass\":\"p\"}");
    uint8_t out[40];

    for (uint32_t cap = 0; cap < sizeof(out); cap++) {
        const uint32_t len = midge_connect_redact(out, cap, json);

        cr_expect_leq(len, cap);
        cr_expect_eq(memcmp(out, "{\"user\":\"u\",\"pass\":\"[REDACTED]\"}", len), 0);
    }
}
