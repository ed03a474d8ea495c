/*
 * Histograms as JSON and back. Method: what comes back is compared counter by counter; an object
 * that is right is changed in one place, or in two that fit each other, and refused or taken.
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "histogram.h"
#include "histogram_same.h"

static struct midge_histogram histogram;
static struct midge_histogram read_back;

static void add_lognormal_like(uint32_t count)
{
    uint64_t seed = 3;

    for (uint32_t i = 0; i < count; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        midge_histogram_add(&histogram, (seed >> 44) * (seed >> 58 & 15) + (seed >> 60), 1);
    }
}

/* Through text, as it goes through a file. */
static void expect_same_back(void)
{
    json_t *json = midge_histogram_to_json(&histogram);
    char *text = json_dumps(json, 0);
    json_t *loaded = json_loads(text, 0, NULL);

    memset(&read_back, 0x5a, sizeof read_back);
    cr_assert_eq(midge_histogram_from_json(&read_back, loaded), MIDGE_OK);
    cr_expect(is_same(&read_back, &histogram));

    json_t *again = midge_histogram_to_json(&read_back);
    char *text_again = json_dumps(again, 0);

    cr_expect_str_eq(text_again, text);
    free(text_again);
    json_decref(again);
    json_decref(loaded);
    free(text);
    json_decref(json);
}

Test(histogram_json, what_was_written_is_read_back)
{
    midge_histogram_init(&histogram);
    expect_same_back();
    midge_histogram_add(&histogram, 1234567, 1);
    expect_same_back();
    add_lognormal_like(99);
    expect_same_back();
    add_lognormal_like(200000);
    expect_same_back();
    midge_histogram_add(&histogram, MIDGE_HISTOGRAM_NS_MAX, 3);
    expect_same_back();
    midge_histogram_add(&histogram, UINT64_MAX, 2);
    expect_same_back();
}

Test(histogram_json, only_samples_beyond_an_hour_are_read_back)
{
    midge_histogram_init(&histogram);
    midge_histogram_add(&histogram, MIDGE_HISTOGRAM_NS_MAX + 1, 1);
    expect_same_back();
    midge_histogram_add(&histogram, 2 * MIDGE_HISTOGRAM_NS_MAX, 500);
    expect_same_back();
    midge_histogram_add(&histogram, MIDGE_HISTOGRAM_NS_MAX, 1);
    expect_same_back();
}

Test(histogram_json, a_sum_at_its_limit_is_read_back)
{
    midge_histogram_init(&histogram);
    midge_histogram_add(&histogram, MIDGE_HISTOGRAM_NS_MAX, 1ull << 52);
    midge_histogram_add(&histogram, MIDGE_HISTOGRAM_NS_MAX / 2, 1ull << 52);
    expect_same_back();
}

Test(histogram_json, reported_percentiles_are_there_or_null)
{
    midge_histogram_init(&histogram);
    for (uint64_t ns = 1; ns <= 1000; ns++)
        midge_histogram_add(&histogram, ns, 1);

    json_t *json = midge_histogram_to_json(&histogram);

    cr_expect_eq(json_integer_value(json_object_get(json, "count")), 1000);
    cr_expect_eq(json_integer_value(json_object_get(json, "min_ns")), 1);
    cr_expect_eq(json_integer_value(json_object_get(json, "max_ns")), 1000);
    cr_expect_eq(json_integer_value(json_object_get(json, "sum_ns")), 500500);
    cr_expect_eq(json_real_value(json_object_get(json, "mean_ns")), 500.5);
    cr_expect_eq(json_integer_value(json_object_get(json, "p50_ns")), 500);
    cr_expect_eq(json_integer_value(json_object_get(json, "p90_ns")), 900);
    cr_expect(json_is_null(json_object_get(json, "p99_ns")));
    cr_expect(json_is_null(json_object_get(json, "p999_ns")));
    cr_expect(json_is_null(json_object_get(json, "p9999_ns")));
    cr_expect_eq(json_array_size(json_object_get(json, "buckets")), 1000);
    json_decref(json);
}

/* What the histogram says, with the members of `change` instead; one that is "absent" is taken
 * away. */
static enum midge_status read_changed(const char *change)
{
    json_t *json = midge_histogram_to_json(&histogram);
    json_t *changes = json_loads(change, 0, NULL);
    const char *key = NULL;
    json_t *value = NULL;

