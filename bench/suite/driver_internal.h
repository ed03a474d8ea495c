/*
 * What the kinds of drivers share: how a failure is said, the header of has_headers, and the
 * requests that a connection has under way.
 *
 * Thread: any, unless a function says otherwise.
 */
#ifndef MIDGE_DRIVER_INTERNAL_H
#define MIDGE_DRIVER_INTERNAL_H

#include <stdbool.h>
#include <stdint.h>

#include "midge/compiler.h"
#include "midge/status.h"
#include "process.h"

/* The header of has_headers. */
#define MIDGE_DRIVER_HEADER_NAME  "Bench"
#define MIDGE_DRIVER_HEADER_VALUE "0123456789abcdef"

/** Say a failure of a driver on standard error. @return status */
enum midge_status midge_driver_complain(const char *kind, enum midge_status status,
                                        const char *what, const char *why);

/** CLOCK_MONOTONIC as of its last tick, up to some ms ago: for time-outs, at a third of the cost.
 */
uint64_t midge_driver_tick_ns(void);

/* Requests of one connection at a time; what a program may ask for. */
#define MIDGE_DRIVER_FLIGHTS_MAX (1u << 20)

/* A number is what its reply subject ends with. Each is used once in 2^31 / capacity requests; the
 * upper bit is left to numbers of other requests. */
#define MIDGE_DRIVER_NUMBER_MASK 0x7fffffffu

struct midge_driver_flight;

/*
 * Asynchronous requests under way, each ended at most once. They time out in the order in which
 * they began, for all have the same time.
 *
 * Thread: shard (one owner, no atomics).
 * Memory: own; allocated by init only.
 */
struct midge_driver_flights {
    struct midge_driver_flight *slots; /* own; NULL = not initialised */
    uint32_t slot_count;               /* power of two */
    uint32_t count_max;
    uint32_t count;      /* under way */
    uint32_t free_index; /* head of a list */
    uint32_t oldest_index;
    uint32_t newest_index;
};

/** @param count_max  1..MIDGE_DRIVER_FLIGHTS_MAX. @return MIDGE_OK; E_MEMORY */
MIDGE_MUST_CHECK enum midge_status midge_driver_flights_init(struct midge_driver_flights *flights,
                                                             uint32_t count_max);

/** All zero is fine, and is what is left. */
void midge_driver_flights_deinit(struct midge_driver_flights *flights);

/** Begin one. @param until_ns  not before that of the one before. @return false: count_max are
 * under way */
MIDGE_MUST_CHECK bool midge_driver_flights_begin(struct midge_driver_flights *flights,
                                                 uint64_t until_ns, uint32_t *number_out);

/** End one. @return false: none of that number is under way */
MIDGE_MUST_CHECK bool midge_driver_flights_end(struct midge_driver_flights *flights,
                                               uint32_t number);

/** End the oldest one if its time is over. @return false: it is not, or there is none */
MIDGE_MUST_CHECK bool midge_driver_flights_expire(struct midge_driver_flights *flights,
                                                  uint64_t now_ns);

/** When the next one is to expire, UINT64_MAX if there is none. */
uint64_t midge_driver_flights_until_ns(const struct midge_driver_flights *flights);

/* Digits of a number in a reply subject: hexadecimal, lower case. */
#define MIDGE_DRIVER_NUMBER_LEN 8u

/** Write all digits. */
void midge_driver_put_number(uint8_t out[MIDGE_DRIVER_NUMBER_LEN], uint32_t number);

/** Read them. @return false: not such digits */
MIDGE_MUST_CHECK bool midge_driver_get_number(const uint8_t digits[MIDGE_DRIVER_NUMBER_LEN],
                                              uint32_t *number_out);

#endif
