/* The kinds of drivers, and what they share; see driver.h. */
#include "driver.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#include "driver_internal.h"

static const struct midge_driver_kind *const kinds[] = {
    &midge_driver_midge,
#ifdef MIDGE_HAVE_LIBNATS
    &midge_driver_natsc,
#endif
    &midge_driver_raw,
};

const struct midge_driver_kind *midge_driver_find(const char *name)
{
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        if (strcmp(kinds[i]->name, name) == 0)
            return kinds[i];
    }
    return NULL;
}

const char *midge_driver_names(void)
{
#ifdef MIDGE_HAVE_LIBNATS
    return "midge, natsc, raw";
#else
    return "midge, raw";
#endif
}

enum midge_status midge_driver_complain(const char *kind, enum midge_status status,
                                        const char *what, const char *why)
{
    (void)fprintf(stderr, "midge-bench: %s: %s: %s\n", kind, what, why);
    return status;
}

uint64_t midge_driver_tick_ns(void)
{
    struct timespec now;

    (void)clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}