    cr_assert_not_null(changes, "%s", change);
    json_object_foreach(changes, key, value)
    {
        cr_assert_not_null(json_object_get(json, key), "%s", key);
        if (json_is_string(value) && strcmp(json_string_value(value), "absent") == 0)
            json_object_del(json, key);
        else
            json_object_set(json, key, value);
    }
    /* Neither full nor empty, so that a failure which writes is seen. */
    midge_histogram_init(&read_back);
    midge_histogram_add(&read_back, 77, 7);

    const enum midge_status status = midge_histogram_from_json(&read_back, json);

    json_decref(changes);
    json_decref(json);
    return status;
}

static void expect_refused(const char *change)
{
    static struct midge_histogram before;

    cr_expect_eq(read_changed(change), MIDGE_E_CONFIG, "taken: %s", change);
    midge_histogram_init(&before);
    midge_histogram_add(&before, 77, 7);
    cr_expect(is_same(&read_back, &before), "it is left alone: %s", change);
}

static void expect_taken(const char *change)
{
    cr_expect_eq(read_changed(change), MIDGE_OK, "refused: %s", change);
}

static void fill_1_to_1000(void)
{
    midge_histogram_init(&histogram);
    for (uint64_t ns = 1; ns <= 1000; ns++)
        midge_histogram_add(&histogram, ns, 1);
}

Test(histogram_json, what_is_no_histogram_is_refused)
{
    json_t *array = json_array();
    json_t *object = json_object();

    cr_expect_eq(midge_histogram_from_json(&read_back, NULL), MIDGE_E_CONFIG);
    cr_expect_eq(midge_histogram_from_json(&read_back, array), MIDGE_E_CONFIG);
    cr_expect_eq(midge_histogram_from_json(&read_back, object), MIDGE_E_CONFIG);
    json_decref(object);
    json_decref(array);
}

Test(histogram_json, every_member_is_needed_and_of_its_type)
{
    static const char *const keys[] = {"count",        "min_ns",  "max_ns",   "mean_ns",
                                       "sum_ns",       "p50_ns",  "p90_ns",   "p99_ns",
                                       "beyond_count", "p999_ns", "p9999_ns", "beyond_min"};
    static const char *const values[] = {"\"absent\"", "\"1\"", "true", "[]", "{}"};
    char change[64];

    fill_1_to_1000();
    expect_taken("{}");
    for (uint32_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        for (uint32_t j = 0; j < sizeof values / sizeof values[0]; j++) {
            (void)snprintf(change, sizeof change, "{\"%s\": %s}", keys[i], values[j]);
            expect_refused(change);
        }
    }
    expect_refused("{\"buckets\": \"absent\"}");
    expect_refused("{\"buckets\": {}}");
    expect_refused("{\"buckets\": 3}");
}

Test(histogram_json, figures_that_do_not_fit_are_refused)
{
    static const char *const changes[] = {
        "{\"count\": 999}",
        "{\"count\": 1001}",
        "{\"count\": -1000}",
        "{\"count\": 1000.0}",
        "{\"count\": null}",
        "{\"min_ns\": 0}",
        "{\"min_ns\": 2}",
        "{\"min_ns\": -1}",
        "{\"min_ns\": null}",
        "{\"max_ns\": 999}",
        "{\"max_ns\": 1001}",
        "{\"max_ns\": null}",
        "{\"max_ns\": 1e3}",
        "{\"mean_ns\": 500.6}",
        "{\"mean_ns\": -500.5}",
        "{\"mean_ns\": null}",
        "{\"beyond_count\": 1}",
        "{\"beyond_count\": -1}",
        "{\"beyond_min\": 0}",
        "{\"beyond_min\": 101}",
        "{\"p50_ns\": 501}",
        "{\"p50_ns\": 499}",
        "{\"p50_ns\": null}",
        "{\"p90_ns\": 900.0}",
        "{\"p99_ns\": 990}",
        "{\"p9999_ns\": 1000}",
        "{\"sum_ns\": 500501, \"mean_ns\": 500.501}",
        "{\"beyond_count\": 1000}",
        "{\"sum_ns\": 500499, \"mean_ns\": 500.499}",
        "{\"sum_ns\": null}",
        "{\"sum_ns\": 9223372036854775807, \"mean_ns\": 9223372036854775.807}",
    };

    fill_1_to_1000();
    for (uint32_t i = 0; i < sizeof changes / sizeof changes[0]; i++)
        expect_refused(changes[i]);
    expect_taken("{\"mean_ns\": 500.50000001}");
}

