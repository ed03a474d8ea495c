/* Requests under way: each ends once, whoever ends it, and they expire in their order. */
#include "driver_internal.h"

#include <criterion/criterion.h>
#include <stdlib.h>

Test(driver_flights, as_many_as_asked_for_can_be_under_way)
{
    struct midge_driver_flights flights;
    uint32_t number = 0;

    cr_assert_eq(midge_driver_flights_init(&flights, 3), MIDGE_OK);
    for (uint32_t i = 0; i < 3; i++)
        cr_assert(midge_driver_flights_begin(&flights, i, &number));
    cr_assert_not(midge_driver_flights_begin(&flights, 3, &number));
    cr_assert(midge_driver_flights_end(&flights, number));
    cr_assert(midge_driver_flights_begin(&flights, 3, &number));
    cr_assert_not(midge_driver_flights_begin(&flights, 4, &number));
    midge_driver_flights_deinit(&flights);
    cr_assert_not(midge_driver_flights_end(&flights, number));
}

Test(driver_flights, one_that_has_ended_does_not_end_again)
{
    struct midge_driver_flights flights;
    uint32_t first = 0;
    uint32_t second = 0;

    cr_assert_eq(midge_driver_flights_init(&flights, 1), MIDGE_OK);
    cr_assert(midge_driver_flights_begin(&flights, 1, &first));
    cr_assert(midge_driver_flights_end(&flights, first));
    cr_assert_not(midge_driver_flights_end(&flights, first));
    /* Its place is taken by another, which has another number. */
    cr_assert(midge_driver_flights_begin(&flights, 2, &second));
    cr_assert_neq(first, second);
    cr_assert_not(midge_driver_flights_end(&flights, first));
    cr_assert_eq(flights.count, 1);
    cr_assert(midge_driver_flights_end(&flights, second));
    cr_assert_not(midge_driver_flights_end(&flights, UINT32_MAX));
    midge_driver_flights_deinit(&flights);
}

Test(driver_flights, the_oldest_expires_first)
{
    struct midge_driver_flights flights;
    uint32_t numbers[4];

    cr_assert_eq(midge_driver_flights_init(&flights, 4), MIDGE_OK);
    cr_assert_eq(midge_driver_flights_until_ns(&flights), UINT64_MAX);
    cr_assert_not(midge_driver_flights_expire(&flights, UINT64_MAX));
    for (uint32_t i = 0; i < 4; i++)
        cr_assert(midge_driver_flights_begin(&flights, 10 * (i + 1), &numbers[i]));
    cr_assert_eq(midge_driver_flights_until_ns(&flights), 10);
    cr_assert_not(midge_driver_flights_expire(&flights, 9));
    cr_assert(midge_driver_flights_end(&flights, numbers[1])); /* from the middle */
    cr_assert(midge_driver_flights_expire(&flights, 10));
    cr_assert_not(midge_driver_flights_end(&flights, numbers[0]));
    cr_assert_eq(midge_driver_flights_until_ns(&flights), 30);
    cr_assert(midge_driver_flights_end(&flights, numbers[3])); /* from the end */
    cr_assert(midge_driver_flights_expire(&flights, UINT64_MAX));
    cr_assert_not(midge_driver_flights_expire(&flights, UINT64_MAX));
    cr_assert_eq(flights.count, 0);
    midge_driver_flights_deinit(&flights);
}

Test(driver_flights, a_number_comes_back_through_its_digits)
{
    static const uint32_t numbers[] = {0, 1, 0x7fffffff, 0x80000000, 0xdeadbeef, UINT32_MAX};
    uint8_t digits[MIDGE_DRIVER_NUMBER_LEN];
    uint32_t number = 0;

    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        midge_driver_put_number(digits, numbers[i]);
        cr_assert(midge_driver_get_number(digits, &number));
        cr_assert_eq(number, numbers[i]);
    }
    midge_driver_put_number(digits, 0x0123cdef);
    cr_assert_arr_eq(digits, "0123cdef", sizeof digits);
    cr_assert_not(midge_driver_get_number((const uint8_t *)"0123cdeg", &number));
    cr_assert_not(midge_driver_get_number((const uint8_t *)"0123 def", &number));
    cr_assert_not(midge_driver_get_number((const uint8_t *)"0123CDEF", &number));
    cr_assert_eq(number, UINT32_MAX);
}
