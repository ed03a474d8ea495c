/* What comes of a measurement; see output.h. */
#include "output.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "histogram.h"
#include "metric.h"
#include "report.h"
#include "subject.h"

/* Beyond this share of the measured CPUs' time the machine was busy with something else. */
#define FOREIGN_SHARE_MAX 0.05

/* --- tables --- */

static void put_cell(double value, const struct midge_metric *metric)
{
    if (isnan(value))
        (void)printf(" unknown |");
    else
        (void)printf(" %.*f |", (int)metric->digits, value / metric->unit);
}

static const char *text_of(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));

    return text == NULL ? "" : text;
}

/* Is there a run in which that figure is known? */
static bool is_known_in(const json_t *runs, enum midge_metric_index metric)
{
    size_t index = 0;
    const json_t *run = NULL;

    json_array_foreach(runs, index, run)
    {
        if (!isnan(midge_metric_of(run, metric)))
            return true;
    }
    return false;
}

static void put_heads(const char *first, const bool *is_shown)
{
    (void)printf("| %s |", first);
    for (uint32_t m = 0; m < MIDGE_METRICS; m++) {
        if (is_shown[m])
            (void)printf(" %s |", midge_metrics[m].head);
    }
    (void)printf("\n|---|");
    for (uint32_t m = 0; m < MIDGE_METRICS; m++) {
        if (is_shown[m])
            (void)printf("--:|");
    }
    (void)printf("\n");
}

/* A percentile that was asked for and is unknown says so; what a scenario does not have is left
 * out. */
static void choose_columns(const json_t *runs, bool *is_shown)
{
    const bool has_latency = is_known_in(runs, MIDGE_METRIC_MAX);

    for (uint32_t m = 0; m < MIDGE_METRICS; m++)
        is_shown[m] =
            m <= MIDGE_METRIC_MAX ? has_latency : is_known_in(runs, (enum midge_metric_index)m);
}

static void put_run_row(const json_t *run, const bool *is_shown, bool is_by_rate)
{
    const json_t *parameters = json_object_get(run, "parameters");
    const char *failed = json_string_value(json_object_get(run, "failed"));

    if (is_by_rate)
        (void)printf("| %s, %lld/s%s |", text_of(run, "label"),
                     (long long)json_integer_value(json_object_get(parameters, "rate")),
                     failed == NULL ? "" : " (failed)");
    else
        (void)printf("| %s%s%s |", text_of(run, "label"),
                     json_is_true(json_object_get(parameters, "is_spinning")) ? " (load busy-polls)"
                                                                              : "",
                     failed == NULL ? "" : " (failed)");
    for (uint32_t m = 0; m < MIDGE_METRICS; m++) {
        if (is_shown[m])
            put_cell(midge_metric_of(run, (enum midge_metric_index)m), &midge_metrics[m]);
    }
    (void)printf("\n");
}

/* What is special to the scenario, the service time, and what went wrong. */
static void put_run_notes(const json_t *run)
{
    static const char *const counters[] = {"errors", "timeouts", "lost",  "doubled",
                                           "wrong",  "late",     "missed"};
    const json_t *service = json_object_get(run, "service");
    const char *key = NULL;
    const json_t *figure = NULL;

    (void)printf("%s: %lld sent, %lld received", text_of(run, "label"),
                 (long long)json_integer_value(json_object_get(run, "sent")),
                 (long long)json_integer_value(json_object_get(run, "received")));
    for (size_t i = 0; i < sizeof counters / sizeof counters[0]; i++) {
        const json_int_t count = json_integer_value(json_object_get(run, counters[i]));

        if (count > 0)
            (void)printf(", %lld %s", (long long)count, counters[i]);
    }
    if (json_is_object(service)) {
        const char *before = "; service time from the hand-over to the driver:";

        for (uint32_t i = 0; i < MIDGE_HISTOGRAM_REPORTED; i++) {
            const json_t *value = json_object_get(service, midge_histogram_reported[i].key);

            if (!json_is_number(value))
                continue;
            (void)printf("%s %s %.1f µs", before, midge_histogram_reported[i].text,
                         json_number_value(value) / 1e3);
            before = "";
        }
    }
    json_object_foreach(json_object_get(run, "scenario_figures"), key, figure)(void)
        printf("; %s %.*f", key, json_number_value(figure) < 10 ? 4 : 0, json_number_value(figure));
    if (midge_metric_has_failed(run))
        (void)printf("; FAILED: %s", text_of(run, "failed"));
    if (json_is_true(json_object_get(run, "is_read_late")))
        (void)printf("; the machine was too busy to read rate and CPU time when it was time");
    (void)printf(".\n");
}

