/*
 * The grammar of configuration files. Method: a text, and the tree that comes out of it written in
 * one line; or the error with its place. Files are real ones in a folder of their own.
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "conf.h"

struct text {
    char bytes[4096];
    size_t len;
};

static void put(struct text *out, const char *format, ...) MIDGE_PRINTF(2, 3);

static void put(struct text *out, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    const int len = vsnprintf(out->bytes + out->len, sizeof(out->bytes) - out->len, format, args);
    va_end(args);
    cr_assert(len >= 0 && out->len + (size_t)len < sizeof(out->bytes));
    out->len += (size_t)len;
}

static void put_map(struct text *out, const struct midge_conf_map *map);

static void put_value(struct text *out, const struct midge_conf_value *value)
{
    switch (value->kind) {
    case MIDGE_CONF_BOOL:
        put(out, "%s", value->boolean ? "true" : "false");
        break;
    case MIDGE_CONF_INTEGER:
        put(out, "%lld", (long long)value->integer);
        break;
    case MIDGE_CONF_FLOAT:
        put(out, "%gf", value->real);
        break;
    case MIDGE_CONF_STRING:
        put(out, "'%.*s'", (int)value->string.len, (const char *)value->string.base);
        break;
    case MIDGE_CONF_DATE:
        put(out, "@%s", (const char *)value->string.base);
        break;
    case MIDGE_CONF_ARRAY:
        put(out, "[");
        for (uint32_t i = 0; i < value->array->count; i++) {
            put(out, i == 0 ? "" : " ");
            put_value(out, &value->array->values[i]);
        }
        put(out, "]");
        break;
    case MIDGE_CONF_MAP:
        put(out, "{");
        put_map(out, value->map);
        put(out, "}");
        break;
    }
}

static void put_map(struct text *out, const struct midge_conf_map *map)
{
    const char *separator = "";

    for (uint32_t i = 0; i < map->count; i++) {
        if (map->entries[i].shadowed)
            continue;
        put(out, "%s%s%s=", separator, (const char *)map->entries[i].key.base,
            map->entries[i].used ? "*" : "");
        put_value(out, &map->entries[i].value);
        separator = " ";
    }
}

static void expect_slice(struct midge_slice text, const char *expected)
{
    struct midge_conf conf;
    struct text out = {.len = 0};

    midge_conf_init(&conf);
    const enum midge_status status = midge_conf_load_text(&conf, "t", text);
    cr_expect(status == MIDGE_OK, "%s: %s", (const char *)text.base, conf.error);
    put_map(&out, &conf.root);
    cr_expect_str_eq(out.bytes, expected, "%s gives %s, not %s", (const char *)text.base, out.bytes,
                     expected);
    midge_conf_deinit(&conf);
}

static void expect(const char *text, const char *expected)
{
    expect_slice(midge_slice_text(text), expected);
}

/* The error must start with `place` and hold `part`. */
static void expect_error(const char *text, const char *place, const char *part)
{
    struct midge_conf conf;

    midge_conf_init(&conf);
    const enum midge_status status = midge_conf_load_text(&conf, "t", midge_slice_text(text));
    cr_expect_eq(status, MIDGE_E_CONFIG, "%s is taken", text);
    cr_expect(strncmp(conf.error, place, strlen(place)) == 0, "%s: %s, not at %s", text, conf.error,
              place);
    cr_expect(strstr(conf.error, part) != NULL, "%s: %s does not say %s", text, conf.error, part);
    midge_conf_deinit(&conf);
}

Test(conf, separators_are_colon_equals_and_blank)
{
    expect("a: 1\nb = 2\nc 3\nd:4\ne=5\nf :6\n", "a=1 b=2 c=3 d=4 e=5 f=6");
}

Test(conf, pairs_end_with_newline_comma_or_semicolon)
{
    expect("a:1,b:2;c:3 ; d:4 , e:5\r\nf:6", "a=1 b=2 c=3 d=4 e=5 f=6");
    expect_error("a: 1 b: 2", "t:1:6:", "new line");
    expect_error("a: 1,, b: 2", "t:1:6:", "expected a key");
}

