/*
 * A borrowed view of bytes. Never owns, never NUL-terminated. Part of the client library's
 * interface, so it is C++ as well.
 *
 * Thread: constant after init (a value; what it points at belongs to somebody else).
 */
#ifndef MIDGE_SLICE_H
#define MIDGE_SLICE_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

struct midge_slice {
    const uint8_t *base;
    uint32_t len;
};

/* C only. */
#define MIDGE_SLICE_LITERAL(text)                                                                  \
    ((struct midge_slice){(const uint8_t *)("" text), (uint32_t)sizeof(text) - 1})

/* A view of `len` bytes at `base`. */
static inline struct midge_slice midge_slice_make(const void *base, uint32_t len)
{
    const struct midge_slice slice = {(const uint8_t *)base, len};

    return slice;
}

/* A copy, field by field: a copy of the whole right after the fields were written one by one waits
 * until both have left the store buffer, some 12 cycles. For slices on the message path. */
static inline struct midge_slice midge_slice_copy(const struct midge_slice *slice)
{
    return midge_slice_make(slice->base, slice->len);
}

/* The bytes of a NUL-terminated string; for main, config, log and tests. */
static inline struct midge_slice midge_slice_text(const char *text)
{
    return midge_slice_make(text, (uint32_t)strlen(text));
}

/* True if both have the same bytes. */
static inline bool midge_slice_equal(struct midge_slice a, struct midge_slice b)
{
    return a.len == b.len && (a.len == 0 || memcmp(a.base, b.base, a.len) == 0);
}

/* True if the slice begins with the bytes of `prefix`. */
static inline bool midge_slice_starts_with(struct midge_slice slice, struct midge_slice prefix)
{
    return slice.len >= prefix.len && memcmp(slice.base, prefix.base, prefix.len) == 0;
}

#endif