/* What others did meanwhile, over all runs. */
struct foreign {
    double elapsed_ns;
    double measured_ns; /* time of the CPUs that measured */
    double here_ns;
    double elsewhere_ns;
    double steal_ns;
    double network_ns;
};

static void add_foreign(struct foreign *foreign, const json_t *run)
{
    const json_t *object = json_object_get(run, "foreign");
    const json_t *count = json_object_get(object, "cpu_count");
    const double cpu_count = json_is_integer(count) ? json_number_value(count) : 1;

    foreign->measured_ns += cpu_count * json_number_value(json_object_get(object, "elapsed_ns"));
    foreign->elapsed_ns += json_number_value(json_object_get(object, "elapsed_ns"));
    foreign->here_ns += json_number_value(json_object_get(object, "here_ns"));
    foreign->elsewhere_ns += json_number_value(json_object_get(object, "elsewhere_ns"));
    foreign->steal_ns += json_number_value(json_object_get(object, "steal_ns"));
    foreign->network_ns += json_number_value(json_object_get(object, "network_ns"));
}

static void put_foreign(const struct foreign *foreign)
{
    const double here = foreign->here_ns / foreign->measured_ns;
    const double steal = foreign->steal_ns / foreign->measured_ns;

    if (foreign->elapsed_ns <= 0)
        return;
    (void)printf("\nOthers used %.1f %% of the CPUs that measured and %.1f %% of a core elsewhere; "
                 "the hypervisor kept %.1f %%, the kernel's network threads had %.1f %%.\n",
                 100 * here, 100 * foreign->elsewhere_ns / foreign->elapsed_ns, 100 * steal,
                 100 * foreign->network_ns / foreign->measured_ns);
    if (here > FOREIGN_SHARE_MAX || steal > FOREIGN_SHARE_MAX)
        (void)printf("**The machine was busy with something else: these figures are worth "
                     "nothing.**\n");
}

static void put_interrupted(const json_t *file)
{
    if (json_is_true(json_object_get(file, "is_interrupted")))
        (void)printf("\n**Interrupted: this is what there was until then.**\n");
}

/* Up to which rate it goes, and why no further. */
static void put_knee(const json_t *file)
{
    const json_t *knee = json_object_get(file, "knee_per_s");
    const char *reason = text_of(file, "knee_reason");

    if (reason[0] == '\0')
        (void)printf("\nThe curve has no knee.\n");
    else if (json_is_number(knee))
        (void)printf("\nThe knee is behind %.0f/s: %s.\n", json_number_value(knee), reason);
    else
        (void)printf("\nThe curve has no figure for a knee: %s.\n", reason);
}

static void print_runs(const json_t *file, bool is_by_rate)
{
    const json_t *runs = json_object_get(file, "runs");
    struct foreign foreign = {.elapsed_ns = 0};
    bool is_shown[MIDGE_METRICS];
    size_t index = 0;
    const json_t *run = NULL;

    choose_columns(runs, is_shown);
    put_heads(is_by_rate ? "server, rate" : "server", is_shown);
    json_array_foreach(runs, index, run)
    {
        put_run_row(run, is_shown, is_by_rate);
        add_foreign(&foreign, run);
    }
    (void)printf("\n");
    json_array_foreach(runs, index, run) put_run_notes(run);
    if (is_by_rate)
        put_knee(file);
    put_interrupted(file);
    put_foreign(&foreign);
}

