/* What a payload says, and that no other is taken for one of ours. */
#include <criterion/criterion.h>
#include <stdlib.h>

#include "party.h"

#define SIZE_MAX_HERE 100u

struct bench {
    struct midge_run_options options;
    struct midge_party party;
    uint8_t payload[SIZE_MAX_HERE];
    uint8_t expected[SIZE_MAX_HERE];
};

/* A payload with a stamp, as midge_party_live() makes them. */
static void stamp(struct bench *bench, uint32_t size, struct midge_stamp value)
{
    *bench = (struct bench){.options = {.size = size}};
    bench->party = (struct midge_party){
        .options = &bench->options,
        .payload = bench->payload,
        .expected = bench->expected,
    };
    for (uint32_t i = 0; i < size; i++)
        bench->payload[i] = bench->expected[i] = (uint8_t)('a' + i % 26);
    midge_party_stamp(&bench->party, value);
}

static bool read(const struct bench *bench, uint32_t len, struct midge_stamp *value_out)
{
    return midge_party_read_stamp(&bench->party, midge_slice_make(bench->payload, len), value_out);
}

Test(party, a_payload_says_its_number_and_its_time)
{
    const struct midge_stamp values[] = {
        {0, 0}, {1, 0}, {0, 1}, {12345, 1u << 31}, {(1ull << 56) - 1, UINT64_MAX}};
    const uint32_t sizes[] = {16, 17, 24, SIZE_MAX_HERE};

    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
        for (size_t k = 0; k < sizeof sizes / sizeof sizes[0]; k++) {
            struct bench bench;
            struct midge_stamp found = {7, 7};

            stamp(&bench, sizes[k], values[i]);
            cr_assert(read(&bench, sizes[k], &found));
            cr_assert_eq(found.number, values[i].number);
            cr_assert_eq(found.intended_ns, values[i].intended_ns);
        }
    }
}

Test(party, a_payload_with_a_wrong_bit_or_length_is_not_ours)
{
    const uint32_t sizes[] = {16, 17, 24, SIZE_MAX_HERE};

    for (size_t k = 0; k < sizeof sizes / sizeof sizes[0]; k++) {
        struct bench bench;
        struct midge_stamp found;

        /* Of the first 16 bytes the check, a byte, finds all but one wrong bit in 256; of these
         * numbers it finds all. */
        stamp(&bench, sizes[k], (struct midge_stamp){54321, 1000000007});
        for (uint32_t bit = 0; bit < 8 * sizes[k]; bit++) {
            bench.payload[bit / 8] ^= (uint8_t)(1u << bit % 8);
            cr_assert_not(read(&bench, sizes[k], &found), "bit %u of %u bytes", bit, sizes[k]);
            bench.payload[bit / 8] ^= (uint8_t)(1u << bit % 8);
        }
        cr_assert(read(&bench, sizes[k], &found));
        cr_assert_not(read(&bench, sizes[k] - 1, &found));
        cr_assert_not(read(&bench, 0, &found));
    }
}
