/*
 * CONNECT texts: no crash, bounded strings, all or nothing; and jansson as an oracle.
 *
 * Input: texts between LF, merged one after another into the same options. Where jansson, which is
 * stricter, takes a text for an object, we must too; and a field that such an object names exactly
 * once, in any case, must have the value that jansson reads.
 */
#include "midge/info.h"

#include <jansson.h>
#include <stdlib.h>
#include <strings.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define LEN_MAX 65536u

static const char *const text_names[] = {"user", "pass", "auth_token", "name", "lang", "version"};

#define TEXT_COUNT (sizeof(text_names) / sizeof(text_names[0]))

static void texts_of(const struct midge_connect *connect, const char *texts[TEXT_COUNT])
{
    texts[0] = connect->user;
    texts[1] = connect->pass;
    texts[2] = connect->auth_token;
    texts[3] = connect->name;
    texts[4] = connect->lang;
    texts[5] = connect->version;
}

/* Case does not matter, and the two characters that Go folds to ASCII letters count as these. */
static bool same_key(const char *key, const char *name)
{
    while (*key != '\0' && *name != '\0') {
        if (strncmp(key, "\xc5\xbf", 2) == 0 && *name == 's')
            key += 2;
        else if (strncmp(key, "\xe2\x84\xaa", 3) == 0 && *name == 'k')
            key += 3;
        else if (strncasecmp(key, name, 1) == 0)
            key++;
        else
            return false;
        name++;
    }
    return *key == *name;
}

/* The value of the only key that is `name` in some case; NULL if there is none, or another. */
static json_t *only_member(json_t *object, const char *name)
{
    json_t *found = NULL;
    const char *key;
    json_t *value;
    uint32_t count = 0;

    json_object_foreach(object, key, value)
    {
        if (same_key(key, name)) {
            found = value;
            count++;
        }
    }
    return count == 1 ? found : NULL;
}

static void check_flag(json_t *object, const char *name, bool value)
{
    json_t *member = only_member(object, name);

    if (member != NULL && !json_is_null(member)) {
        MIDGE_ASSERT(json_is_boolean(member));
        MIDGE_ASSERT(json_is_true(member) == value);
    }
}

static void check_text(json_t *object, const char *name, const char *text)
{
    json_t *member = only_member(object, name);

    if (member == NULL || json_is_null(member))
        return;
    MIDGE_ASSERT(json_is_string(member));
    if (strlen(json_string_value(member)) != json_string_length(member))
        return; /* holds a NUL, which jansson keeps and we replace */
    if (text == NULL)
        MIDGE_ASSERT(json_string_length(member) == 0);
    else
        MIDGE_ASSERT(strcmp(text, json_string_value(member)) == 0);
}

/* What must hold after a merge that succeeded, if jansson reads the text too, no key twice. */
static void check_values(json_t *object, const struct midge_connect *connect)
{
    const char *texts[TEXT_COUNT];
    json_t *protocol = only_member(object, "protocol");

    texts_of(connect, texts);
    for (size_t i = 0; i < TEXT_COUNT; i++)
        check_text(object, text_names[i], texts[i]);
    check_flag(object, "verbose", connect->verbose);
    check_flag(object, "pedantic", connect->pedantic);
    check_flag(object, "echo", connect->echo);
    check_flag(object, "headers", connect->headers);
    check_flag(object, "no_responders", connect->no_responders);
    if (protocol != NULL && !json_is_null(protocol)) {
        MIDGE_ASSERT(json_is_integer(protocol));
        if (json_integer_value(protocol) > -INT32_MAX && json_integer_value(protocol) < INT32_MAX)
            MIDGE_ASSERT(json_integer_value(protocol) == connect->protocol);
    }
}

static bool same_text(const char *a, const char *b)
{
    return a == NULL || b == NULL ? a == b : strcmp(a, b) == 0;
}

static void check_unchanged(const struct midge_connect *before, const struct midge_connect *after)
{
    const char *old[TEXT_COUNT];
    const char *new[TEXT_COUNT];

    texts_of(before, old);
    texts_of(after, new);
    for (size_t i = 0; i < TEXT_COUNT; i++)
        MIDGE_ASSERT(old[i] == new[i] && same_text(old[i], new[i]));
    MIDGE_ASSERT(before->verbose == after->verbose && before->pedantic == after->pedantic);
    MIDGE_ASSERT(before->echo == after->echo && before->headers == after->headers);
    MIDGE_ASSERT(before->no_responders == after->no_responders);
    MIDGE_ASSERT(before->protocol == after->protocol);
    MIDGE_ASSERT(before->account_given == after->account_given);
}

static void merge_one(struct midge_connect *connect, struct midge_slice text)
{
    const struct midge_connect before = *connect;
    const char *texts[TEXT_COUNT];
    const enum midge_status status = midge_connect_merge(connect, text);
    const size_t flags = JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL;
    /* jansson 2.14 loses a NUL behind a number, and so accepts {"a":1<NUL>}. */
    const bool has_nul = text.len > 0 && memchr(text.base, '\0', text.len) != NULL;
    json_t *object = has_nul ? NULL : json_loadb((const char *)text.base, text.len, flags, NULL);

    MIDGE_ASSERT(status == MIDGE_OK || status == MIDGE_E_ARGS);
    if (status == MIDGE_E_ARGS)
        check_unchanged(&before, connect);
    else
        MIDGE_ASSERT(midge_info_is_object(text));
    if (json_is_object(object)) {
        MIDGE_ASSERT(midge_info_is_object(text));
        if (status == MIDGE_OK)
            check_values(object, connect);
    }
    texts_of(connect, texts);
    for (size_t i = 0; i < TEXT_COUNT; i++)
        MIDGE_ASSERT(texts[i] == NULL || (texts[i][0] != '\0' && strlen(texts[i]) <= 3 * LEN_MAX));
    json_decref(object);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct midge_connect connect;
    size_t off = 0;

    if (size > LEN_MAX)
        return 0;
    midge_connect_init(&connect);
    while (off < size) {
        const uint8_t *lf = memchr(data + off, '\n', size - off);
        const size_t len = lf != NULL ? (size_t)(lf - (data + off)) : size - off;
        uint8_t *copy = malloc(len > 0 ? len : 1);

        MIDGE_ASSERT(copy != NULL);
        memcpy(copy, data + off, len);
        merge_one(&connect, midge_slice_make(copy, (uint32_t)len));
        free(copy);
        off += len + 1;
    }
    midge_connect_deinit(&connect);
    return 0;
}