/* Medians of a comparison, with their ranges. */
static void print_summary(const json_t *file)
{
    json_t *summary = json_object_get(file, "summary");
    bool is_shown[MIDGE_METRICS] = {false};
    const json_t *subject = NULL;
    const char *key = NULL;
    size_t index = 0;

    for (uint32_t m = 0; m < MIDGE_METRICS; m++) {
        const json_t *of_subject = NULL;

        json_object_foreach(summary, key, of_subject) is_shown[m] =
            is_shown[m] || json_is_object(json_object_get(of_subject, midge_metrics[m].name));
    }
    put_heads("median (range)", is_shown);
    json_array_foreach(json_object_get(file, "subjects"), index, subject)
    {
        const json_t *of_subject = json_object_get(summary, text_of(subject, "key"));

        (void)printf("| %s |", text_of(subject, "label"));
        for (uint32_t m = 0; m < MIDGE_METRICS; m++) {
            const struct midge_metric *metric = &midge_metrics[m];
            const json_t *range = json_object_get(of_subject, metric->name);

            if (!is_shown[m])
                continue;
            if (!json_is_object(range))
                (void)printf(" unknown |");
            else
                (void)printf(" %.*f (%.*f–%.*f) |", (int)metric->digits,
                             json_number_value(json_object_get(range, "median")) / metric->unit,
                             (int)metric->digits,
                             json_number_value(json_object_get(range, "min")) / metric->unit,
                             (int)metric->digits,
                             json_number_value(json_object_get(range, "max")) / metric->unit);
        }
        (void)printf("\n");
    }
}

static const char *label_of(const json_t *file, const char *key)
{
    const json_t *subject = NULL;
    size_t index = 0;

    json_array_foreach(json_object_get(file, "subjects"), index, subject)
    {
        if (strcmp(text_of(subject, "key"), key) == 0)
            return text_of(subject, "label");
    }
    return key;
}

static const json_t *find_ratio(const json_t *file, const json_t *pair, const char *metric)
{
    const json_t *ratio = NULL;
    size_t index = 0;

    json_array_foreach(json_object_get(file, "ratios"), index, ratio)
    {
        if (strcmp(text_of(ratio, "metric"), metric) == 0 &&
            strcmp(text_of(ratio, "subject"), text_of(pair, "subject")) == 0 &&
            strcmp(text_of(ratio, "base"), text_of(pair, "base")) == 0)
            return ratio;
    }
    return NULL;
}

/* "0.81 (0.80–0.82)", with a sign before what may be no difference, and how many rounds had it if
 * that is not all. */
static void put_ratio(const json_t *ratio)
{
    const json_t *low = json_object_get(ratio, "low");
    const json_int_t rounds = json_integer_value(json_object_get(ratio, "rounds"));
    const json_int_t round_count = json_integer_value(json_object_get(ratio, "round_count"));

    if (ratio == NULL) {
        (void)printf("unknown");
        return;
    }
    (void)printf(
        "%s%.2f",
        json_is_number(low) && strcmp(text_of(ratio, "verdict"), "no difference") == 0 ? "≈ " : "",
        json_number_value(json_object_get(ratio, "middle")));
    if (json_is_number(low))
        (void)printf(" (%.2f–%.2f)", json_number_value(low),
                     json_number_value(json_object_get(ratio, "high")));
    if (rounds < round_count)
        (void)printf(" in %lld of %lld rounds", (long long)rounds, (long long)round_count);
}

/* @return the verdict on a ratio, or why there is none */
static const char *verdict_of(const json_t *ratio)
{
    if (json_integer_value(json_object_get(ratio, "failed_rounds")) > 0)
        return "no verdict, since runs failed";
    return json_is_number(json_object_get(ratio, "low")) ? text_of(ratio, "verdict")
                                                         : "too few rounds to tell";
}

