/*
 * Headers: reading those of a message where they lie, and building lists of them.
 *
 * A block is read as nats.go reads it, with one difference: a line without a colon or without a
 * name is passed over, where nats.go drops the whole block. Lines end with LF, a CR before it does
 * not count; the empty line ends the block; what has no LF behind it is not a line. Names keep
 * their case and, as in nats.go, whatever stands before the colon.
 *
 * A list is one text `name NUL value NUL name NUL value NUL ...` and the offsets in it. A change
 * that makes it longer builds a new text before the old one is freed, so that arguments may point
 * into the list itself.
 *
 * Thread: any; a list belongs to one thread at a time.
 * Memory: reading needs none; a list has at most twice its text and 24 bytes for each pair.
 * Limits: headers_internal.h.
 * Source: ADR-4; nats.go v1.55.0, nats.go:4575-4651 (reading), :895-1037 (writing).
 */
#include "headers_internal.h"

#include <stdlib.h>

#include "midge/compiler.h"

#define VERSION_LINE "NATS/1.0"
#define STATUS_LEN   3u

/* Rooms of an empty list once it gets its first pair. */
#define FIRST_TEXT_CAP 256u
#define FIRST_PAIR_CAP 8u

struct pair {
    uint32_t name_off;
    uint32_t value_off;
    bool is_removed; /* inside midge_headers_delete() only */
};

struct midge_headers {
    char *text;
    uint32_t text_len;
    uint32_t text_cap;
    struct pair *pairs; /* in the order of the text, which has no gaps */
    uint32_t count;
    uint32_t pair_cap;
};

/* --- reading --- */

static bool is_blank(uint8_t byte)
{
    return byte == ' ' || byte == '\t';
}

static struct midge_slice trim(struct midge_slice text)
{
    while (text.len > 0 && is_blank(text.base[0]))
        text = midge_slice_make(text.base + 1, text.len - 1);
    while (text.len > 0 && is_blank(text.base[text.len - 1]))
        text.len--;
    return text;
}

static bool next_line(struct midge_slice block, uint32_t *off, struct midge_slice *line_out)
{
    const uint8_t *start;
    const uint8_t *end;

    if (*off >= block.len)
        return false;
    start = block.base + *off;
    end = memchr(start, '\n', block.len - *off);
    if (end == NULL)
        return false;
    *off += (uint32_t)(end - start) + 1;
    if (end > start && end[-1] == '\r')
        end--;
    *line_out = midge_slice_make(start, (uint32_t)(end - start));
    return true;
}

/* Take the first line, which says that these are headers. */
static bool next_version_line(struct midge_slice block, uint32_t *off, struct midge_slice *rest_out)
{
    const struct midge_slice version = MIDGE_SLICE_LITERAL(VERSION_LINE);
    struct midge_slice line;

    if (!next_line(block, off, &line) || !midge_slice_starts_with(line, version))
        return false;
    *rest_out = midge_slice_make(line.base + version.len, line.len - version.len);
    return true;
}

bool midge_msg_header(const struct midge_msg *msg, const char *name, struct midge_slice *value_out)
{
    struct midge_slice wanted;
    struct midge_slice found;
    struct midge_slice value;
    uint32_t position = 0;

    MIDGE_ASSERT(msg != NULL);
    MIDGE_ASSERT(name != NULL);
    MIDGE_ASSERT(value_out != NULL);

    wanted = midge_slice_text(name);
    while (midge_msg_next_header(msg, &position, &found, &value)) {
        if (midge_slice_equal(found, wanted)) {
            *value_out = value;
            return true;
        }
    }
    return false;
}

bool midge_msg_next_header(const struct midge_msg *msg, uint32_t *position_in_out,
                           struct midge_slice *name_out, struct midge_slice *value_out)
{
    const struct midge_slice block = msg->headers;
    uint32_t off = *position_in_out;
    struct midge_slice line;

    MIDGE_ASSERT(name_out != NULL);
    MIDGE_ASSERT(value_out != NULL);

