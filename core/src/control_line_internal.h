/*
 * What control lines are made of, which clients and servers write alike.
 *
 * Thread: any (lock-free); pure functions.
 */
#ifndef MIDGE_CONTROL_LINE_INTERNAL_H
#define MIDGE_CONTROL_LINE_INTERNAL_H

#include "midge/limits.h"
#include "midge/slice.h"

/** What separates words. */
static inline bool midge_is_blank(uint8_t byte)
{
    return byte == ' ' || byte == '\t';
}

/** One to nine decimal digits. Source: nats-server v2.15.2, server/util.go:83.
 * @return false if it is anything else, and nothing was written */
static inline bool midge_size_parse(struct midge_slice text, uint32_t *size_out)
{
    uint32_t size = 0;

    if (text.len == 0 || text.len > MIDGE_SIZE_DIGITS_MAX)
        return false;
    for (uint32_t i = 0; i < text.len; i++) {
        const uint32_t digit = (uint32_t)text.base[i] - '0';

        if (digit > 9)
            return false;
        size = size * 10 + digit;
    }
    *size_out = size;
    return true;
}

#endif
