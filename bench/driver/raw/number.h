/*
 * Command line options that are a number. The table of them is in the order in which getopt_long()
 * knows their names.
 *
 * Thread: any (lock-free).
 */
#ifndef MIDGE_NUMBER_H
#define MIDGE_NUMBER_H

#include <stdbool.h>
#include <stdint.h>

/* Where it goes and what is allowed. */
struct midge_number {
    const char *name;
    uint32_t *value;
    uint32_t min;
    uint32_t max;
};

/** @param name  by which getopt_long() knows it. @return false if the text is no such number, and
 * nothing was written */
bool midge_number_parse(const struct midge_number *number, const char *name, const char *text);

#endif
