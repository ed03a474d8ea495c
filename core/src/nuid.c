/* Unique ids. See midge/nuid.h. */
#include "midge/nuid.h"

#include <string.h>

#define PREFIX_LEN  12u
#define COUNTER_LEN 10u
#define BASE        62u
#define COUNTER_END 839299365868340224u /* 62^10 */
#define STEP_MIN    33u
#define STEP_COUNT  300u

static const char digits[] = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

static uint64_t word_of(const uint8_t *bytes)
{
    uint64_t word;

    memcpy(&word, bytes, sizeof(word));
    return word;
}

static void put_digits(char *out, uint32_t len, uint64_t number)
{
    while (len > 0) {
        out[--len] = digits[number % BASE];
        number /= BASE;
    }
}

void midge_nuid_init(struct midge_nuid *nuid, const uint8_t seed[MIDGE_NUID_SEED_LEN])
{
    /* Six digits of each word: 62^6 is far below 2^64, so that none is favoured to speak of. */
    put_digits(nuid->prefix, PREFIX_LEN / 2, word_of(seed));
    put_digits(nuid->prefix + PREFIX_LEN / 2, PREFIX_LEN / 2, word_of(seed + 8));
    nuid->counter = word_of(seed + 16) % COUNTER_END;
    nuid->step = STEP_MIN + word_of(seed + 24) % STEP_COUNT;
}

void midge_nuid_next(struct midge_nuid *nuid, char *out)
{
    /* After 62^10 / 332 ids the counter begins again; nobody makes so many. */
    nuid->counter = (nuid->counter + nuid->step) % COUNTER_END;
    memcpy(out, nuid->prefix, PREFIX_LEN);
    put_digits(out + PREFIX_LEN, COUNTER_LEN, nuid->counter);
    out[MIDGE_NUID_LEN] = '\0';
}
