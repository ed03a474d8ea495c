/* What is made of runs; see compare.h. */
#include "compare.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "metric.h"
#include "statistics.h"
#include "subject.h"

/* Rates of a curve rise by this factor: half a decade has three points. */
#define CURVE_STEP 1.5

/* Past the knee: p99 is this many times that of the lowest rate, or less of the rate is kept. */
#define KNEE_LATENCY 10.0
#define KNEE_RATE    0.95

struct rounds {
    const struct midge_bench_options *options; /* borrow */
    struct midge_subject subjects[MIDGE_SUBJECTS_MAX];
    uint32_t subject_count;
    json_t *done; /* own; one object per round, of runs by their subjects' keys */
};

static void say(const struct midge_bench_options *options, const char *what, uint32_t index,
                uint32_t count, const char *label)
{
    if (!options->is_quiet)
        (void)fprintf(stderr, "midge-bench: %s %u of %u: %s\n", what, index + 1, count, label);
}

static void say_failure(const json_t *run)
{
    const char *why = json_string_value(json_object_get(run, "failed"));

    if (why != NULL)
        (void)fprintf(stderr, "midge-bench: %s: failed: %s\n",
                      json_string_value(json_object_get(run, "label")), why);
}

static json_t *subjects_json(const struct midge_subject *subjects, uint32_t count)
{
    json_t *list = json_array();

    for (uint32_t i = 0; i < count; i++)
        json_array_append_new(list, midge_subject_json(&subjects[i]));
    return list;
}

enum midge_status midge_compare_once(const struct midge_bench_options *options,
                                     const char *directory, json_t **file_out)
{
    struct midge_subject subjects[MIDGE_SUBJECTS_MAX];
    json_t *runs = json_array();
    uint32_t count = 0;
    enum midge_status status = MIDGE_OK;

    midge_subjects_make(options, subjects, &count);
    for (uint32_t i = 0; status == MIDGE_OK && i < count; i++) {
        json_t *run = NULL;

        say(options, "run", i, count, subjects[i].label);
        status = midge_subject_run(&subjects[i], options, &options->run, directory, &run);
        if (status == MIDGE_OK) {
            say_failure(run);
            json_array_append_new(runs, run);
        }
    }
    if (status != MIDGE_OK) {
        json_decref(runs);
        return status;
    }
    *file_out = json_pack("{s:s, s:o, s:o}", "kind", "run", "subjects",
                          subjects_json(subjects, count), "runs", runs);
    return MIDGE_OK;
}

/* --- rounds --- */

static enum midge_status run_rounds(struct rounds *rounds, const char *directory)
{
    const struct midge_bench_options *options = rounds->options;
    enum midge_status status = MIDGE_OK;

    for (uint32_t round = 0; status == MIDGE_OK && round < options->rounds; round++) {
        json_t *runs = json_object();

        json_array_append_new(rounds->done, runs);
        say(options, "round", round, options->rounds,
            midge_run_scenario_name(options->run.scenario));
        for (uint32_t place = 0; status == MIDGE_OK && place < rounds->subject_count; place++) {
            const struct midge_subject *subject =
                &rounds->subjects[midge_statistics_order(rounds->subject_count, round, place)];
            json_t *run = NULL;

            status = midge_subject_run(subject, options, &options->run, directory, &run);
            if (status == MIDGE_OK) {
                say_failure(run);
                json_object_set_new(runs, subject->key, run);
            }
        }
    }
    return status;
}

/* One metric of one subject, round by round. */
static void values_of(const struct rounds *rounds, const char *key, enum midge_metric_index metric,
                      double *values_out)
{
    for (uint32_t i = 0; i < rounds->options->rounds; i++)
        values_out[i] =
            midge_metric_of(json_object_get(json_array_get(rounds->done, i), key), metric);
}

static json_t *number_or_null(double value)
{
    return isnan(value) ? json_null() : json_real(value);
}

static json_t *summary_json(const struct rounds *rounds)
{
    double values[MIDGE_STATISTICS_ROUNDS_MAX];
    json_t *summary = json_object();

    for (uint32_t i = 0; i < rounds->subject_count; i++) {
        json_t *of_subject = json_object();

        for (uint32_t m = 0; m < MIDGE_METRICS; m++) {
            struct midge_statistics_range range;

            values_of(rounds, rounds->subjects[i].key, (enum midge_metric_index)m, values);
            range = midge_statistics_range(values, rounds->options->rounds);
            json_object_set_new(of_subject, midge_metrics[m].name,
                                range.count == 0
                                    ? json_null()
                                    : json_pack("{s:f, s:f, s:f, s:i}", "median", range.median,
                                                "min", range.min, "max", range.max, "rounds",
                                                (int)range.count));
        }
        json_object_set_new(summary, rounds->subjects[i].key, of_subject);
    }
    return summary;
}

static void add_ratio(const struct rounds *rounds, uint32_t subject, uint32_t base,
                      enum midge_metric_index metric, json_t *ratios)
{
    double values[MIDGE_STATISTICS_ROUNDS_MAX];
    double bases[MIDGE_STATISTICS_ROUNDS_MAX];
    const struct midge_subject *subjects = rounds->subjects;
    struct midge_statistics_ratio ratio;

    values_of(rounds, subjects[subject].key, metric, values);
    values_of(rounds, subjects[base].key, metric, bases);
    ratio = midge_statistics_compare(values, bases, rounds->options->rounds);
    if (ratio.rounds == 0)
        return;
    const bool is_known = ratio.verdict != MIDGE_STATISTICS_UNKNOWN;

