/* Options that are a number. See number.h. */
#include "number.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "midge/compiler.h"

bool midge_number_parse(const struct midge_number *number, const char *name, const char *text)
{
    char *end = NULL;
    unsigned long value;

    MIDGE_ASSERT(strcmp(number->name, name) == 0); /* the two tables are in the same order */
    if (text[0] < '0' || text[0] > '9')
        return false;
    errno = 0;
    value = strtoul(text, &end, 10);
    if (errno != 0 || *end != '\0' || value < number->min || value > number->max)
        return false;
    *number->value = (uint32_t)value;
    return true;
}
