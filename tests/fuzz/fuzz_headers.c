/*
 * Headers: reading what a peer sent, and lists under construction.
 *
 * Input: a byte that chooses. Even: the rest is the header block of a message, which is walked,
 * copied, written and read again. Odd: the rest is lines, each a letter for what to do with a list
 * and its `name:value`; a naive list of pairs beside it must always say the same.
 */
#include "headers_internal.h"

#include "midge/compiler.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define LEN_MAX   8192u
#define PAIRS_MAX 256u

static bool within(struct midge_slice part, struct midge_slice whole)
{
    return part.base >= whole.base && part.base + part.len <= whole.base + whole.len;
}

static bool is_sendable(struct midge_slice name, struct midge_slice value)
{
    for (uint32_t i = 0; i < name.len; i++) {
        if (name.base[i] <= ' ' || name.base[i] > '~' || name.base[i] == ':')
            return false;
    }
    for (uint32_t i = 0; i < value.len; i++) {
        if ((value.base[i] < ' ' && value.base[i] != '\t') || value.base[i] == 0x7f)
            return false;
    }
    return name.len > 0;
}

/* --- a block --- */

/* What was read of the block, its sendable pairs in order, is what the list holds. */
static void check_list(const struct midge_msg *msg, const struct midge_headers *headers)
{
    struct midge_slice name;
    struct midge_slice value;
    uint32_t position = 0;
    uint32_t index = 0;

    while (midge_msg_next_header(msg, &position, &name, &value)) {
        const char *got_name;
        const char *got_value;

        MIDGE_ASSERT(name.len > 0 && within(name, msg->headers));
        MIDGE_ASSERT(value.len == 0 || within(value, msg->headers));
        if (!is_sendable(name, value))
            continue;
        MIDGE_ASSERT(index < midge_headers_count(headers));
        midge_headers_at(headers, index, &got_name, &got_value);
        MIDGE_ASSERT(midge_slice_equal(midge_slice_text(got_name), name));
        MIDGE_ASSERT(midge_slice_equal(midge_slice_text(got_value), value));
        index++;
    }
    MIDGE_ASSERT(index == midge_headers_count(headers));
    MIDGE_ASSERT(!midge_msg_next_header(msg, &position, &name, &value));
}

/* The list as it would be sent. @return the block; owned */
static uint8_t *encode(const struct midge_headers *headers, uint32_t *len_out)
{
    const uint32_t len = midge_headers_encoded_len(headers);
    uint8_t *block = malloc(len > 0 ? len : 1);

    MIDGE_ASSERT(block != NULL);
    MIDGE_ASSERT(midge_headers_encode(block, headers) == block + len);
    MIDGE_ASSERT((len == 0) == (midge_headers_count(headers) == 0));
    *len_out = len;
    return block;
}

static void check_encoded(const struct midge_headers *headers)
{
    uint32_t len;
    uint8_t *block = encode(headers, &len);
    const struct midge_msg msg = {.headers = midge_slice_make(block, len)};

    check_list(&msg, headers);
    MIDGE_ASSERT(midge_msg_status(&msg, NULL) == 0);
    free(block);
}

static void read_block(struct midge_slice block)
{
    const struct midge_msg msg = {.headers = block};
    struct midge_headers *headers = midge_headers_copy(&msg);
    struct midge_slice description;
    struct midge_slice value;
    const uint32_t status = midge_msg_status(&msg, &description);

    MIDGE_ASSERT(headers != NULL);
    MIDGE_ASSERT(status < 1000);
    MIDGE_ASSERT(description.len == 0 || within(description, block));
    check_list(&msg, headers);
    check_encoded(headers);
    if (midge_msg_header(&msg, "A", &value))
        MIDGE_ASSERT(value.len == 0 || within(value, block));
    midge_headers_destroy(headers);
}

/* --- a list --- */

struct twin {
    char *names[PAIRS_MAX];
    char *values[PAIRS_MAX];
    uint32_t count;
};

