/* What is made of runs; see compare.h. */
#include "compare.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "interrupt.h"
#include "knee.h"
#include "metric.h"
#include "statistics.h"
#include "subject.h"

/* Rates of a curve rise by this factor: half a decade has three points. */
#define CURVE_STEP 1.5

struct rounds {
    const struct midge_bench_options *options; /* borrow */
    struct midge_subject subjects[MIDGE_SUBJECTS_MAX];
    uint32_t subject_count;
    json_t *done;         /* own; one object per round, of runs by their subjects' keys */
    uint32_t round_count; /* of those */
};

struct curve {
    json_t *runs; /* own */
    struct midge_knee knee;
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
    for (uint32_t i = 0; status == MIDGE_OK && i < count && midge_interrupt_signal() == 0; i++) {
        json_t *run = NULL;

        say(options, "run", i, count, subjects[i].label);
        status = midge_subject_run(&subjects[i], options, &options->run, directory, &run);
        if (status != MIDGE_OK)
            break;
        say_failure(run);
        json_array_append_new(runs, run);
        /* Relays are for comparison, and there is nothing to compare. */
        if (i == 0 && midge_metric_has_failed(run))
            break;
    }
    if (status != MIDGE_OK) {
        json_decref(runs);
        return status;
    }
    *file_out =
        json_pack("{s:s, s:o, s:o, s:b}", "kind", "run", "subjects", subjects_json(subjects, count),
                  "runs", runs, "is_interrupted", (int)(midge_interrupt_signal() != 0));
    return MIDGE_OK;
}

/* --- rounds --- */

static enum midge_status run_round(struct rounds *rounds, uint32_t round, const char *directory)
{
    const struct midge_bench_options *options = rounds->options;
    enum midge_status status = MIDGE_OK;
    json_t *runs = json_object();

    json_array_append_new(rounds->done, runs);
    for (uint32_t place = 0;
         status == MIDGE_OK && place < rounds->subject_count && midge_interrupt_signal() == 0;
         place++) {
        const struct midge_subject *subject =
            &rounds->subjects[midge_statistics_order(rounds->subject_count, round, place)];
        json_t *run = NULL;

        status = midge_subject_run(subject, options, &options->run, directory, &run);
        if (status == MIDGE_OK) {
            say_failure(run);
            json_object_set_new(runs, subject->key, run);
        }
    }
    return status;
}

static enum midge_status run_rounds(struct rounds *rounds, const char *directory)
{
    const struct midge_bench_options *options = rounds->options;
    enum midge_status status = MIDGE_OK;

    for (uint32_t round = 0;
         status == MIDGE_OK && round < options->rounds && midge_interrupt_signal() == 0; round++) {
        say(options, "round", round, options->rounds,
            midge_run_scenario_name(options->run.scenario));
        status = run_round(rounds, round, directory);
    }
    rounds->round_count = (uint32_t)json_array_size(rounds->done);
    /* The others are whole. Of a first round what there is is better than nothing. */
    if (midge_interrupt_signal() != 0 && rounds->round_count > 1)
        (void)json_array_remove(rounds->done, --rounds->round_count);
    return status;
}

/* Rounds in which a run of that subject failed. */
static uint32_t failed_rounds(const struct rounds *rounds, const char *key)
{
    uint32_t count = 0;

    for (uint32_t i = 0; i < rounds->round_count; i++) {
        const json_t *run = json_object_get(json_array_get(rounds->done, i), key);

        count += run != NULL && midge_metric_has_failed(run) ? 1 : 0;
    }
    return count;
}

/* One metric of one subject, round by round. */
static void values_of(const struct rounds *rounds, const char *key, enum midge_metric_index metric,
                      double *values_out)
{
    for (uint32_t i = 0; i < rounds->round_count; i++)
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
        const uint32_t failed = failed_rounds(rounds, rounds->subjects[i].key);
        json_t *of_subject = json_object();

        for (uint32_t m = 0; m < MIDGE_METRICS; m++) {
            struct midge_statistics_range range;

            values_of(rounds, rounds->subjects[i].key, (enum midge_metric_index)m, values);
            range = midge_statistics_range(values, rounds->round_count);
            json_object_set_new(of_subject, midge_metrics[m].name,
                                range.count == 0
                                    ? json_null()
                                    : json_pack("{s:f, s:f, s:f, s:i, s:i, s:i}", "median",
                                                range.median, "min", range.min, "max", range.max,
                                                "rounds", (int)range.count, "round_count",
                                                (int)rounds->round_count, "failed_rounds",
                                                (int)failed));
        }
        json_object_set_new(summary, rounds->subjects[i].key, of_subject);
    }
    return summary;
}

/* A ratio has no verdict where a run failed: the rounds that are left may be the good ones. */
static void add_ratio(const struct rounds *rounds, uint32_t subject, uint32_t base,
                      enum midge_metric_index metric, json_t *ratios)
{
    double values[MIDGE_STATISTICS_ROUNDS_MAX];
    double bases[MIDGE_STATISTICS_ROUNDS_MAX];
    const struct midge_subject *subjects = rounds->subjects;
    struct midge_statistics_ratio ratio;