Test(conf, comments_run_to_the_end_of_the_line)
{
    expect("# x\n// y\na: 1 # z\nb: 2 // w\n", "a=1 b=2");
    expect("m { # x\n a: 1 // y\n // z\n}\n", "m={a=1}");
    expect("l [ # x\n 1 # y\n # z\n 2 ]\n", "l=[1 2]");
}

Test(conf, hash_inside_a_bare_string_is_part_of_it)
{
    expect("a: x#y\nb: http://h:1/p\n", "a='x#y' b='http://h:1/p'");
}

Test(conf, slash_between_pairs_is_an_error)
{
    expect_error("m { a: 1 / b: 2 }", "t:1:10:", "new line");
}

Test(conf, bools_are_six_words_in_any_case)
{
    expect("a: true, b: YES, c: On, d: False, e: no, f: OFF",
           "a=true b=true c=true d=false e=false "
           "f=false");
    expect("a: \"true\", b: truely, c: 'no'", "a='true' b='truely' c='no'");
}

Test(conf, suffixes_multiply_integers)
{
    expect("a: 2k, b: 2kb, c: 2KiB, d: 2Ki, e: 3m, f: 3MB, g: 1g, h: 1gib",
           "a=2000 b=2048 c=2048 d=2048 e=3000000 f=3145728 g=1000000000 h=1073741824");
    expect("a: 1t, b: 1tb, c: 1p, d: 1pi, e: 1e, f: -2kb",
           "a=1000000000000 b=1099511627776 c=1000000000000000 d=1125899906842624 "
           "e=1000000000000000000 f=-2048");
}

Test(conf, unknown_suffix_or_overflow_is_an_error)
{
    expect_error("a: 1kbb", "t:1:4:", "suffix");
    expect_error("a: 16eb", "t:1:4:", "out of range");
    expect_error("a: 9223372036854775808", "t:1:4:", "out of range");
    expect_error("a: -9223372036854775809", "t:1:4:", "out of range");
}

Test(conf, whole_range_of_integers_is_taken)
{
    expect("a: 9223372036854775807\nb: -9223372036854775808\nc: 007",
           "a=9223372036854775807 b=-9223372036854775808 c=7");
}

Test(conf, words_that_start_with_a_digit_are_strings)
{
    expect("a: 123abc, b: 5s, c: 500ms, d: 1m30s, e: 0x10, f: 1_000, g: 1e5, h: 10b",
           "a='123abc' b='5s' c='500ms' d='1m30s' e='0x10' f='1_000' g='1e5' h='10b'");
    expect("a: 1.2.3.4, b: 127.0.0.1:4222, c: 5m", "a='1.2.3.4' b='127.0.0.1:4222' c=5000000");
}

Test(conf, floats_need_digits_on_both_sides)
{
    expect("a: 1.5, b: -0.25, c: 0.0001", "a=1.5f b=-0.25f c=0.0001f");
    expect_error("a: 1.", "t:1:4:", "digit after the dot");
    expect_error("a: .5", "t:1:4:", "starts with a digit");
    expect_error("a: 1.5k", "t:1:7:", "new line");
    expect_error("a: 1.5s", "t:1:7:", "new line");
    expect_error("a: -x", "t:1:4:", "digit");
}

Test(conf, dates_are_zulu_and_exist)
{
    expect("a: 2016-05-04T18:53:41Z\nb: 2024-02-29T00:00:00Z",
           "a=@2016-05-04T18:53:41Z b=@2024-02-29T00:00:00Z");
    expect_error("a: 2023-02-29T00:00:00Z", "t:1:4:", "date");
    expect_error("a: 2016-13-04T18:53:41Z", "t:1:4:", "date");
    expect_error("a: 2016-05-04", "t:1:4:", "date");
    expect_error("a: 12-34", "t:1:4:", "date");
}

Test(conf, double_quotes_and_bare_words_know_escapes)
{
    expect("a: \"x\\t\\\"\\\\\\x41\\n\"", "a='x\t\"\\A\n'");
    expect("a: x\\x41y", "a='xAy'");
    expect_error("a: \"\\q\"", "t:1:4:", "backslash");
    expect_error("a: \"\\x4\"", "t:1:4:", "backslash");
    expect_error("a: C:\\dir", "t:1:4:", "backslash");
}