/* One sentence for each pair, about what was named beforehand. */
static void print_primary(const json_t *file)
{
    const json_t *ratio = NULL;
    size_t index = 0;

    json_array_foreach(json_object_get(file, "ratios"), index, ratio)
    {
        if (!json_is_true(json_object_get(ratio, "is_primary")))
            continue;
        (void)printf("\n%s of %s over %s: ", text_of(ratio, "metric"),
                     label_of(file, text_of(ratio, "subject")),
                     label_of(file, text_of(ratio, "base")));
        put_ratio(ratio);
        (void)printf(", %s.\n", verdict_of(ratio));
    }
}

/* Ratios stand in the order of their metrics. True for the first one of each. */
static bool begins_metric(const json_t *ratios, size_t index)
{
    return index == 0 || strcmp(text_of(json_array_get(ratios, index), "metric"),
                                text_of(json_array_get(ratios, index - 1), "metric")) != 0;
}

/* One pair in all metrics. */
static void put_pair(const json_t *file, const json_t *pair)
{
    const json_t *ratios = json_object_get(file, "ratios");
    const json_t *ratio = NULL;
    size_t index = 0;

    (void)printf("\n| %s / %s |", label_of(file, text_of(pair, "subject")),
                 label_of(file, text_of(pair, "base")));
    json_array_foreach(ratios, index, ratio)
    {
        if (!begins_metric(ratios, index))
            continue;
        (void)printf(" ");
        put_ratio(find_ratio(file, pair, text_of(ratio, "metric")));
        (void)printf(" |");
    }
}

/* Pairs in rows, metrics in columns. The rows are the pairs of the first metric for which there is
 * any ratio. */
static void print_ratios(const json_t *file)
{
    const json_t *ratios = json_object_get(file, "ratios");
    const json_t *ratio = NULL;
    size_t index = 0;
    size_t metric_count = 0;

    (void)printf("\n| ratio (95 %%) |");
    json_array_foreach(ratios, index, ratio)
    {
        if (begins_metric(ratios, index)) {
            (void)printf(" %s |", text_of(ratio, "metric"));
            metric_count++;
        }
    }
    (void)printf("\n|---|");
    for (size_t i = 0; i < metric_count; i++)
        (void)printf("--:|");
    json_array_foreach(ratios, index, ratio)
    {
        if (index > 0 && begins_metric(ratios, index))
            break;
        put_pair(file, ratio);
    }
    (void)printf("\n\n≈: no difference is shown.\n");
}

/* A figure of an aim: a ratio, or a metric in its unit. */
static void put_aim_figure(const json_t *aim, const struct midge_metric *metric, double value)
{
    if (json_is_string(json_object_get(aim, "base")))
        (void)printf("%.2f", value);
    else
        /* A rate is shown in thousands elsewhere, and as it is here. */
        (void)printf("%.*f%s", (int)metric->digits,
                     strcmp(metric->text, "/s") == 0 ? value : value / metric->unit, metric->text);
}

/* "Aim for midge-server: p50 at most 1.10 × bare relay, epoll: met, 1.05 (1.02–1.08)." */
static void print_aim(const json_t *file, const json_t *aim)
{
    const json_t *value = json_object_get(aim, "value");
    const json_t *low = json_object_get(aim, "low");
    const char *base = json_string_value(json_object_get(aim, "base"));
    uint32_t metric = MIDGE_METRIC_P50;

    if (midge_metric_find(text_of(aim, "metric"), &metric) != MIDGE_OK)
        return;
    (void)printf("\nAim for %s: %s at %s ", label_of(file, "a"), text_of(aim, "metric"),
                 json_is_true(json_object_get(aim, "is_least")) ? "least" : "most");
    put_aim_figure(aim, &midge_metrics[metric], json_number_value(json_object_get(aim, "limit")));
    (void)printf("%s%s: ", base == NULL ? "" : " × ", base == NULL ? "" : label_of(file, base));
    if (!json_is_number(value)) {
        (void)printf("unknown.\n");
        return;
    }
    if (json_is_true(json_object_get(aim, "is_failed")))
        (void)printf("unknown, since runs failed; ");
    else if (json_is_null(json_object_get(aim, "is_met")))
        (void)printf("unknown, for want of rounds; ");
    else
        (void)printf("%s, ", json_is_true(json_object_get(aim, "is_met")) ? "met" : "missed");
    put_aim_figure(aim, &midge_metrics[metric], json_number_value(value));
    if (json_is_number(low)) {
        (void)printf(" (");
        put_aim_figure(aim, &midge_metrics[metric], json_number_value(low));
        (void)printf("–");
        put_aim_figure(aim, &midge_metrics[metric],
                       json_number_value(json_object_get(aim, "high")));
        (void)printf(")");
    }
    (void)printf(".\n");
}