    *position_in_out = block.len; /* where every further call ends at once */
    if (off == 0 && !next_version_line(block, &off, &line))
        return false;
    while (next_line(block, &off, &line) && line.len > 0) {
        const uint8_t *colon = memchr(line.base, ':', line.len);
        uint32_t name_len;

        if (colon == NULL || colon == line.base)
            continue;
        name_len = (uint32_t)(colon - line.base);
        *name_out = midge_slice_make(line.base, name_len);
        *value_out = trim(midge_slice_make(colon + 1, line.len - name_len - 1));
        *position_in_out = off;
        return true;
    }
    return false;
}

uint32_t midge_msg_status(const struct midge_msg *msg, struct midge_slice *description_out)
{
    struct midge_slice text = {0};
    uint32_t off = 0;
    uint32_t status = 0;

    if (description_out != NULL)
        *description_out = midge_slice_make(NULL, 0);
    if (!next_version_line(msg->headers, &off, &text))
        return 0;
    text = trim(text);
    if (text.len < STATUS_LEN)
        return 0;
    for (uint32_t i = 0; i < STATUS_LEN; i++) {
        if (text.base[i] < '0' || text.base[i] > '9')
            return 0;
        status = status * 10 + (uint32_t)(text.base[i] - '0');
    }
    if (description_out != NULL && status != 0)
        *description_out = trim(midge_slice_make(text.base + STATUS_LEN, text.len - STATUS_LEN));
    return status;
}

/* --- lists --- */

/* Source: ADR-4, which quotes RFC 822 section 3.1.2. */
static bool is_name(struct midge_slice text)
{
    for (uint32_t i = 0; i < text.len; i++) {
        if (text.base[i] < '!' || text.base[i] > '~' || text.base[i] == ':')
            return false;
    }
    return text.len > 0;
}

/* Bytes beyond ASCII pass: most clients send UTF-8. */
static bool is_value(struct midge_slice text)
{
    for (uint32_t i = 0; i < text.len; i++) {
        if ((text.base[i] < ' ' && text.base[i] != '\t') || text.base[i] == 0x7f)
            return false;
    }
    return true;
}

static const char *name_at(const struct midge_headers *headers, uint32_t index)
{
    return headers->text + headers->pairs[index].name_off;
}

static const char *value_at(const struct midge_headers *headers, uint32_t index)
{
    return headers->text + headers->pairs[index].value_off;
}

static uint32_t name_len_at(const struct midge_headers *headers, uint32_t index)
{
    return headers->pairs[index].value_off - headers->pairs[index].name_off - 1;
}

/* Bytes of a pair in the text. */
static uint32_t pair_len_at(const struct midge_headers *headers, uint32_t index)
{
    const uint32_t end =
        index + 1 < headers->count ? headers->pairs[index + 1].name_off : headers->text_len;

    return end - headers->pairs[index].name_off;
}

static bool is_named(const struct midge_headers *headers, uint32_t index, struct midge_slice name)
{
    return name_len_at(headers, index) == name.len &&
           memcmp(name_at(headers, index), name.base, name.len) == 0;
}

struct midge_headers *midge_headers_create(void)
{
    return calloc(1, sizeof(struct midge_headers));
}

/* The text of a list while it is built anew. */
struct text {
    char *base;
    uint32_t len;
};

static uint32_t text_put(struct text *text, struct midge_slice bytes)
{
    const uint32_t off = text->len;

    memcpy(text->base + off, bytes.base, bytes.len);
    text->base[off + bytes.len] = '\0';
    text->len = off + bytes.len + 1;
    return off;
}

static struct pair text_put_pair(struct text *text, struct midge_slice name,
                                 struct midge_slice value)
{
    struct pair pair = {0};

    pair.name_off = text_put(text, name);
    pair.value_off = text_put(text, value);
    return pair;
}

static enum midge_status reserve_pair(struct midge_headers *headers)
{
    const uint32_t cap = headers->pair_cap == 0 ? FIRST_PAIR_CAP : headers->pair_cap * 2;
    struct pair *pairs;

    if (headers->count < headers->pair_cap)
        return MIDGE_OK;
    pairs = reallocarray(headers->pairs, cap, sizeof(*pairs));
    if (pairs == NULL)
        return MIDGE_E_MEMORY;
    headers->pairs = pairs;
    headers->pair_cap = cap;
    return MIDGE_OK;
}

/* True if the pair would leave the whole within what can be sent; then every sum of lengths stays
 * within 32 bits, also when a room is doubled. */