Test(conf, escaped_nul_stays_in_the_string)
{
    struct midge_conf conf;

    midge_conf_init(&conf);
    cr_assert_eq(midge_conf_load_text(&conf, "t", midge_slice_text("a: \"x\\x00y\"")), MIDGE_OK);
    cr_expect_eq(conf.root.entries[0].value.string.len, 3);
    midge_conf_deinit(&conf);
}

Test(conf, single_quotes_are_raw)
{
    expect("a: 'x\\t\"y'", "a='x\\t\"y'");
    expect("a: 'two\nlines'\nb: 1", "a='two\nlines' b=1");
}

Test(conf, single_quote_in_a_bare_word_is_an_error)
{
    expect_error("a: don't", "t:1:7:", "quote");
    expect_error("a: x'\n", "t:1:5:", "quote");
}

Test(conf, open_quote_is_reported_where_it_opens)
{
    expect_error("a: 1\nb:  \"x\nc: 2\n", "t:2:5:", "never closed");
    expect_error("a: 'x", "t:1:4:", "never closed");
    expect_error("\"a: 1", "t:1:1:", "never closed");
}

Test(conf, block_keeps_its_lines)
{
    expect("a: (\n x {\n }\n)\nb: 1", "a='\n x {\n }\n' b=1");
    expect("a: (\n)x)\n)", "a='\n)x)\n'");
    expect_error("a: (x)", "t:1:4:", "never closed");
}

Test(conf, keys_may_be_quoted)
{
    expect("\"a b\": 1\n'c:d' 2\n\"\" = 3", "a b=1 c:d=2 =3");
}

Test(conf, value_may_follow_on_a_later_line)
{
    expect("a\n 1\nb\n: 2\nm { c:\n 3\n d\n=\n\n4 }", "a=1 b=2 m={c=3 d=4}");
    expect_error("a:\n1", "t:1:3:", "expected a value");
}

Test(conf, missing_value_is_an_error)
{
    expect_error("a", "t:1:2:", "expected a value");
    expect_error("a:", "t:1:3:", "expected a value");
    expect_error("a: ;", "t:1:4:", "expected a value");
    expect_error("m { a: }", "t:1:8:", "expected a value");
}

Test(conf, whole_file_may_stand_in_braces)
{
    expect("{ a: 1, b: 2 }", "a=1 b=2");
    expect("{\n \"a\": 1,\n \"m\": { \"b\": [true, \"x\"] }\n}\n", "a=1 m={b=[true 'x']}");
    expect("{ { a: 1 }, b: 2 }\nc: 3", "a=1 b=2 c=3");
    expect_error("{ a: 1\n", "t:1:1:", "never closed");
}

Test(conf, one_stray_brace_ends_the_file)
{
    expect("a: 1\n}\n", "a=1");
    expect("a: 1 }\n# end\n", "a=1");
    expect("a: 1 } b: 2", "a=1 b=2");
    expect_error("a: 1\n}\nb: 2", "t:2:1:", "closes nothing");
}

Test(conf, maps_nest_and_may_lack_a_separator)
{
    expect("a { b: { c 1; d = 2 }, e: 3 }", "a={b={c=1 d=2} e=3}");
    expect_error("a { b: 1\n", "t:1:3:", "never closed");
    expect_error("a { ] }", "t:1:5:", "expected a key");
    expect_error("a { : 1 }", "t:1:5:", "expected a key");
}

Test(conf, arrays_are_separated_by_comma_or_newline)
{
    expect("a: [1, 2,3\n4\n\n5,\n6, ]", "a=[1 2 3 4 5 6]");
    expect("a: [1,2], b: [], c: [a,b], d: [/x, {y: 1}, [z]]", "a=[1 2] b=[] c=['a' 'b'] "
                                                              "d=['/x' {y=1} ['z']]");
    expect_error("a: [1 2]", "t:1:7:", "expected ,");
    expect_error("a: [1; 2]", "t:1:6:", "expected ,");
    expect_error("a: [, 1]", "t:1:5:", "unexpected ,");
    expect_error("a: [1", "t:1:4:", "never closed");
}

