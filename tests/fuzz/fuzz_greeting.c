/*
 * INFO texts: no crash, bounded strings, and jansson as an oracle; then CONNECT with what they say.
 *
 * Input: one text. Where jansson, which is stricter, takes it for an object that we read, too, a
 * field that the object names exactly once must have the value that jansson reads. The strings of
 * the INFO then go into a CONNECT, and jansson must read them out of it.
 */
#include "midge/greeting.h"

#include "midge/limits.h"

#include <jansson.h>
#include <stdlib.h>
#include <strings.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define LEN_MAX 65536u

/* The value of the only key that is `name` in some ASCII case; NULL if there is none, or another
 * that may be meant: Go folds two characters beyond ASCII, too. */
static json_t *only_member(json_t *object, const char *name)
{
    json_t *found = NULL;
    const char *key;
    json_t *value;
    uint32_t count = 0;

    json_object_foreach(object, key, value)
    {
        if (strcasecmp(key, name) == 0) {
            found = value;
            count++;
        } else if (strstr(key, "\xc5\xbf") != NULL || strstr(key, "\xe2\x84\xaa") != NULL) {
            return NULL;
        }
    }
    return count == 1 && !json_is_null(found) ? found : NULL;
}

/* jansson keeps a NUL, which we replace. */
static bool has_nul(json_t *string)
{
    return strlen(json_string_value(string)) != json_string_length(string);
}

static void check_text(json_t *object, const char *name, const char *text)
{
    json_t *member = only_member(object, name);

    if (member == NULL)
        return;
    MIDGE_ASSERT(json_is_string(member));
    MIDGE_ASSERT(text != NULL);
    MIDGE_ASSERT(has_nul(member) || strcmp(text, json_string_value(member)) == 0);
}

static void check_flag(json_t *object, const char *name, bool value)
{
    json_t *member = only_member(object, name);

    if (member == NULL)
        return;
    MIDGE_ASSERT(json_is_boolean(member));
    MIDGE_ASSERT(json_is_true(member) == value);
}

static void check_number(json_t *object, const char *name, uint64_t value, uint64_t max)
{
    json_t *member = only_member(object, name);

    if (member == NULL)
        return;
    MIDGE_ASSERT(json_is_integer(member));
    MIDGE_ASSERT(json_integer_value(member) >= 0);
    if ((uint64_t)json_integer_value(member) < max)
        MIDGE_ASSERT((uint64_t)json_integer_value(member) == value);
    else
        MIDGE_ASSERT(value == max);
}

static void check_urls(json_t *object, const struct midge_server_facts *facts)
{
    json_t *member = only_member(object, "connect_urls");

    if (member == NULL)
        return;
    MIDGE_ASSERT(json_is_array(member));
    MIDGE_ASSERT(json_array_size(member) == facts->connect_url_count ||
                 facts->connect_url_count == MIDGE_CONNECT_URLS_MAX);
    for (uint32_t i = 0; i < facts->connect_url_count; i++) {
        json_t *element = json_array_get(member, i);

        MIDGE_ASSERT(json_is_string(element));
        MIDGE_ASSERT(has_nul(element) ||
                     strcmp(facts->connect_urls[i], json_string_value(element)) == 0);
    }
}

static void check_values(json_t *object, const struct midge_server_facts *facts)
{
    check_text(object, "server_id", facts->server_id);
    check_text(object, "server_name", facts->server_name);
    check_text(object, "version", facts->version);
    check_text(object, "midge", facts->midge);
    check_text(object, "host", facts->host);
    check_text(object, "nonce", facts->nonce);
    check_text(object, "cluster", facts->cluster);
    check_text(object, "domain", facts->domain);
    check_text(object, "client_ip", facts->client_ip);
    check_flag(object, "headers", facts->headers);
    check_flag(object, "auth_required", facts->auth_required);
    check_flag(object, "tls_required", facts->tls_required);
    check_flag(object, "tls_available", facts->tls_available);
    check_flag(object, "ldm", facts->ldm);
    check_flag(object, "jetstream", facts->jetstream);
    check_number(object, "client_id", facts->client_id, UINT64_MAX);
    check_number(object, "max_payload", facts->max_payload, MIDGE_PAYLOAD_MAX);
    check_urls(object, facts);
}

static void expect_member(json_t *object, const char *name, const char *text)
{
    json_t *member = json_object_get(object, name);

    MIDGE_ASSERT((member == NULL) == (text == NULL));
    if (text != NULL)
        MIDGE_ASSERT(strcmp(json_string_value(member), text) == 0);
}

/* What was read is UTF-8, whatever it was read from. */
static void check_connect(const struct midge_server_facts *facts)
{
    const struct midge_connect_options options = {
        .user = facts->server_id,
        .pass = facts->server_name,
        .auth_token = facts->nonce,
        .jwt = facts->version,
        .name = facts->host,
        .headers = facts->headers,
    };
    const uint32_t len = midge_connect_encode_len(&options);
    uint8_t *line = malloc(len);
    json_t *object;

    MIDGE_ASSERT(line != NULL);
    MIDGE_ASSERT(midge_connect_encode(line, &options) == line + len);
    MIDGE_ASSERT(memcmp(line, "CONNECT {", 9) == 0);
    MIDGE_ASSERT(memcmp(line + len - 3, "}\r\n", 3) == 0);
    MIDGE_ASSERT(memchr(line, '\n', len) == line + len - 1);
    object = json_loadb((const char *)line + 8, len - 10, JSON_REJECT_DUPLICATES, NULL);
    MIDGE_ASSERT(json_is_object(object));
    expect_member(object, "user", options.user);
    expect_member(object, "pass", options.pass);
    expect_member(object, "auth_token", options.auth_token);
    expect_member(object, "jwt", options.jwt);
    expect_member(object, "name", options.name);
    MIDGE_ASSERT(json_is_true(json_object_get(object, "headers")) == options.headers);
    json_decref(object);
    free(line);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct midge_server_facts facts = {0};
    enum midge_status status;
    json_t *object;

    if (size > LEN_MAX)
        return 0;
    status = midge_server_facts_decode(&facts, midge_slice_make(data, (uint32_t)size));
    MIDGE_ASSERT(status == MIDGE_OK || status == MIDGE_E_ARGS);
    if (status == MIDGE_E_ARGS)
        return 0;
    MIDGE_ASSERT(facts.connect_url_count <= MIDGE_CONNECT_URLS_MAX);
    MIDGE_ASSERT(facts.max_payload <= MIDGE_PAYLOAD_MAX);
    /* jansson 2.14 loses a NUL behind a number, and so accepts {"a":1<NUL>}. */
    object =
        memchr(data, '\0', size) != NULL
            ? NULL
            : json_loadb((const char *)data, size, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, NULL);
    if (json_is_object(object))
        check_values(object, &facts);
    json_decref(object);
    check_connect(&facts);
    midge_server_facts_deinit(&facts);
    return 0;
}