    json_array_append_new(
        ratios,
        json_pack("{s:s, s:s, s:s, s:b, s:f, s:o, s:o, s:i, s:s}", "subject", subjects[subject].key,
                  "base", subjects[base].key, "metric", midge_metrics[metric].name, "is_primary",
                  (int)(metric == rounds->options->metric), "middle", ratio.middle, "low",
                  number_or_null(is_known ? ratio.low : NAN), "high",
                  number_or_null(is_known ? ratio.high : NAN), "rounds", (int)ratio.rounds,
                  "verdict", midge_statistics_verdict_text(ratio.verdict)));
}

/* Every server over those after it, the first one over itself, all servers over the relay. */
static json_t *ratios_json(const struct rounds *rounds)
{
    const struct midge_subject *subjects = rounds->subjects;
    json_t *ratios = json_array();

    for (uint32_t m = 0; m < MIDGE_METRICS; m++) {
        const enum midge_metric_index metric = (enum midge_metric_index)m;

        if (!midge_metrics[m].is_compared)
            continue;
        for (uint32_t i = 0; i < rounds->subject_count; i++) {
            if (subjects[i].kind != MIDGE_SUBJECT_COMMAND)
                continue;
            if (strcmp(subjects[i].key, "a-again") == 0) {
                add_ratio(rounds, i, 0, metric, ratios);
                continue;
            }
            for (uint32_t j = 0; j < rounds->subject_count; j++) {
                const bool is_later_server = j > i && subjects[j].kind == MIDGE_SUBJECT_COMMAND &&
                                             strcmp(subjects[j].key, "a-again") != 0;

                if (is_later_server || subjects[j].kind == MIDGE_SUBJECT_RELAY_EPOLL)
                    add_ratio(rounds, i, j, metric, ratios);
            }
        }
    }
    return ratios;
}

static json_t *aims_json(const struct midge_bench_options *options, const json_t *summary,
                         const json_t *ratios)
{
    json_t *aims = json_array();

    for (uint32_t i = 0; i < options->aim_count; i++)
        json_array_append_new(aims, midge_aim_judge(&options->aims[i], summary, ratios));
    return aims;
}

enum midge_status midge_compare_rounds(const struct midge_bench_options *options,
                                       const char *directory, json_t **file_out)
{
    struct rounds rounds = {.options = options, .done = json_array()};
    enum midge_status status = MIDGE_OK;

    midge_subjects_make(options, rounds.subjects, &rounds.subject_count);
    status = run_rounds(&rounds, directory);
    if (status == MIDGE_OK) {
        json_t *summary = summary_json(&rounds);
        json_t *ratios = ratios_json(&rounds);

        *file_out = json_pack("{s:s, s:s, s:o, s:O, s:o, s:o, s:o}", "kind", "compare", "metric",
                              midge_metrics[options->metric].name, "subjects",
                              subjects_json(rounds.subjects, rounds.subject_count), "rounds",
                              rounds.done, "aims", aims_json(options, summary, ratios), "summary",
                              summary, "ratios", ratios);
    }
    json_decref(rounds.done);
    return status;
}

/* --- curve --- */

/* Is this run past the knee? @return why, or NULL */
static const char *past_knee(const json_t *run, double idle_ns, uint32_t rate)
{
    const double p99_ns = midge_metric_of(run, MIDGE_METRIC_P99);
    const double kept = midge_metric_of(run, MIDGE_METRIC_RATE) / rate;

    if (!json_is_null(json_object_get(run, "failed")))
        return json_string_value(json_object_get(run, "failed"));
    if (kept < KNEE_RATE)
        return "less than 95 % of the rate was kept";
    if (!isnan(idle_ns) && p99_ns > KNEE_LATENCY * idle_ns)
        return "p99 is more than ten times that of the lowest rate";
    return NULL;
}

/* All rates against one server. @param knee_out  NULL: the curve ended without one */
static enum midge_status run_curve(const struct midge_subject *subject,
                                   const struct midge_bench_options *options, const char *directory,
                                   json_t *runs, double *kept_out, const char **knee_out)
{
    struct midge_run_options run_options = options->run;
    double idle_ns = NAN;

    *knee_out = NULL;
    for (double rate = options->run.rate; rate <= options->rate_max && *knee_out == NULL;
         rate *= CURVE_STEP) {
        json_t *run = NULL;
        char what[64];
        enum midge_status status = MIDGE_OK;

        run_options.rate = (uint32_t)rate;
        (void)snprintf(what, sizeof what, "%u/s", run_options.rate);
        if (!options->is_quiet)
            (void)fprintf(stderr, "midge-bench: %s: %s\n", subject->label, what);
        status = midge_subject_run(subject, options, &run_options, directory, &run);
        if (status != MIDGE_OK)
            return status;
        json_array_append_new(runs, run);
        *knee_out = past_knee(run, idle_ns, run_options.rate);
        if (*knee_out == NULL)
            *kept_out = run_options.rate;
        if (isnan(idle_ns))
            idle_ns = midge_metric_of(run, MIDGE_METRIC_P99);
    }
    return MIDGE_OK;
}

enum midge_status midge_compare_curve(const struct midge_bench_options *options,
                                      const char *directory, json_t **file_out)
{
    struct midge_subject subjects[MIDGE_SUBJECTS_MAX];
    json_t *runs = json_array();
    double kept = NAN;
    const char *knee = NULL;
    uint32_t count = 0;
    enum midge_status status = MIDGE_OK;

    midge_subjects_make(options, subjects, &count);
    status = run_curve(&subjects[0], options, directory, runs, &kept, &knee);
    if (status == MIDGE_OK)
        *file_out = json_pack("{s:s, s:o, s:O, s:o, s:s?}", "kind", "curve", "subjects",
                              subjects_json(subjects, 1), "runs", runs, "knee_per_s",
                              number_or_null(knee == NULL ? NAN : kept), "knee_reason", knee);
    json_decref(runs);
    return status;
}