Test(conf, last_of_equal_keys_wins)
{
    expect("a: 1\nb: 2\na: 3", "b=2 a=3");
    expect("A: 1\na: 2", "A=1 a=2");
}

Test(conf, variable_is_found_in_enclosing_maps)
{
    expect("X: 5\na: $X", "X*=5 a=5");
    expect("X: 5\nm { X: 6, n { a: $X } }", "X=5 m={X*=6 n={a=6}}");
    expect("X: 5\nm { a: $X }\nX: 7", "m={a=5} X=7");
    expect("Y: 1\nX: 5\nX: 6\nZ: 2\na: $X", "Y=1 X*=6 Z=2 a=6");
    expect("X: [1,2]\na: $X\nl: [$X]", "X*=[1 2] a=[1 2] l=[[1 2]]");
}

Test(conf, unknown_variable_is_an_error_that_does_not_name_it)
{
    struct midge_conf conf;

    expect_error("a: $X_IS_NOT_SET\nX_IS_NOT_SET: 1", "t:1:4:", "variable");
    midge_conf_init(&conf);
    cr_expect_eq(midge_conf_load_text(&conf, "t", midge_slice_text("pass: $ecret")),
                 MIDGE_E_CONFIG);
    cr_expect(strstr(conf.error, "ecret") == NULL, "%s", conf.error);
    midge_conf_deinit(&conf);
}

Test(conf, quoted_dollar_is_a_string)
{
    expect("a: \"$X\", b: '$SYS', $SYS: 1", "a='$X' b='$SYS' $SYS=1");
}

Test(conf, bcrypt_hash_needs_no_quotes)
{
    expect("a: $2a$11$ab.cd/ef", "a='$2a$11$ab.cd/ef'");
    expect_error("a: $2b$11$abc", "t:1:4:", "variable");
}

Test(conf, environment_text_is_read_as_a_value)
{
    (void)setenv("CONF_NUMBER", "44k", 1);
    (void)setenv("CONF_LIST", "[a, b]", 1);
    (void)setenv("CONF_EMPTY", "", 1);
    (void)setenv("CONF_OTHER", "$CONF_NUMBER", 1);
    expect("a: $CONF_NUMBER, b: $CONF_LIST, c: $CONF_EMPTY, d: $CONF_OTHER",
           "a=44000 b=['a' 'b'] c='' d=44000");
    (void)setenv("CONF_LOOP", "$CONF_POOL", 1);
    (void)setenv("CONF_POOL", "$CONF_LOOP", 1);
    expect_error("a: $CONF_LOOP", "CONF_POOL:1:", "names itself");
    (void)setenv("CONF_WRONG", "two words", 1);
    expect_error("a: $CONF_WRONG", "CONF_WRONG:1:", "new line");
}

Test(conf, depth_is_bounded)
{
    struct text deep = {.len = 0};

    put(&deep, "a: ");
    for (uint32_t i = 0; i < MIDGE_CONF_DEPTH_MAX + 1; i++)
        put(&deep, "[");
    expect_error(deep.bytes, "t:1:", "deep");
    deep.len = 0;
    for (uint32_t i = 0; i < MIDGE_CONF_DEPTH_MAX + 1; i++)
        put(&deep, "{");
    expect_error(deep.bytes, "t:1:", "deep");
}

Test(conf, number_of_values_is_bounded)
{
    const size_t len = (size_t)MIDGE_CONF_VALUES_MAX * 2 + 8;
    char *text = malloc(len + 1);
    size_t at = 0;

    cr_assert(text != NULL);
    text[at++] = 'a';
    text[at++] = '[';
    text[1] = ' ';
    text[at++] = '[';
    while (at + 2 < len) {
        text[at++] = '1';
        text[at++] = ',';
    }
    text[at] = '\0';
    expect_error(text, "t:1:", "values");
    free(text);
}

Test(conf, nul_byte_is_an_error_and_byte_order_mark_is_not)
{
    struct midge_conf conf;

    midge_conf_init(&conf);
    cr_expect_eq(midge_conf_load_text(&conf, "t", midge_slice_make("a: 1\nb\0: 2", 10)),
                 MIDGE_E_CONFIG);
    cr_expect(strncmp(conf.error, "t:2:2:", 6) == 0, "%s", conf.error);
    midge_conf_deinit(&conf);
    expect("\xef\xbb\xbf"
           "a: 1\n",
           "a=1");
}