/* One sample of 5 ns, and a list of buckets that is not its. */
Test(histogram_json, buckets_that_are_not_right_are_refused)
{
    static const char *const lists[] = {
        "[]",
        "[5, 1]",
        "[[5]]",
        "[[5, 1, 1]]",
        "[[5, 0]]",
        "[[5, -1]]",
        "[[5, 1.0]]",
        "[[\"5\", 1]]",
        "[[5, null]]",
        "[null]",
        "[[5, 2]]",
        "[[6, 1]]",
        "[[-5, 1]]",
        "[[4294967301, 1]]",
        "[[5, 1], [5, 1]]",
        "[[5, 1], [6, 1]]",
        "[[33792, 1]]",
        "[[5, 9007199254740993]]",
    };
    char change[128];

    midge_histogram_init(&histogram);
    midge_histogram_add(&histogram, 5, 1);
    expect_taken("{\"buckets\": [[5, 1]]}");
    for (uint32_t i = 0; i < sizeof lists / sizeof lists[0]; i++) {
        (void)snprintf(change, sizeof change, "{\"buckets\": %s}", lists[i]);
        expect_refused(change);
    }
    expect_refused("{\"buckets\": [[0, 1]], \"min_ns\": 0, \"max_ns\": 0, \"sum_ns\": 0, "
                   "\"mean_ns\": 0}");
}

Test(histogram_json, buckets_out_of_order_are_refused)
{
    midge_histogram_init(&histogram);
    midge_histogram_add(&histogram, 5, 1);
    midge_histogram_add(&histogram, 9, 1);
    expect_taken("{\"buckets\": [[5, 1], [9, 1]]}");
    expect_refused("{\"buckets\": [[9, 1], [5, 1]]}");
}

/* The second pair of a bucket replaces the first, and then three samples would be two. */
Test(histogram_json, a_bucket_that_is_there_twice_is_refused)
{
    midge_histogram_init(&histogram);
    midge_histogram_add(&histogram, 5, 2);
    expect_taken("{\"buckets\": [[5, 2]]}");
    expect_refused("{\"buckets\": [[5, 1], [5, 2]], \"count\": 3, \"mean_ns\": 3.3333333333}");
}

Test(histogram_json, more_samples_than_can_be_counted_are_refused)
{
    midge_histogram_init(&histogram);
    midge_histogram_add(&histogram, 1, 1ull << 52);
    midge_histogram_add(&histogram, 2, 1ull << 52);
    expect_taken("{}");
    expect_refused("{\"buckets\": [[1, 4503599627370496], [2, 4503599627370497]], "
                   "\"count\": 9007199254740993, \"sum_ns\": 13510798882111490}");
}

/* 4,096 buckets of 2^52, which in 64 bits are nothing. */
Test(histogram_json, samples_whose_count_overflows_are_refused)
{
    midge_histogram_init(&histogram);

    json_t *json = midge_histogram_to_json(&histogram);
    json_t *buckets = json_array();

    for (json_int_t i = 1; i <= 4096; i++)
        json_array_append_new(buckets, json_pack("[I, I]", i, (json_int_t)1 << 52));
    json_object_set_new(json, "buckets", buckets);
    cr_expect_eq(midge_histogram_from_json(&read_back, json), MIDGE_E_CONFIG);
    json_decref(json);
}

/* 5,000, 5,002 and 5,003 are one bucket: the one between the ends is anything from 5,000 to 5,003.
 */
Test(histogram_json, a_sum_outside_of_what_the_buckets_leave_is_refused)
{
    midge_histogram_init(&histogram);
    midge_histogram_add(&histogram, 5000, 1);
    midge_histogram_add(&histogram, 5002, 1);
    midge_histogram_add(&histogram, 5003, 1);
    expect_refused("{\"sum_ns\": 15002, \"mean_ns\": 5000.6666666667}");
    expect_taken("{\"sum_ns\": 15003, \"mean_ns\": 5001}");
    expect_taken("{\"sum_ns\": 15006, \"mean_ns\": 5002}");
    expect_refused("{\"sum_ns\": 15007, \"mean_ns\": 5002.3333333333}");
    expect_refused("{\"min_ns\": 5004}");
    expect_refused("{\"max_ns\": 4999}");
    expect_refused("{\"min_ns\": 5003, \"max_ns\": 5000}");
}