static bool has_room(const struct midge_headers *headers, struct midge_slice name,
                     struct midge_slice value)
{
    const uint64_t frame_len = sizeof(VERSION_LINE) - 1 + 4;
    const uint64_t text_len = (uint64_t)headers->text_len + name.len + value.len + 2;

    return frame_len + text_len + 2 * ((uint64_t)headers->count + 1) <= MIDGE_HEADERS_LEN_MAX;
}

/* Put a pair whose bytes are known to be good behind all others. */
static enum midge_status append(struct midge_headers *headers, struct midge_slice name,
                                struct midge_slice value)
{
    struct text text = {.base = headers->text, .len = headers->text_len};
    uint32_t cap = headers->text_cap == 0 ? FIRST_TEXT_CAP : headers->text_cap;
    const uint32_t add_len = name.len + value.len + 2;

    if (!has_room(headers, name, value))
        return MIDGE_E_HEADERS;
    if (reserve_pair(headers) != MIDGE_OK)
        return MIDGE_E_MEMORY;
    while (cap - headers->text_len < add_len)
        cap *= 2;
    if (cap > headers->text_cap) {
        text.base = malloc(cap);
        if (text.base == NULL)
            return MIDGE_E_MEMORY;
        if (headers->text_len > 0)
            memcpy(text.base, headers->text, headers->text_len);
    }
    headers->pairs[headers->count++] = text_put_pair(&text, name, value);
    if (text.base != headers->text) {
        free(headers->text);
        headers->text = text.base;
        headers->text_cap = cap;
    }
    headers->text_len = text.len;
    return MIDGE_OK;
}

struct midge_headers *midge_headers_copy(const struct midge_msg *msg)
{
    struct midge_headers *headers = midge_headers_create();
    struct midge_slice name;
    struct midge_slice value;
    uint32_t position = 0;

    MIDGE_ASSERT(msg != NULL);

    while (headers != NULL && midge_msg_next_header(msg, &position, &name, &value)) {
        /* What could not be sent on, nor be shown as a NUL-terminated text. */
        if (!is_name(name) || !is_value(value))
            continue;
        if (append(headers, name, value) != MIDGE_OK) {
            midge_headers_destroy(headers);
            return NULL;
        }
    }
    return headers;
}

void midge_headers_destroy(struct midge_headers *headers)
{
    if (headers == NULL)
        return;
    free(headers->text);
    free(headers->pairs);
    free(headers);
}

/* Views of the arguments, if they may be sent. */
static bool check_pair(const char *name, const char *value, struct midge_slice *name_out,
                       struct midge_slice *value_out)
{
    MIDGE_ASSERT(name != NULL);
    MIDGE_ASSERT(value != NULL);

    /* Looks no further than the limits: what is longer may be much longer. */
    *name_out = midge_slice_make(name, (uint32_t)strnlen(name, MIDGE_HEADER_NAME_MAX + 1));
    *value_out = midge_slice_make(value, (uint32_t)strnlen(value, MIDGE_HEADER_VALUE_MAX + 1));
    if (name_out->len > MIDGE_HEADER_NAME_MAX || value_out->len > MIDGE_HEADER_VALUE_MAX)
        return false;
    if (!is_name(*name_out) || !is_value(*value_out))
        return false;
    *value_out = trim(*value_out);
    return true;
}

enum midge_status midge_headers_add(struct midge_headers *headers, const char *name,
                                    const char *value)
{
    struct midge_slice name_bytes;
    struct midge_slice value_bytes;

    MIDGE_ASSERT(headers != NULL);

    if (!check_pair(name, value, &name_bytes, &value_bytes))
        return MIDGE_E_HEADERS;
    return append(headers, name_bytes, value_bytes);
}

/* Build the text anew, with the value in the place of the first one of its name. */
static enum midge_status replace(struct midge_headers *headers, struct midge_slice name,
                                 struct midge_slice value)
{
    const uint32_t cap = headers->text_len + name.len + value.len + 2;
    struct text text = {.base = malloc(cap)};
    uint32_t kept = 0;
    bool is_put = false;

