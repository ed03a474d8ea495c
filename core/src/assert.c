/* Where a broken invariant ends: one line to standard error, then abort. */
#include "midge/compiler.h"

#include <stdio.h>
#include <stdlib.h>

_Noreturn void midge_assert_fail(const char *expression, const char *file, int line)
{
    /* style: the only write to standard error in core; the process ends here. */
    (void)fprintf(stderr, "midge: assertion failed: %s (%s:%d)\n", expression, file, line);
    abort();
}