static void twin_remove(struct twin *twin, uint32_t index)
{
    free(twin->names[index]);
    free(twin->values[index]);
    twin->count--;
    for (uint32_t i = index; i < twin->count; i++) {
        twin->names[i] = twin->names[i + 1];
        twin->values[i] = twin->values[i + 1];
    }
}

/* Without the blanks at its ends. */
static char *trimmed(const char *value)
{
    size_t len = strlen(value);

    while (*value == ' ' || *value == '\t') {
        value++;
        len--;
    }
    while (len > 0 && (value[len - 1] == ' ' || value[len - 1] == '\t'))
        len--;
    return strndup(value, len);
}

static void twin_add(struct twin *twin, const char *name, const char *value)
{
    twin->names[twin->count] = strdup(name);
    twin->values[twin->count] = trimmed(value);
    twin->count++;
}

static uint32_t twin_delete(struct twin *twin, const char *name, uint32_t first)
{
    uint32_t removed = 0;

    for (uint32_t i = first; i < twin->count;) {
        if (strcmp(twin->names[i], name) == 0) {
            twin_remove(twin, i);
            removed++;
        } else {
            i++;
        }
    }
    return removed;
}

static void twin_set(struct twin *twin, const char *name, const char *value)
{
    for (uint32_t i = 0; i < twin->count; i++) {
        if (strcmp(twin->names[i], name) == 0) {
            free(twin->values[i]);
            twin->values[i] = trimmed(value);
            (void)twin_delete(twin, name, i + 1);
            return;
        }
    }
    twin_add(twin, name, value);
}

static void compare(const struct midge_headers *headers, const struct twin *twin)
{
    MIDGE_ASSERT(midge_headers_count(headers) == twin->count);
    for (uint32_t i = 0; i < twin->count; i++) {
        const char *name;
        const char *value;

        midge_headers_at(headers, i, &name, &value);
        MIDGE_ASSERT(strcmp(name, twin->names[i]) == 0);
        MIDGE_ASSERT(strcmp(value, twin->values[i]) == 0);
    }
}

static void act(struct midge_headers *headers, struct twin *twin, char letter, const char *name,
                const char *value)
{
    const bool is_good = is_sendable(midge_slice_text(name), midge_slice_text(value));
    const enum midge_status want = is_good ? MIDGE_OK : MIDGE_E_HEADERS;

    if (letter == 'd') {
        MIDGE_ASSERT(midge_headers_delete(headers, name) == twin_delete(twin, name, 0));
    } else if (letter == 's') {
        MIDGE_ASSERT(midge_headers_set(headers, name, value) == want);
        if (is_good)
            twin_set(twin, name, value);
    } else {
        MIDGE_ASSERT(midge_headers_add(headers, name, value) == want);
        if (is_good)
            twin_add(twin, name, value);
    }
    compare(headers, twin);
}

static void change_list(struct midge_slice lines)
{
    struct midge_headers *headers = midge_headers_create();
    struct twin twin = {.count = 0};

    MIDGE_ASSERT(headers != NULL);
    while (lines.len > 0 && twin.count < PAIRS_MAX) {
        const uint8_t *end = memchr(lines.base, '\n', lines.len);
        const uint32_t len = end == NULL ? lines.len : (uint32_t)(end - lines.base);
        char *line = malloc(len + 1ul);
        char *colon;

        MIDGE_ASSERT(line != NULL);
        memcpy(line, lines.base, len);
        line[len] = '\0';
        colon = strchr(line, ':');

        if (line[0] != '\0' && colon != NULL && colon > line) {
            *colon = '\0';
            act(headers, &twin, line[0], line + 1, colon + 1);
        }
        free(line);
        lines = midge_slice_make(lines.base + len, lines.len - len);
        if (lines.len > 0)
            lines = midge_slice_make(lines.base + 1, lines.len - 1);
    }
    check_encoded(headers);
    while (twin.count > 0)
        twin_remove(&twin, 0);
    midge_headers_destroy(headers);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0 || size > LEN_MAX)
        return 0;
    if (data[0] % 2 == 0)
        read_block(midge_slice_make(data + 1, (uint32_t)size - 1));
    else
        change_list(midge_slice_make(data + 1, (uint32_t)size - 1));
    return 0;
}
