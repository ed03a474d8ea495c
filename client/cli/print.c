/* Messages for people, for programs and for pipes. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <jansson.h>

#include "cli.h"

#define COLOR_DIM    "\033[2m"
#define COLOR_STRONG "\033[1m"
#define COLOR_OFF    "\033[0m"

/* --- JSON --- */

static json_t *base64(struct midge_slice bytes)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    char *text = malloc((size_t)bytes.len / 3 * 4 + 8);
    size_t len = 0;
    json_t *value;

    if (text == NULL)
        return NULL;
    for (uint32_t i = 0; i < bytes.len; i += 3) {
        const uint32_t count = bytes.len - i < 3 ? bytes.len - i : 3;
        uint32_t group = (uint32_t)bytes.base[i] << 16;

        if (count > 1)
            group |= (uint32_t)bytes.base[i + 1] << 8;
        if (count > 2)
            group |= bytes.base[i + 2];
        text[len++] = digits[group >> 18];
        text[len++] = digits[group >> 12 & 63];
        text[len++] = count > 1 ? digits[group >> 6 & 63] : '=';
        text[len++] = count > 2 ? digits[group & 63] : '=';
    }
    value = json_stringn(text, len);
    free(text);
    return value;
}

/* Bytes as text under `name`, or, if they are no UTF-8, under `name`_base64. */
static void set_bytes(json_t *object, const char *name, struct midge_slice bytes)
{
    json_t *text = json_stringn((const char *)bytes.base, bytes.len);
    char other[64];

    if (text != NULL) {
        (void)json_object_set_new(object, name, text);
        return;
    }
    (void)snprintf(other, sizeof(other), "%s_base64", name);
    (void)json_object_set_new(object, other, base64(bytes));
}

void midge_cli_set_text(struct json_t *object, const char *name, const char *text)
{
    set_bytes(object, name, midge_slice_text(text));
}

/* Each name with the list of its values. @return NULL if one of them is no UTF-8, or a name is
 * longer than a header of ours can be */
static json_t *headers_of(const struct midge_msg *msg)
{
    json_t *headers = json_object();
    struct midge_slice name;
    struct midge_slice value;
    uint32_t position = 0;

    while (midge_msg_next_header(msg, &position, &name, &value)) {
        json_t *text = json_stringn((const char *)value.base, value.len);
        char key[1025];
        json_t *values;

        (void)snprintf(key, sizeof(key), "%.*s", MIDGE_SLICE_PRINT(name));
        if (strlen(key) != name.len) {
            json_decref(text);
            json_decref(headers);
            return NULL;
        }
        values = json_object_get(headers, key);
        if (values == NULL && json_object_set_new(headers, key, json_array()) == 0)
            values = json_object_get(headers, key);
        /* Takes the text in any case, and fails if one of the two is NULL. */
        if (json_array_append_new(values, text) != 0) {
            json_decref(headers);
            return NULL;
        }
    }
    return headers;
}

static void set_headers(json_t *object, const struct midge_msg *msg)
{
    json_t *headers = headers_of(msg);

    if (headers != NULL)
        (void)json_object_set_new(object, "headers", headers);
    else
        (void)json_object_set_new(object, "headers_base64", base64(msg->headers));
}

void midge_cli_print_json(struct json_t *object)
{
    if (json_dumpf(object, stdout, JSON_COMPACT | JSON_REAL_PRECISION(9)) != 0) {
        midge_cli_flush(); /* does not return if it could not be written */
        midge_cli_say("out of memory");
        exit(MIDGE_CLI_EXIT_ERROR);
    }
    (void)putchar('\n');
    json_decref(object);
}

static void print_json(const struct midge_cli *cli, const struct midge_msg *msg)
{
    json_t *object = json_object();

    set_bytes(object, "subject", msg->subject);
    if (msg->reply.len > 0)
        set_bytes(object, "reply", msg->reply);
    if (msg->headers.len > 0)
        set_headers(object, msg);
    (void)json_object_set_new(object, "bytes", json_integer(msg->payload.len));
    if (!cli->is_headers_only)
        set_bytes(object, "payload", msg->payload);
    midge_cli_print_json(object);
}

/* --- people --- */

/* Bytes of the character in front that a terminal may have; 0 if it is a control character, or no
 * UTF-8: terminals that expect other texts obey the bytes from 0x80 to 0x9f. */
static uint32_t harmless_len(struct midge_slice text)
{
    const uint8_t first = text.base[0];
    uint32_t len = 2;

    if (first < 0x80)
        return (first >= ' ' && first != 0x7f) || first == '\n' || first == '\t' ? 1 : 0;
    if (first >= 0xe0)
        len = first >= 0xf0 ? 4 : 3;
    if (first < 0xc2 || first > 0xf4 || len > text.len)
        return 0;
    for (uint32_t i = 1; i < len; i++) {
        if ((text.base[i] & 0xc0) != 0x80)
            return 0;
    }
    /* U+0080 to U+009F are control characters, too. */
    return first == 0xc2 && text.base[1] < 0xa0 ? 0 : len;
}

void midge_cli_print_text(FILE *file, bool is_terminal, struct midge_slice text)
{
    if (!is_terminal) {
        (void)fwrite(text.base, 1, text.len, file);
        return;
    }
    while (text.len > 0) {
        const uint32_t harmless = harmless_len(text);
        const uint32_t used = harmless > 0 ? harmless : 1;

        if (harmless > 0)
            (void)fwrite(text.base, 1, harmless, file);
        else
            (void)fprintf(file, "\\x%02x", text.base[0]);
        text = midge_slice_make(text.base + used, text.len - used);
    }
}

static void print_text(const struct midge_cli *cli, struct midge_slice text)
{
    midge_cli_print_text(stdout, cli->is_terminal, text);
}

static void print_payload(const struct midge_cli *cli, const struct midge_msg *msg)
{
    print_text(cli, msg->payload);
    (void)putchar('\n');
}

static void print_for_people(const struct midge_cli *cli, const struct midge_msg *msg,
                             uint64_t number)
{
    const char *dim = cli->is_color ? COLOR_DIM : "";
    const char *strong = cli->is_color ? COLOR_STRONG : "";
    const char *off = cli->is_color ? COLOR_OFF : "";
    struct midge_slice name;
    struct midge_slice value;
    uint32_t position = 0;

    if (number > 0) {
        (void)printf("%s[%llu]%s %s", dim, (unsigned long long)number, off, strong);
        print_text(cli, msg->subject);
        (void)fputs(off, stdout);
        if (msg->reply.len > 0) {
            (void)printf("%s reply ", dim);
            print_text(cli, msg->reply);
            (void)fputs(off, stdout);
        }
        (void)printf("%s %u bytes%s\n", dim, msg->payload.len, off);
    }
    while (midge_msg_next_header(msg, &position, &name, &value)) {
        print_text(cli, name);
        (void)fputs(": ", stdout);
        print_text(cli, value);
        (void)putchar('\n');
    }
    if (position > 0)
        (void)putchar('\n');
    if (!cli->is_headers_only)
        print_payload(cli, msg);
}

void midge_cli_print_msg(const struct midge_cli *cli, const struct midge_msg *msg, uint64_t number)
{
    if (cli->is_json)
        print_json(cli, msg);
    else if (cli->is_raw)
        print_payload(cli, msg);
    else
        print_for_people(cli, msg, number);
}

void midge_cli_flush(void)
{
    if (fflush(stdout) == 0 && ferror(stdout) == 0)
        return;
    midge_cli_say("standard output: %s", strerror(errno));
    _exit(MIDGE_CLI_EXIT_ERROR);
}
