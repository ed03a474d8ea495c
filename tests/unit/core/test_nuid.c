/* Unique ids. Method: seeds whose ids can be told in advance, and many ids in a row. */
#include "midge/nuid.h"

#include <criterion/criterion.h>
#include <string.h>

static void set_word(uint8_t seed[MIDGE_NUID_SEED_LEN], uint32_t index, uint64_t word)
{
    memcpy(seed + 8u * index, &word, sizeof(word));
}

static bool is_digit_of_it(char byte)
{
    return (byte >= '0' && byte <= '9') || (byte >= 'A' && byte <= 'Z') ||
           (byte >= 'a' && byte <= 'z');
}

Test(nuid, an_id_is_22_letters_and_digits)
{
    struct midge_nuid nuid;
    uint8_t seed[MIDGE_NUID_SEED_LEN];
    char id[MIDGE_NUID_LEN + 1];

    for (uint32_t byte = 0; byte < 256; byte++) {
        memset(seed, (int)byte, sizeof(seed));
        midge_nuid_init(&nuid, seed);
        memset(id, 'x', sizeof(id));
        midge_nuid_next(&nuid, id);
        cr_assert_eq(strlen(id), MIDGE_NUID_LEN);
        for (uint32_t i = 0; i < MIDGE_NUID_LEN; i++)
            cr_assert(is_digit_of_it(id[i]), "%s", id);
    }
}

Test(nuid, a_seed_of_zeros_begins_with_the_smallest_step)
{
    const uint8_t seed[MIDGE_NUID_SEED_LEN] = {0};
    struct midge_nuid nuid;
    char id[MIDGE_NUID_LEN + 1];

    midge_nuid_init(&nuid, seed);
    midge_nuid_next(&nuid, id);
    cr_expect_str_eq(id, "000000000000000000000X"); /* 33 */
    midge_nuid_next(&nuid, id);
    cr_expect_str_eq(id, "0000000000000000000014"); /* 66 */
}

Test(nuid, every_part_of_the_seed_counts)
{
    uint8_t seed[MIDGE_NUID_SEED_LEN] = {0};
    struct midge_nuid nuid;
    char id[MIDGE_NUID_LEN + 1];

    set_word(seed, 0, 1);
    set_word(seed, 1, 61);
    set_word(seed, 2, 62);
    set_word(seed, 3, 299);
    midge_nuid_init(&nuid, seed);
    cr_expect_eq(nuid.step, 332);
    midge_nuid_next(&nuid, id);
    cr_expect_str_eq(id, "00000100000z000000006M"); /* 62 + 332 */
    set_word(seed, 3, 300);
    midge_nuid_init(&nuid, seed);
    cr_expect_eq(nuid.step, 33);
}

Test(nuid, the_counter_begins_again_at_its_end)
{
    const uint64_t last = 839299365868340223u; /* 62^10 - 1 */
    uint8_t seed[MIDGE_NUID_SEED_LEN] = {0};
    struct midge_nuid nuid;
    char id[MIDGE_NUID_LEN + 1];

    set_word(seed, 2, last);
    midge_nuid_init(&nuid, seed);
    midge_nuid_next(&nuid, id);
    cr_expect_str_eq(id, "000000000000000000000W"); /* 32 */
    set_word(seed, 2, last - 33);
    midge_nuid_init(&nuid, seed);
    midge_nuid_next(&nuid, id);
    cr_expect_str_eq(id, "000000000000zzzzzzzzzz");
}

Test(nuid, no_id_comes_twice)
{
    uint8_t seed[MIDGE_NUID_SEED_LEN];
    struct midge_nuid nuid;
    char before[MIDGE_NUID_LEN + 1];
    char id[MIDGE_NUID_LEN + 1];

    memset(seed, 0x5a, sizeof(seed));
    set_word(seed, 2, 0);
    midge_nuid_init(&nuid, seed);
    midge_nuid_next(&nuid, before);
    for (uint32_t i = 0; i < 100000; i++) {
        /* They count up, so each one is larger than all before. */
        midge_nuid_next(&nuid, id);
        cr_assert_lt(strcmp(before, id), 0, "%s %s", before, id);
        cr_assert_eq(memcmp(before, id, 12), 0);
        memcpy(before, id, sizeof(before));
    }
}
