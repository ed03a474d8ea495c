/* Where a curve bends. Method: runs made by hand, of 1 s. */
#include <criterion/criterion.h>
#include <math.h>

#include "knee.h"

#define DURATION_MS 1000u

/* A percentile of 0 is not known. */
struct point {
    uint32_t rate;
    uint32_t sent;
    uint32_t received;
    double p50_ns;
    double p99_ns;
    const char *failed;
};

static json_t *number_or_null(double value)
{
    return value > 0 ? json_real(value) : json_null();
}

static void look(struct midge_knee *knee, struct point point)
{
    json_t *run = json_pack("{s:i, s:i, s:f, s:{s:o, s:n, s:o}, s:s?}", "sent", (int)point.sent,
                            "missed", 0, "rate_per_s", (double)point.received, "latency", "p50_ns",
                            number_or_null(point.p50_ns), "p90_ns", "p99_ns",
                            number_or_null(point.p99_ns), "failed", point.failed);

    cr_assert_not_null(run);
    midge_knee_look(knee, run, point.rate, DURATION_MS);
    json_decref(run);
}

Test(knee, there_is_none_while_nothing_grows)
{
    struct midge_knee knee;

    midge_knee_init(&knee);
    look(&knee, (struct point){1000, 1000, 1000, 5e4, 9e4, NULL});
    look(&knee, (struct point){1500, 1500, 1480, 6e4, 8.9e5, NULL});
    cr_assert_str_empty(knee.reason);
    cr_assert_eq(knee.kept_per_s, 1500);
}

Test(knee, p99_counts_from_the_lowest_rate_that_has_one)
{
    struct midge_knee knee;

    midge_knee_init(&knee);
    look(&knee, (struct point){1000, 1000, 1000, 5e4, 0, NULL});
    look(&knee, (struct point){1500, 1500, 1500, 5e4, 9e4, NULL});
    cr_assert_str_empty(knee.reason);
    look(&knee, (struct point){2250, 2250, 2250, 5e4, 9.1e5, NULL});
    cr_assert_str_eq(knee.reason, "p99 is more than 10 times that of 1500/s");
    cr_assert_eq(knee.kept_per_s, 1500);
}

Test(knee, p50_is_compared_where_no_p99_can_be)
{
    struct midge_knee knee;

    midge_knee_init(&knee);
    look(&knee, (struct point){1000, 1000, 1000, 5e4, 0, NULL});
    look(&knee, (struct point){1500, 1500, 1500, 6e5, 9e5, NULL});
    cr_assert_str_eq(knee.reason, "p50 is more than 10 times that of 1000/s");
}

Test(knee, what_is_kept_is_a_part_of_what_was_sent)
{
    struct midge_knee knee;

    midge_knee_init(&knee);
    look(&knee, (struct point){1000, 900, 900, 5e4, 0, NULL});
    cr_assert_str_empty(knee.reason, "random arrivals were fewer");
    look(&knee, (struct point){1500, 1600, 1500, 5e4, 0, NULL});
    cr_assert_str_eq(knee.reason, "less than 95 % of the rate was kept");
    cr_assert_eq(knee.kept_per_s, 1000);
}

Test(knee, run_that_fails_is_past_it)
{
    struct midge_knee knee;

    midge_knee_init(&knee);
    look(&knee, (struct point){1000, 1000, 1000, 5e4, 0, NULL});
    look(&knee, (struct point){1500, 1500, 1500, 5e4, 0, "fell behind"});
    cr_assert_str_eq(knee.reason, "fell behind");
    cr_assert_eq(knee.kept_per_s, 1000);
}

Test(knee, server_that_does_not_start_has_none)
{
    struct midge_knee knee;

    midge_knee_init(&knee);
    look(&knee, (struct point){1000, 1000, 1000, 5e4, 0, NULL});
    look(&knee, (struct point){1500, 0, 0, 0, 0, "could not be started"});
    cr_assert(isnan(knee.kept_per_s));
}