/* Failed runs one by one, and how many rounds there were if not all. */
static void print_rounds(const json_t *file)
{
    const json_t *rounds = json_object_get(file, "rounds");
    json_t *round = NULL;
    const json_t *run = NULL;
    const char *key = NULL;
    size_t index = 0;

    json_array_foreach(rounds, index, round)
    {
        json_object_foreach(round, key, run)
        {
            if (midge_metric_has_failed(run))
                (void)printf("\nRound %zu, %s: FAILED: %s\n", index + 1, text_of(run, "label"),
                             text_of(run, "failed"));
        }
    }
    put_interrupted(file);
    if (json_is_true(json_object_get(file, "is_interrupted")))
        (void)printf("Of %lld rounds %zu are here.\n",
                     (long long)json_integer_value(json_object_get(file, "rounds_wanted")),
                     json_array_size(rounds));
}

static void print_compare(const json_t *file)
{
    struct foreign foreign = {.elapsed_ns = 0};
    json_t *round = NULL;
    const json_t *ratio = NULL;
    const json_t *run = NULL;
    const char *key = NULL;
    size_t index = 0;

    print_summary(file);
    print_primary(file);
    print_ratios(file);
    json_array_foreach(json_object_get(file, "aims"), index, ratio)
    {
        print_aim(file, ratio);
    }
    json_array_foreach(json_object_get(file, "rounds"), index, round)
    {
        json_object_foreach(round, key, run)
        {
            add_foreign(&foreign, run);
        }
    }
    print_rounds(file);
    put_foreign(&foreign);
}

/* Where, and with what. */
static void print_machine(const json_t *file)
{
    const json_t *environment = json_object_get(file, "environment");
    const json_t *subject = NULL;
    size_t index = 0;

    (void)printf("\n%s, %lld CPUs%s, %s; midge-bench %s, commit %s.",
                 text_of(environment, "cpu_model"),
                 (long long)json_integer_value(json_object_get(environment, "cpus_online")),
                 strcmp(text_of(environment, "hypervisor"), "yes") == 0 ? " (virtual machine)" : "",
                 text_of(environment, "kernel"), text_of(environment, "midge_bench"),
                 text_of(environment, "commit"));
    json_array_foreach(json_object_get(file, "subjects"), index, subject)
    {
        if (text_of(subject, "version")[0] != '\0' && strchr(text_of(subject, "key"), '-') == NULL)
            (void)printf(" %s: `%s`.", text_of(subject, "label"), text_of(subject, "version"));
    }
    (void)printf("\n");
}

void midge_output_print(const json_t *file)
{
    const char *kind = text_of(file, "kind");

    if (strcmp(kind, "compare") == 0)
        print_compare(file);
    else
        print_runs(file, strcmp(kind, "curve") == 0);
    print_machine(file);
}

bool midge_output_is_good(const json_t *file)
{
    const bool is_curve = strcmp(text_of(file, "kind"), "curve") == 0;
    const json_t *runs = json_object_get(file, "runs");
    const json_t *rounds = json_object_get(file, "rounds");
    json_t *round = NULL;
    const json_t *run = NULL;
    const char *key = NULL;
    size_t index = 0;

    json_array_foreach(rounds, index, round)
    {
        json_object_foreach(round, key, run)
        {
            if (midge_metric_has_failed(run))
                return false;
        }
    }
    /* Past its knee a curve fails on purpose; at its first rate, or at its start, it must not. */
    json_array_foreach(runs, index, run)
    {
        const char *failed = json_string_value(json_object_get(run, "failed"));

        if (failed != NULL &&
            (index == 0 || !is_curve || strcmp(failed, MIDGE_SUBJECT_NOT_STARTED) == 0))
            return false;
    }
    return json_array_size(runs) + json_array_size(rounds) > 0;
}