    values_of(rounds, subjects[subject].key, metric, values);
    values_of(rounds, subjects[base].key, metric, bases);
    ratio = midge_statistics_compare(values, bases, rounds->round_count);
    if (ratio.rounds == 0)
        return;
    const uint32_t failed =
        failed_rounds(rounds, subjects[subject].key) + failed_rounds(rounds, subjects[base].key);

    if (failed > 0)
        ratio.verdict = MIDGE_STATISTICS_UNKNOWN;
    const bool is_known = ratio.verdict != MIDGE_STATISTICS_UNKNOWN;

    json_array_append_new(
        ratios, json_pack("{s:s, s:s, s:s, s:b, s:f, s:o, s:o, s:i, s:i, s:i, s:s}", "subject",
                          subjects[subject].key, "base", subjects[base].key, "metric",
                          midge_metrics[metric].name, "is_primary",
                          (int)(metric == rounds->options->metric), "middle", ratio.middle, "low",
                          number_or_null(is_known ? ratio.low : NAN), "high",
                          number_or_null(is_known ? ratio.high : NAN), "rounds", (int)ratio.rounds,
                          "round_count", (int)rounds->round_count, "failed_rounds", (int)failed,
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

/* A ratio that no table shows, for an aim: over the second run, or over the io_uring relay. */
static void add_for_aim(const struct rounds *rounds, const struct midge_aim *aim, json_t *ratios)
{
    for (uint32_t i = 1; i < rounds->subject_count; i++) {
        const bool is_shown = rounds->subjects[i].kind != MIDGE_SUBJECT_RELAY_URING &&
                              strcmp(rounds->subjects[i].key, "a-again") != 0;

        if (!is_shown && strcmp(rounds->subjects[i].key, aim->base) == 0)
            add_ratio(rounds, 0, i, (enum midge_metric_index)aim->metric, ratios);
    }
}

static json_t *aims_json(const struct rounds *rounds, const json_t *summary, json_t *ratios)
{
    const struct midge_bench_options *options = rounds->options;
    json_t *aims = json_array();
    json_t *all = json_copy(ratios);

    for (uint32_t i = 0; i < options->aim_count; i++) {
        add_for_aim(rounds, &options->aims[i], all);
        json_array_append_new(aims, midge_aim_judge(&options->aims[i], summary, all));
    }
    json_decref(all);
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

        *file_out =
            json_pack("{s:s, s:s, s:o, s:O, s:i, s:b, s:o, s:o, s:o}", "kind", "compare", "metric",
                      midge_metrics[options->metric].name, "subjects",
                      subjects_json(rounds.subjects, rounds.subject_count), "rounds", rounds.done,
                      "rounds_wanted", (int)options->rounds, "is_interrupted",
                      (int)(midge_interrupt_signal() != 0), "aims",
                      aims_json(&rounds, summary, ratios), "summary", summary, "ratios", ratios);
    }
    json_decref(rounds.done);
    return status;
}

/* --- curve --- */

/* One rate. */
static enum midge_status run_rate(const struct midge_subject *subject,
                                  const struct midge_bench_options *options, const char *directory,
                                  struct curve *curve, uint32_t rate)
{
    struct midge_run_options run_options = options->run;
    json_t *run = NULL;
    enum midge_status status = MIDGE_OK;

    run_options.rate = rate;
    if (!options->is_quiet)
        (void)fprintf(stderr, "midge-bench: %s: %u/s\n", subject->label, rate);
    status = midge_subject_run(subject, options, &run_options, directory, &run);
    if (status != MIDGE_OK)
        return status;
    /* A run that was interrupted is no point, and no knee. */
    if (midge_interrupt_signal() != 0 && midge_metric_has_failed(run)) {
        json_decref(run);
        return MIDGE_OK;
    }
    midge_knee_look(&curve->knee, run, rate, run_options.duration_ms);
    json_array_append_new(curve->runs, run);
    return MIDGE_OK;
}

enum midge_status midge_compare_curve(const struct midge_bench_options *options,
                                      const char *directory, json_t **file_out)
{
    struct midge_subject subjects[MIDGE_SUBJECTS_MAX];
    struct curve curve = {.runs = json_array()};
    uint32_t count = 0;
    enum midge_status status = MIDGE_OK;

    midge_knee_init(&curve.knee);
    midge_subjects_make(options, subjects, &count);
    for (double rate = options->run.rate;
         status == MIDGE_OK && rate <= options->rate_max && curve.knee.reason[0] == '\0' &&
         midge_interrupt_signal() == 0;
         rate *= CURVE_STEP)
        status = run_rate(&subjects[0], options, directory, &curve, (uint32_t)rate);
    if (status == MIDGE_OK) {
        const bool has_knee = curve.knee.reason[0] != '\0';

        *file_out = json_pack("{s:s, s:o, s:O, s:o, s:s?, s:b}", "kind", "curve", "subjects",
                              subjects_json(subjects, 1), "runs", curve.runs, "knee_per_s",
                              number_or_null(has_knee ? curve.knee.kept_per_s : NAN), "knee_reason",
                              has_knee ? curve.knee.reason : NULL, "is_interrupted",
                              (int)(midge_interrupt_signal() != 0));
    }
    json_decref(curve.runs);
    return status;
}