Test(conf, no_break_space_is_white_space_before_a_key)
{
    expect("\xc2\xa0"
           "a: 1\n\xe2\x80\x83"
           "b: 2",
           "a=1 b=2");
}

Test(conf, empty_text_is_an_empty_map)
{
    expect("", "");
    expect("\n\n# nothing\n", "");
    expect("{}", "");
}

/* --- Files --- */

static char folder[64];

static void make_folder(void)
{
    (void)snprintf(folder, sizeof(folder), "/tmp/test_conf.XXXXXX");
    cr_assert(mkdtemp(folder) != NULL);
}

static void remove_folder(void)
{
    char command[128];

    (void)snprintf(command, sizeof(command), "rm -rf '%s'", folder);
    cr_expect_eq(system(command), 0);
}

static void write_file(const char *name, const char *text)
{
    char path[256];

    (void)snprintf(path, sizeof(path), "%s/%s", folder, name);
    FILE *file = fopen(path, "we");
    cr_assert(file != NULL);
    (void)fputs(text, file);
    (void)fclose(file);
}

/* expected: the tree, or with `error` a part of the message. */
static void expect_file(const char *name, const char *expected, bool error)
{
    char path[256];
    struct midge_conf conf;
    struct text out = {.len = 0};

    (void)snprintf(path, sizeof(path), "%s/%s", folder, name);
    midge_conf_init(&conf);
    const enum midge_status status = midge_conf_load_file(&conf, path);
    cr_expect_eq(status, error ? MIDGE_E_CONFIG : MIDGE_OK, "%s", conf.error);
    put_map(&out, &conf.root);
    if (error)
        cr_expect(strstr(conf.error, expected) != NULL, "%s", conf.error);
    else
        cr_expect_str_eq(out.bytes, expected);
    midge_conf_deinit(&conf);
}

TestSuite(conf_file, .init = make_folder, .fini = remove_folder);

Test(conf_file, include_is_relative_to_the_including_file)
{
    char path[256];

    (void)snprintf(path, sizeof(path), "%s/sub", folder);
    cr_assert_eq(mkdir(path, 0700), 0);
    write_file("a", "include sub/b\nm { include 'sub/c' }\nINCLUDE \"sub/d\"; y: 1");
    write_file("sub/b", "b: 1\ninclude c");
    write_file("sub/c", "c: 2\n");
    write_file("sub/d", "{ d: 3 }");
    expect_file("a", "b=1 c=2 m={c=2} d=3 y=1", false);
}

Test(conf_file, includer_sees_variables_of_the_included_only)
{
    write_file("a", "include b\nx: $B");
    write_file("b", "B: 5");
    expect_file("a", "B*=5 x=5", false);
    write_file("c", "B: 5\ninclude d");
    write_file("d", "x: $B");
    expect_file("c", "variable", true);
}

Test(conf_file, later_file_wins)
{
    write_file("a", "x: 1\ninclude b\n");
    write_file("b", "x: 2");
    expect_file("a", "x=2", false);
}

Test(conf_file, include_of_itself_is_an_error)
{
    write_file("a", "include b");
    write_file("b", "include a");
    expect_file("a", "includes itself", true);
}

Test(conf_file, place_names_the_included_file)
{
    write_file("a", "x: 1\ninclude b");
    write_file("b", "y: 1\nz: [1 2]");
    expect_file("a", "/b:2:7:", true);
}

Test(conf_file, missing_file_folder_and_bad_include_are_errors)
{
    write_file("a", "include nothing");
    write_file("b", "include 5");
    write_file("c", "include\n x");
    write_file("d", "include ''");
    expect_file("none", "cannot open", true);
    expect_file(".", "folder", true);
    expect_file("a", "nothing", true);
    expect_file("b", "path of a file", true);
    expect_file("c", "path of a file", true);
    expect_file("d", "path of a file", true);
}

Test(conf_file, text_cannot_include)
{
    expect_error("include x", "t:1:8:", "only a file");
}