    if (text.base == NULL)
        return MIDGE_E_MEMORY;
    for (uint32_t i = 0; i < headers->count; i++) {
        const uint32_t len = pair_len_at(headers, i);
        const uint32_t name_len = name_len_at(headers, i);
        struct pair pair;

        if (is_named(headers, i, name)) {
            if (is_put)
                continue;
            pair = text_put_pair(&text, name, value);
            is_put = true;
        } else {
            pair = text_put_pair(&text, midge_slice_make(name_at(headers, i), name_len),
                                 midge_slice_make(value_at(headers, i), len - name_len - 2));
        }
        headers->pairs[kept++] = pair;
    }
    free(headers->text);
    headers->text = text.base;
    headers->text_len = text.len;
    headers->text_cap = cap;
    headers->count = kept;
    return MIDGE_OK;
}

enum midge_status midge_headers_set(struct midge_headers *headers, const char *name,
                                    const char *value)
{
    struct midge_slice name_bytes;
    struct midge_slice value_bytes;

    MIDGE_ASSERT(headers != NULL);

    if (!check_pair(name, value, &name_bytes, &value_bytes) ||
        !has_room(headers, name_bytes, value_bytes))
        return MIDGE_E_HEADERS;
    if (midge_headers_get(headers, name) == NULL)
        return append(headers, name_bytes, value_bytes);
    return replace(headers, name_bytes, value_bytes);
}

uint32_t midge_headers_delete(struct midge_headers *headers, const char *name)
{
    struct midge_slice wanted;
    uint32_t text_len = 0;
    uint32_t kept = 0;
    uint32_t removed;

    MIDGE_ASSERT(headers != NULL);
    MIDGE_ASSERT(name != NULL);

    /* First all comparisons: the name may point into the text that is moved below. */
    wanted = midge_slice_text(name);
    for (uint32_t i = 0; i < headers->count; i++)
        headers->pairs[i].is_removed = is_named(headers, i, wanted);
    for (uint32_t i = 0; i < headers->count; i++) {
        const uint32_t len = pair_len_at(headers, i);
        const uint32_t name_len = name_len_at(headers, i);

        if (headers->pairs[i].is_removed)
            continue;
        memmove(headers->text + text_len, name_at(headers, i), len);
        headers->pairs[kept].name_off = text_len;
        headers->pairs[kept].value_off = text_len + name_len + 1;
        headers->pairs[kept].is_removed = false;
        text_len += len;
        kept++;
    }
    removed = headers->count - kept;
    headers->count = kept;
    headers->text_len = text_len;
    return removed;
}

const char *midge_headers_get(const struct midge_headers *headers, const char *name)
{
    MIDGE_ASSERT(headers != NULL);
    MIDGE_ASSERT(name != NULL);

    for (uint32_t i = 0; i < headers->count; i++) {
        if (strcmp(name_at(headers, i), name) == 0)
            return value_at(headers, i);
    }
    return NULL;
}

uint32_t midge_headers_count(const struct midge_headers *headers)
{
    MIDGE_ASSERT(headers != NULL);

    return headers->count;
}

void midge_headers_at(const struct midge_headers *headers, uint32_t index, const char **name_out,
                      const char **value_out)
{
    MIDGE_ASSERT(headers != NULL);
    MIDGE_ASSERT(index < headers->count);

    *name_out = name_at(headers, index);
    *value_out = value_at(headers, index);
}

/* --- writing --- */

uint32_t midge_headers_encoded_len(const struct midge_headers *headers)
{
    if (headers == NULL || headers->count == 0)
        return 0;
    /* `: ` and CRLF instead of the two NULs of each pair. */
    return (uint32_t)sizeof(VERSION_LINE) - 1 + 4 + headers->text_len + 2 * headers->count;
}

static uint8_t *put(uint8_t *out, const char *bytes, uint32_t len)
{
    memcpy(out, bytes, len);
    return out + len;
}

uint8_t *midge_headers_encode(uint8_t *out, const struct midge_headers *headers)
{
    if (headers == NULL || headers->count == 0)
        return out;
    out = put(out, VERSION_LINE "\r\n", sizeof(VERSION_LINE) - 1 + 2);
    for (uint32_t i = 0; i < headers->count; i++) {
        const uint32_t name_len = name_len_at(headers, i);
        const uint32_t value_len = pair_len_at(headers, i) - name_len - 2;

        out = put(out, name_at(headers, i), name_len);
        out = put(out, ": ", 2);
        out = put(out, value_at(headers, i), value_len);
        out = put(out, "\r\n", 2);
    }
    return put(out, "\r\n", 2);
}
