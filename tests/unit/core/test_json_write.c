/*
 * JSON from the front. Method: each text is written into every room from none to enough; the length
 * is always that of the whole, and only what fitted was written.
 */
#include "midge/json_write.h"

#include <criterion/criterion.h>
#include <stdlib.h>

#define L MIDGE_SLICE_LITERAL

static void expect_json(void (*write)(struct midge_json_writer *writer), struct midge_slice want)
{
    for (uint32_t cap = 0; cap <= want.len + 1; cap++) {
        uint8_t *out = malloc(cap > 0 ? cap : 1); /* AddressSanitizer sees a byte too many */
        struct midge_json_writer writer = {.out = cap > 0 ? out : NULL, .cap = cap};

        cr_assert_not_null(out);
        write(&writer);
        cr_expect_eq(writer.len, want.len, "%u of %.*s: %llu", cap, (int)want.len,
                     (const char *)want.base, (unsigned long long)writer.len);
        cr_expect_eq(midge_json_fits(&writer), cap >= want.len);
        if (cap >= want.len)
            cr_expect_arr_eq(out, want.base, want.len, "got %.*s", (int)writer.len, out);
        free(out);
    }
}

static void write_nothing(struct midge_json_writer *writer)
{
    midge_json_put_raw(writer, L(""));
}

Test(json_write, nothing)
{
    expect_json(write_nothing, L(""));
}

static void write_nested(struct midge_json_writer *writer)
{
    midge_json_begin(writer, '{');
    midge_json_put_key(writer, "a");
    midge_json_put_number(writer, 1);
    midge_json_put_key(writer, "b");
    midge_json_begin(writer, '[');
    midge_json_end(writer, ']');
    midge_json_put_key(writer, "c");
    midge_json_begin(writer, '[');
    midge_json_put_flag(writer, true);
    midge_json_put_flag(writer, false);
    midge_json_begin(writer, '{');
    midge_json_end(writer, '}');
    midge_json_begin(writer, '{');
    midge_json_end(writer, '}');
    midge_json_put_string(writer, L(""));
    midge_json_put_string(writer, L("x"));
    midge_json_end(writer, ']');
    midge_json_end(writer, '}');
}

Test(json_write, commas_come_by_themselves)
{
    expect_json(write_nested, L("{\"a\":1,\"b\":[],\"c\":[true,false,{},{},\"\",\"x\"]}"));
}

/* A string may end in what would need no comma if it stood outside of one. */
static void write_endings(struct midge_json_writer *writer)
{
    midge_json_begin(writer, '[');
    midge_json_put_string(writer, L("{"));
    midge_json_put_string(writer, L("["));
    midge_json_put_string(writer, L(":"));
    midge_json_put_string(writer, L("x"));
    midge_json_end(writer, ']');
}

Test(json_write, a_string_ends_with_its_quote)
{
    expect_json(write_endings, L("[\"{\",\"[\",\":\",\"x\"]"));
}

static void write_numbers(struct midge_json_writer *writer)
{
    midge_json_begin(writer, '[');
    midge_json_put_number(writer, 0);
    midge_json_put_number(writer, UINT64_MAX);
    midge_json_end(writer, ']');
}

Test(json_write, numbers_have_64_bits)
{
    expect_json(write_numbers, L("[0,18446744073709551615]"));
}

static void write_escapes(struct midge_json_writer *writer)
{
    midge_json_put_string(writer, L("a\"b\\c<d>e&f\b\f\n\r\t\0\x01\x1f\x7f/\xc3\xa9\xf0\x9f\x98\x80"
                                    "\xe2\x80\xa8\xe2\x80\xa9\xff\xef\xbf\xbd\xe2\x82"));
}

/* Source: Go 1.26 encoding/json, with its default of escaping HTML. */
Test(json_write, strings_are_escaped_as_go_does)
{
    expect_json(write_escapes,
                L("\"a\\\"b\\\\c\\u003cd\\u003ee\\u0026f\\b\\f\\n\\r\\t\\u0000\\u0001\\u001f\x7f/"
                  "\xc3\xa9\xf0\x9f\x98\x80\\u2028\\u2029\\ufffd\\ufffd\\ufffd\\ufffd\""));
}

static void write_key(struct midge_json_writer *writer)
{
    midge_json_begin(writer, '{');
    midge_json_put_key(writer, "a\"");
    midge_json_put_raw(writer, L("null"));
    midge_json_put_key(writer, "b");
    midge_json_put_raw(writer, L("[1]"));
    midge_json_end(writer, '}');
}

Test(json_write, raw_bytes_stand_as_they_are)
{
    expect_json(write_key, L("{\"a\\\"\":null,\"b\":[1]}"));
}

/* What did not fit is not written in part, and what comes behind it is left out, too. */
Test(json_write, nothing_is_written_behind_what_did_not_fit)
{
    uint8_t out[8] = "--------";
    struct midge_json_writer writer = {.out = out, .cap = 4};

    midge_json_put_raw(&writer, L("abc"));
    midge_json_put_raw(&writer, L("de"));
    midge_json_put_raw(&writer, L("f"));
    cr_expect_eq(writer.len, 6);
    cr_expect_arr_eq(out, "abc-----", 8);
}