/* --- files --- */

static enum midge_status cannot_write(const char *path)
{
    (void)fprintf(stderr, "midge-bench: %s: %s\n", path, strerror(errno));
    return MIDGE_E_WRITE;
}

static bool is_stdout(const char *path)
{
    return path != NULL && strcmp(path, "-") == 0;
}

uint32_t midge_output_stdout_count(const struct midge_bench_options *options)
{
    return (is_stdout(options->json_path) ? 1u : 0u) + (is_stdout(options->report_path) ? 1u : 0u);
}

static enum midge_status write_json(const char *path, const json_t *file)
{
    const size_t flags = JSON_COMPACT | JSON_REAL_PRECISION(12);

    if (is_stdout(path)) {
        (void)json_dumpf(file, stdout, flags);
        return printf("\n") > 0 ? MIDGE_OK : cannot_write("standard output");
    }
    return json_dump_file(file, path, flags) == 0 ? MIDGE_OK : cannot_write(path);
}

/* One histogram as DIRECTORY/[ROUND-][RATE-]KEY[-service].hgrm. */
static enum midge_status write_hgrm(const char *path, const json_t *json)
{
    struct midge_histogram *histogram = malloc(sizeof *histogram);
    enum midge_status status = histogram == NULL ? MIDGE_E_MEMORY : MIDGE_OK;
    FILE *out = NULL;

    if (status == MIDGE_OK)
        status = midge_histogram_from_json(histogram, json);
    if (status != MIDGE_OK) {
        (void)fprintf(stderr, "midge-bench: %s: %s\n", path, midge_status_name(status));
        free(histogram);
        return status;
    }
    out = fopen(path, "w");
    status = out == NULL ? cannot_write(path) : MIDGE_OK;
    if (status == MIDGE_OK && midge_histogram_write_hgrm(histogram, out) != MIDGE_OK)
        status = cannot_write(path);
    if (out != NULL && fclose(out) != 0 && status == MIDGE_OK)
        status = cannot_write(path);
    free(histogram);
    return status;
}

static enum midge_status write_run_hgrm(const char *directory, const char *prefix,
                                        const json_t *run)
{
    static const char *const names[][2] = {{"latency", ""}, {"service", "-service"}};
    enum midge_status status = MIDGE_OK;

    if (midge_metric_has_failed(run))
        return MIDGE_OK; /* its figures do not count, and a file could not say so */
    for (size_t i = 0; status == MIDGE_OK && i < 2; i++) {
        const json_t *json = json_object_get(run, names[i][0]);
        char path[1024];

        if (!json_is_object(json))
            continue;
        (void)snprintf(path, sizeof path, "%s/%s%s%s.hgrm", directory, prefix, text_of(run, "key"),
                       names[i][1]);
        status = write_hgrm(path, json);
    }
    return status;
}

static enum midge_status write_all_hgrm(const char *directory, const json_t *file)
{
    const bool is_curve = strcmp(text_of(file, "kind"), "curve") == 0;
    enum midge_status status = MIDGE_OK;
    json_t *round = NULL;
    const json_t *run = NULL;
    const char *key = NULL;
    char prefix[32] = "";
    size_t index = 0;

    if (mkdir(directory, 0777) != 0 && errno != EEXIST)
        return cannot_write(directory);
    json_array_foreach(json_object_get(file, "runs"), index, run)
    {
        if (is_curve)
            (void)snprintf(prefix, sizeof prefix, "%lld-",
                           (long long)json_integer_value(
                               json_object_get(json_object_get(run, "parameters"), "rate")));
        if (status == MIDGE_OK)
            status = write_run_hgrm(directory, prefix, run);
    }
    json_array_foreach(json_object_get(file, "rounds"), index, round)
    {
        (void)snprintf(prefix, sizeof prefix, "round%zu-", index + 1);
        json_object_foreach(round, key, run)
        {
            if (status == MIDGE_OK)
                status = write_run_hgrm(directory, prefix, run);
        }
    }
    return status;
}