Test(histogram_json, the_smallest_above_the_largest_is_refused)
{
    midge_histogram_init(&histogram);
    midge_histogram_add(&histogram, 5000, 1);
    midge_histogram_add(&histogram, 5003, 1);
    expect_refused("{\"min_ns\": 5003, \"max_ns\": 5000}");
}

Test(histogram_json, one_sample_is_the_smallest_the_largest_and_the_sum)
{
    midge_histogram_init(&histogram);
    midge_histogram_add(&histogram, 5002, 1);
    expect_refused("{\"min_ns\": 5001}");
    expect_refused("{\"max_ns\": 5003}");
    expect_refused("{\"sum_ns\": 5001, \"mean_ns\": 5001}");
    expect_refused("{\"sum_ns\": 5003, \"mean_ns\": 5003}");
    expect_taken("{\"min_ns\": 5003, \"max_ns\": 5003, \"sum_ns\": 5003, \"mean_ns\": 5003}");
}

Test(histogram_json, samples_beyond_an_hour_must_fit)
{
    midge_histogram_init(&histogram);
    midge_histogram_add(&histogram, 1000, 1);
    midge_histogram_add(&histogram, MIDGE_HISTOGRAM_NS_MAX, 1);
    midge_histogram_add(&histogram, 2 * MIDGE_HISTOGRAM_NS_MAX, 1);
    expect_taken("{\"max_ns\": 9000000000000}");
    expect_refused("{\"beyond_count\": 0}");
    expect_refused("{\"beyond_count\": 3}");
    expect_refused("{\"max_ns\": 3600000000000}");
    expect_refused("{\"min_ns\": 3600000000001}");
    expect_refused("{\"sum_ns\": 7200000001001, \"mean_ns\": 2400000000333.6667}");
    /* The second one may be any of the bucket of an hour. */
    expect_taken("{\"sum_ns\": 7199999001000, \"mean_ns\": 2399999667000}");
    /* Both of that bucket beyond, and the sum is known. */
    expect_taken("{\"beyond_count\": 2}");
    expect_refused("{\"beyond_count\": 2, \"sum_ns\": 7199999001000, \"mean_ns\": 2399999667000}");
}

Test(histogram_json, the_smallest_sample_says_whether_all_are_beyond_an_hour)
{
    midge_histogram_init(&histogram);
    midge_histogram_add(&histogram, MIDGE_HISTOGRAM_NS_MAX, 1);
    midge_histogram_add(&histogram, 2 * MIDGE_HISTOGRAM_NS_MAX, 1);
    expect_refused("{\"beyond_count\": 2}");
    expect_taken("{\"beyond_count\": 2, \"min_ns\": 3600000000001}");
    expect_refused("{\"min_ns\": 3600000000001}");
}

/* One too many makes of the others in the bucket so many that any sum would do. */
Test(histogram_json, more_beyond_an_hour_than_are_in_its_bucket_are_refused)
{
    midge_histogram_init(&histogram);
    midge_histogram_add(&histogram, 1000, 2);
    midge_histogram_add(&histogram, 2 * MIDGE_HISTOGRAM_NS_MAX, 2);
    expect_refused("{\"beyond_count\": 3, \"sum_ns\": 9223372036854775807, "
                   "\"mean_ns\": 2305843009213693951.75}");
}

Test(histogram_json, an_empty_one_has_nothing)
{
    midge_histogram_init(&histogram);
    expect_taken("{\"min_ns\": 0, \"max_ns\": 0, \"mean_ns\": 0}");
    expect_refused("{\"count\": 1}");
    expect_refused("{\"sum_ns\": 1}");
    expect_refused("{\"beyond_count\": 1}");
    expect_refused("{\"min_ns\": 1}");
    expect_refused("{\"max_ns\": 1}");
    expect_refused("{\"min_ns\": null}");
    expect_refused("{\"mean_ns\": null}");
    expect_refused("{\"mean_ns\": 1.0}");
    expect_refused("{\"p50_ns\": 0}");
}
