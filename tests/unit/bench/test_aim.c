/* What a comparison should show, said beforehand. */
#include <criterion/criterion.h>
#include <string.h>

#include "aim.h"
#include "metric.h"

static json_t *judge(const char *text)
{
    json_t *summary =
        json_pack("{s:{s:{s:f, s:f, s:f, s:i, s:i}, s:{s:f, s:i, s:i}}}", "a", "each", "median",
                  180.0, "min", 170.0, "max", 190.0, "rounds", 2, "round_count", 2, "rss", "median",
                  1.0, "rounds", 1, "round_count", 2);
    json_t *ratios = json_pack(
        "[{s:s, s:s, s:s, s:f, s:f, s:f, s:i, s:i}, {s:s, s:s, s:s, s:f}, {s:s, s:s, s:s, s:f, "
        "s:f, s:f, s:i, s:i}, {s:s, s:s, s:s, s:f, s:n, s:n, s:i, s:i}]",
        "subject", "a", "base", "floor", "metric", "p50", "middle", 1.05, "low", 1.02, "high", 1.08,
        "rounds", 8, "round_count", 8, "subject", "b", "base", "floor", "metric", "p50", "middle",
        9.0, "subject", "a", "base", "floor", "metric", "p99.9", "middle", 1.0, "low", 0.9, "high",
        1.1, "rounds", 9, "round_count", 10, "subject", "a", "base", "floor", "metric", "cpu",
        "middle", 1.0, "low", "high", "rounds", 7, "round_count", 7);
    struct midge_aim aim;
    json_t *judged = NULL;

    cr_assert_eq(midge_aim_parse(text, &aim), MIDGE_OK, "%s", text);
    judged = midge_aim_judge(&aim, summary, ratios);
    json_decref(summary);
    json_decref(ratios);
    cr_assert_not_null(judged);
    return judged;
}

static void assert_met(const char *text, bool is_met, double value)
{
    json_t *judged = judge(text);

    cr_assert_eq(json_is_true(json_object_get(judged, "is_met")), is_met, "%s", text);
    cr_assert_float_eq(json_number_value(json_object_get(judged, "value")), value, 1e-9);
    json_decref(judged);
}

Test(aim, a_ratio_is_that_of_the_first_server_over_its_base)
{
    assert_met("p50<=1.10*floor", true, 1.05);
    assert_met("p50<=1.04*floor", false, 1.05);
    assert_met("p50>=1.05*floor", true, 1.05);
    assert_met("p50>=1.06*floor", false, 1.05);
}

Test(aim, a_figure_is_the_first_servers_median)
{
    assert_met("each<=200", true, 180);
    assert_met("each<=179.5", false, 180);
}

Test(aim, what_was_not_measured_is_neither_met_nor_missed)
{
    json_t *judged = judge("p99<=1.5*floor");

    cr_assert(json_is_null(json_object_get(judged, "is_met")));
    json_decref(judged);
    judged = judge("rate>=5");
    cr_assert(json_is_null(json_object_get(judged, "is_met")));
    json_decref(judged);
}

Test(aim, what_is_not_known_in_all_rounds_or_of_too_few_is_neither)
{
    static const char *const texts[] = {"p99.9<=1.5*floor", "cpu<=1.5*floor", "rss<=5"};

    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        json_t *judged = judge(texts[i]);

        cr_expect(json_is_number(json_object_get(judged, "value")), "%s", texts[i]);
        cr_expect(json_is_null(json_object_get(judged, "is_met")), "%s", texts[i]);
        json_decref(judged);
    }
}

Test(aim, other_texts_are_refused)
{
    static const char *const texts[] = {"",
                                        "p50",
                                        "p50<1",
                                        "p50<=",
                                        "p50<=x",
                                        "p50<=1*",
                                        "p50<=1floor",
                                        "p51<=1",
                                        "cores<=1",
                                        "<=1",
                                        "p50==1",
                                        "p50<=-1",
                                        "p50<=1*0123456789012345",
                                        "p50=>1"};

    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        struct midge_aim aim;

        cr_assert_eq(midge_aim_parse(texts[i], &aim), MIDGE_E_CONFIG, "%s", texts[i]);
    }
}