static enum midge_status write_report(const char *path, const json_t *file)
{
    if (is_stdout(path))
        return midge_report_write(&file, 1, stdout);
    FILE *out = fopen(path, "w");
    enum midge_status status = out == NULL ? cannot_write(path) : MIDGE_OK;

    if (status == MIDGE_OK)
        status = midge_report_write(&file, 1, out);
    if (out != NULL && fclose(out) != 0 && status == MIDGE_OK)
        status = cannot_write(path);
    return status;
}

/* A file that is there, or can be made. It stays as it is. */
static enum midge_status check_file(const char *path)
{
    struct stat stat_buffer;
    int fd = -1;

    if (stat(path, &stat_buffer) == 0) {
        if (S_ISDIR(stat_buffer.st_mode))
            errno = EISDIR;
        /* Not opened: who reads a pipe would see its end. */
        return !S_ISDIR(stat_buffer.st_mode) && access(path, W_OK) == 0 ? MIDGE_OK
                                                                        : cannot_write(path);
    }
    fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0)
        return cannot_write(path);
    (void)close(fd);
    (void)unlink(path);
    return MIDGE_OK;
}

static enum midge_status check_directory(const char *path)
{
    struct stat stat_buffer;

    if (mkdir(path, 0777) == 0)
        return MIDGE_OK;
    if (errno != EEXIST || stat(path, &stat_buffer) != 0)
        return cannot_write(path);
    if (!S_ISDIR(stat_buffer.st_mode)) {
        errno = ENOTDIR;
        return cannot_write(path);
    }
    return access(path, W_OK | X_OK) == 0 ? MIDGE_OK : cannot_write(path);
}

enum midge_status midge_output_check(const struct midge_bench_options *options)
{
    const char *const paths[] = {options->json_path, options->report_path};
    enum midge_status status = MIDGE_OK;

    if (paths[0] != NULL && paths[1] != NULL && strcmp(paths[0], paths[1]) == 0) {
        (void)fprintf(stderr, "midge-bench: %s cannot be both --json and --report\n", paths[0]);
        return MIDGE_E_CONFIG;
    }
    for (size_t i = 0; status == MIDGE_OK && i < sizeof paths / sizeof paths[0]; i++) {
        if (paths[i] != NULL && !is_stdout(paths[i]))
            status = check_file(paths[i]);
    }
    if (status != MIDGE_OK || options->hgrm_path == NULL)
        return status;
    return check_directory(options->hgrm_path);
}

enum midge_status midge_output_write(const struct midge_bench_options *options, const json_t *file)
{
    enum midge_status statuses[3] = {MIDGE_OK, MIDGE_OK, MIDGE_OK};
    enum midge_status status = MIDGE_OK;

    if (options->json_path != NULL)
        statuses[0] = write_json(options->json_path, file);
    if (options->hgrm_path != NULL)
        statuses[1] = write_all_hgrm(options->hgrm_path, file);
    if (options->report_path != NULL)
        statuses[2] = write_report(options->report_path, file);
    for (size_t i = 0; i < sizeof statuses / sizeof statuses[0]; i++)
        status = status == MIDGE_OK ? statuses[i] : status;
    return status;
}

enum midge_status midge_output_flush_stdout(void)
{
    if (fflush(stdout) == 0 && ferror(stdout) == 0)
        return MIDGE_OK;
    return cannot_write("standard output");
}

void midge_output_clean(const char *directory)
{
    DIR *entries = opendir(directory);
    const struct dirent *entry = NULL;

    while (entries != NULL && (entry = readdir(entries)) != NULL) {
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            (void)unlinkat(dirfd(entries), entry->d_name, 0);
    }
    if (entries != NULL)
        (void)closedir(entries);
    (void)rmdir(directory);
}
