/*
 * report.html: the template with the files' figures in it (report.h).
 *
 * Only what the template reads is embedded, key by key: what else a file holds stays there.
 *
 * Thread: any (values).
 * Memory: one array of buckets (some 270 KiB) while a comparison is condensed; the rest is
 * jansson's.
 */
#include "report.h"

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "histogram.h"
#include "report_template.h"

/* Where the template wants the data; it stands there once. */
#define REPORT_MARKER "MIDGE_REPORT_DATA"

/* Depth of a suite's parts: a suite has no suites in it. */
enum report_depth {
    REPORT_FILE = 0,
    REPORT_PART,
};

/* What is being read, so that a complaint can say where. */
struct report_place {
    const char *name; /* path, or "file 2" */
    char part[96];    /* "rounds[3].a.latency"; "" = the file as a whole */
};

/* Samples of one subject over its rounds. */
struct report_sum {
    uint64_t *buckets; /* own, MIDGE_HISTOGRAM_BUCKETS */
    uint64_t count;
    uint64_t sum_ns;
    uint64_t beyond_count;
    uint64_t min_ns;
    uint64_t max_ns;
    uint32_t rounds;
};

MIDGE_PRINTF(2, 3)
static enum midge_status complain(const struct report_place *place, const char *format, ...)
{
    va_list arguments;

    fprintf(stderr, "midge-bench: report: %s: %s%s", place->name, place->part,
            place->part[0] == '\0' ? "" : ": ");
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    return MIDGE_E_CONFIG;
}

static enum midge_status out_of_memory(void)
{
    fputs("midge-bench: report: out of memory\n", stderr);
    return MIDGE_E_MEMORY;
}

/** Put those of `keys` (NULL at the end) that an object has into a new one. @return own, or NULL */
static json_t *pick(const json_t *from, const char *const *keys)
{
    json_t *made = json_object();

    for (; made != NULL && *keys != NULL; keys++) {
        json_t *value = json_object_get(from, *keys);

        if (value != NULL && json_object_set(made, *keys, value) != 0) {
            json_decref(made);
            return NULL;
        }
    }
    return made;
}

/** True, and the value, if it is a number of things. */
static bool read_count(const json_t *value, uint64_t *out)
{
    if (!json_is_integer(value) || json_integer_value(value) < 0)
        return false;
    *out = (uint64_t)json_integer_value(value);
    return true;
}

/** Check one pair of a histogram and, unless `buckets` is NULL, add it. */
static bool add_bucket(const json_t *pair, uint64_t *buckets)
{
    uint64_t index;
    uint64_t count;

    if (json_array_size(pair) != 2 || !read_count(json_array_get(pair, 0), &index) ||
        !read_count(json_array_get(pair, 1), &count) || index >= MIDGE_HISTOGRAM_BUCKETS)
        return false;
    if (buckets == NULL)
        return true;
    /* JSON's integers have 63 bits, so a sum that no longer fits cannot be written either. */
    if (__builtin_add_overflow(buckets[index], count, &buckets[index]) ||
        buckets[index] > INT64_MAX)
        return false;
    return true;
}

/** Add a run's histogram to the sum, or only check it where `sum` is NULL. */
static enum midge_status add_histogram(const json_t *histogram, const struct report_place *place,
                                       struct report_sum *sum)
{
    static const char *const keys[] = {"count", "sum_ns", "beyond_count", "min_ns", "max_ns"};
    uint64_t values[5] = {0};
    const json_t *buckets = json_object_get(histogram, "buckets");
    const json_t *pair;
    size_t index;

    for (index = 0; index < 5; index++) {
        if (!read_count(json_object_get(histogram, keys[index]), &values[index]))
            return complain(place, "\"%s\" is missing or no number of things", keys[index]);
    }
    if (!json_is_array(buckets))
        return complain(place, "\"buckets\" is missing or no list");
    for (index = 0; index < json_array_size(buckets); index++) {
        pair = json_array_get(buckets, index);
        if (!add_bucket(pair, sum == NULL ? NULL : sum->buckets))
            return complain(place, "\"buckets\" has something else than [index, count] at %zu",
                            index);
    }
    if (sum == NULL || values[0] == 0)
        return MIDGE_OK;
    if (__builtin_add_overflow(sum->count, values[0], &sum->count) || sum->count > INT64_MAX ||
        __builtin_add_overflow(sum->sum_ns, values[1], &sum->sum_ns) || sum->sum_ns > INT64_MAX)
        return complain(place, "more samples than can be counted");
    sum->beyond_count += values[2];
    sum->min_ns = values[3] < sum->min_ns ? values[3] : sum->min_ns;
    sum->max_ns = values[4] > sum->max_ns ? values[4] : sum->max_ns;
    sum->rounds++;
    return MIDGE_OK;
}

/** [[index, count], ...] of the buckets that are not empty. @return own, or NULL */
static json_t *buckets_to_json(const uint64_t *buckets)
{
    json_t *list = json_array();
    uint32_t index;

    for (index = 0; list != NULL && index < MIDGE_HISTOGRAM_BUCKETS; index++) {
        if (buckets[index] == 0)
            continue;
        if (json_array_append_new(
                list, json_pack("[i, I]", (int)index, (json_int_t)buckets[index])) != 0) {
            json_decref(list);
            return NULL;
        }
    }
    return list;
}

/** The sum as an object, null if no round gave a sample. @return own, or NULL without memory */
static json_t *sum_to_json(const struct report_sum *sum)
{
    if (sum->rounds == 0)
        return json_null();
    return json_pack("{s: I, s: I, s: I, s: I, s: f, s: I, s: i, s: o}", "count",
                     (json_int_t)sum->count, "min_ns", (json_int_t)sum->min_ns, "max_ns",
                     (json_int_t)sum->max_ns, "sum_ns", (json_int_t)sum->sum_ns, "mean_ns",
                     (double)sum->sum_ns / (double)sum->count, "beyond_count",
                     (json_int_t)sum->beyond_count, "rounds", (int)sum->rounds, "buckets",
                     buckets_to_json(sum->buckets));
}

static bool has_failed(const json_t *run)
{
    const json_t *failed = json_object_get(run, "failed");

    return failed != NULL && !json_is_null(failed);
}

/** Add up one histogram of one subject over all rounds, and put it into `into`. */
static enum midge_status merge_rounds(const json_t *rounds, const char *subject, const char *key,
                                      struct report_place *place, json_t *into)
{
    struct report_sum sum = {.min_ns = UINT64_MAX};
    enum midge_status status = MIDGE_OK;
    size_t index;

    sum.buckets = calloc(MIDGE_HISTOGRAM_BUCKETS, sizeof *sum.buckets);
    if (sum.buckets == NULL)
        return out_of_memory();
    for (index = 0; status == MIDGE_OK && index < json_array_size(rounds); index++) {
        const json_t *run = json_object_get(json_array_get(rounds, index), subject);
        const json_t *histogram = json_object_get(run, key);

        if (histogram == NULL || json_is_null(histogram) || has_failed(run))
            continue;
        (void)snprintf(place->part, sizeof place->part, "rounds[%zu].%s.%s", index, subject, key);
        status = add_histogram(histogram, place, &sum);
    }
    if (status == MIDGE_OK && json_object_set_new(into, key, sum_to_json(&sum)) != 0)
        status = out_of_memory();
    free(sum.buckets);
    place->part[0] = '\0';
    return status;
}

/** {"a": {"latency": HIST | null, "service": HIST | null}, ...} over all rounds. */
static enum midge_status merge_subjects(const json_t *file, struct report_place *place,
                                        json_t *merged)
{
    const json_t *subjects = json_object_get(file, "subjects");
    const json_t *rounds = json_object_get(file, "rounds");
    size_t index;

    for (index = 0; index < json_array_size(subjects); index++) {
        const char *key =
            json_string_value(json_object_get(json_array_get(subjects, index), "key"));
        json_t *one = json_object();
        enum midge_status status = MIDGE_OK;

        if (one == NULL || (key != NULL && json_object_set_new(merged, key, one) != 0))
            return out_of_memory();
        if (key == NULL) {
            json_decref(one);
            return complain(place, "subjects[%zu] has no \"key\"", index);
        }
        status = merge_rounds(rounds, key, "latency", place, one);
        if (status == MIDGE_OK)
            status = merge_rounds(rounds, key, "service", place, one);
        if (status != MIDGE_OK)
            return status;
    }
    return MIDGE_OK;
}

/** A run without the buckets of its histograms, which are only checked to be objects or null. */
static enum midge_status strip_run(json_t *run, struct report_place *place, json_t **stripped_out)
{
    static const char *const keys[] = {"latency", "service"};
    json_t *stripped;
    uint32_t index;

    if (!json_is_object(run))
        return complain(place, "a run is no object");
    stripped = json_copy(run);
    for (index = 0; stripped != NULL && index < 2; index++) {
        json_t *histogram = json_object_get(run, keys[index]);
        json_t *copy;

        if (histogram == NULL || json_is_null(histogram))
            continue;
        if (!json_is_object(histogram)) {
            json_decref(stripped);
            return complain(place, "\"%s\" is neither an object nor null", keys[index]);
        }
        copy = json_copy(histogram);
        (void)json_object_del(copy, "buckets"); /* nor is it an error that there are none */
        if (json_object_set_new(stripped, keys[index], copy) != 0) {
            json_decref(stripped);
            return out_of_memory();
        }
    }
    *stripped_out = stripped;
    return stripped == NULL ? out_of_memory() : MIDGE_OK;
}

/** One round of a comparison, each run without its buckets. */
static enum midge_status strip_round(json_t *round, struct report_place *place, json_t *list)
{
    json_t *stripped = json_object();
    const char *key;
    json_t *run;

    if (stripped == NULL || json_array_append_new(list, stripped) != 0)
        return out_of_memory();
    if (!json_is_object(round))
        return complain(place, "a round is no object");
    json_object_foreach(round, key, run)
    {
        json_t *one = NULL;
        enum midge_status status = strip_run(run, place, &one);

        if (status != MIDGE_OK)
            return status;
        if (json_object_set_new(stripped, key, one) != 0)
            return out_of_memory();
    }
    return MIDGE_OK;
}

/** A list that the file must have, put into `condensed` part by part. */
static enum midge_status
condense_list(const json_t *file, const char *key, struct report_place *place, json_t *condensed,
              enum midge_status (*part_cb)(json_t *, struct report_place *, json_t *))
{
    const json_t *from = json_object_get(file, key);
    enum midge_status status = MIDGE_OK;
    json_t *list = json_array();
    size_t index;

    if (list == NULL || json_object_set_new(condensed, key, list) != 0)
        return out_of_memory();
    if (json_array_size(from) == 0)
        return complain(place, "\"%s\" is missing, no list, or empty", key);
    for (index = 0; status == MIDGE_OK && index < json_array_size(from); index++) {
        (void)snprintf(place->part, sizeof place->part, "%s[%zu]", key, index);
        status = part_cb(json_array_get(from, index), place, list);
    }
    place->part[0] = '\0';
    return status;
}

static enum midge_status condense_compare(const json_t *file, struct report_place *place,
                                          json_t *condensed)
{
    json_t *merged = json_object();
    enum midge_status status;

    if (merged == NULL || json_object_set_new(condensed, "merged", merged) != 0)
        return out_of_memory();
    if (json_array_size(json_object_get(file, "subjects")) == 0)
        return complain(place, "\"subjects\" is missing, no list, or empty");
    status = condense_list(file, "rounds", place, condensed, strip_round);
    return status == MIDGE_OK ? merge_subjects(file, place, merged) : status;
}

/** A run of a curve: its figures are all that is drawn. */
static enum midge_status condense_curve_run(json_t *run, struct report_place *place, json_t *list)
{
    json_t *stripped = NULL;
    enum midge_status status = strip_run(run, place, &stripped);

    if (status != MIDGE_OK)
        return status;
    return json_array_append_new(list, stripped) == 0 ? MIDGE_OK : out_of_memory();
}

/** A run on its own keeps its buckets. */
static enum midge_status condense_run(json_t *run, struct report_place *place, json_t *list)
{
    static const char *const keys[] = {"latency", "service"};
    enum midge_status status = MIDGE_OK;
    uint32_t index;

    if (!json_is_object(run))
        return complain(place, "a run is no object");
    for (index = 0; status == MIDGE_OK && index < 2; index++) {
        const json_t *histogram = json_object_get(run, keys[index]);

        if (histogram != NULL && !json_is_null(histogram))
            status = add_histogram(histogram, place, NULL);
    }
    if (status != MIDGE_OK)
        return status;
    return json_array_append(list, run) == 0 ? MIDGE_OK : out_of_memory();
}

static enum midge_status condense(const json_t *file, struct report_place *place,
                                  enum report_depth depth, json_t *list);

static enum midge_status condense_section(json_t *section, struct report_place *place, json_t *list)
{
    static const char *const keys[] = {"title", "note", NULL};
    char name[256];
    struct report_place within = {.name = name};
    json_t *condensed = pick(section, keys);
    json_t *files = json_array();
    enum midge_status status = MIDGE_OK;

    (void)snprintf(name, sizeof name, "%s: %s", place->name, place->part);
    if (condensed == NULL || files == NULL || json_array_append(list, condensed) != 0)
        status = out_of_memory();
    if (status == MIDGE_OK)
        status = condense(json_object_get(section, "file"), &within, REPORT_PART, files);
    if (status == MIDGE_OK && json_object_set(condensed, "file", json_array_get(files, 0)) != 0)
        status = out_of_memory();
    json_decref(condensed);
    json_decref(files);
    return status;
}

/** Put what the template reads of a file at the end of `list`. */
static enum midge_status condense(const json_t *file, struct report_place *place,
                                  enum report_depth depth, json_t *list)
{
    static const char *const keys[] = {
        "midge_bench",  "kind",        "label",  "title",          "environment",
        "command_line", "metric",      "aims",   "subjects",       "knee_per_s",
        "summary",      "knee_reason", "ratios", "is_interrupted", NULL,
    };
    const char *kind = json_string_value(json_object_get(file, "kind"));
    json_t *condensed;

    if (!json_is_object(file))
        return complain(place, "no object");
    if (depth == REPORT_FILE && json_integer_value(json_object_get(file, "midge_bench")) != 1)
        return complain(place, "not a file of midge-bench: \"midge_bench\" is not 1");
    if (kind == NULL)
        return complain(place, "\"kind\" is missing or no text");
    condensed = pick(file, keys);
    if (condensed == NULL || json_array_append_new(list, condensed) != 0)
        return out_of_memory();
    if (strcmp(kind, "run") == 0)
        return condense_list(file, "runs", place, condensed, condense_run);
    if (strcmp(kind, "curve") == 0)
        return condense_list(file, "runs", place, condensed, condense_curve_run);
    if (strcmp(kind, "compare") == 0)
        return condense_compare(file, place, condensed);
    if (strcmp(kind, "suite") == 0 && depth == REPORT_FILE)
        return condense_list(file, "sections", place, condensed, condense_section);
    return complain(place, "kind \"%s\" is not known here: run, curve, compare%s", kind,
                    depth == REPORT_FILE ? " or suite are" : " are");
}

/** Part of the JSON text. `<` stands only in strings there, and no string can end the block. */
static int write_escaped(const char *text, size_t len, void *context)
{
    FILE *out = context;

    while (len > 0) {
        const char *less = memchr(text, '<', len);
        size_t plain = less == NULL ? len : (size_t)(less - text);

        if (fwrite(text, 1, plain, out) != plain || (less != NULL && fputs("\\u003c", out) == EOF))
            return -1;
        plain += less != NULL;
        text += plain;
        len -= plain;
    }
    return 0;
}

/** The template with the data where the marker is. */
static enum midge_status write_page(const json_t *data, FILE *out)
{
    const char *end = midge_report_template + midge_report_template_len;
    const char *marker = memmem(midge_report_template, midge_report_template_len, REPORT_MARKER,
                                strlen(REPORT_MARKER));
    const char *rest;

    MIDGE_ASSERT(marker != NULL);
    rest = marker + strlen(REPORT_MARKER);
    errno = 0;
    if (fwrite(midge_report_template, 1, (size_t)(marker - midge_report_template), out) !=
            (size_t)(marker - midge_report_template) ||
        json_dump_callback(data, write_escaped, out, JSON_COMPACT) != 0 ||
        fwrite(rest, 1, (size_t)(end - rest), out) != (size_t)(end - rest) || fflush(out) != 0) {
        if (errno == 0) /* jansson's memory, not the file */
            return out_of_memory();
        fprintf(stderr, "midge-bench: report: cannot write: %s\n", strerror(errno));
        return MIDGE_E_WRITE;
    }
    return MIDGE_OK;
}

/** All files as what is embedded. @param data_out  own, on MIDGE_OK */
static enum midge_status condense_all(const json_t *const *files, const char *const *names,
                                      uint32_t count, json_t **data_out)
{
    json_t *list = json_array();
    enum midge_status status = list == NULL ? out_of_memory() : MIDGE_OK;
    uint32_t index;

    for (index = 0; status == MIDGE_OK && index < count; index++) {
        struct report_place place = {.name = names == NULL ? NULL : names[index]};
        char number[24];

        if (names == NULL) {
            (void)snprintf(number, sizeof number, "file %u", index + 1);
            place.name = number;
        }
        status = condense(files[index], &place, REPORT_FILE, list);
    }
    if (status != MIDGE_OK) {
        json_decref(list);
        return status;
    }
    *data_out = json_pack("{s: i, s: o}", "midge_report", 1, "files", list);
    return *data_out == NULL ? out_of_memory() : MIDGE_OK;
}

enum midge_status midge_report_write(const json_t *const *files, uint32_t count, FILE *out)
{
    json_t *data = NULL;
    enum midge_status status;

    MIDGE_ASSERT(files != NULL && count > 0);
    MIDGE_ASSERT(out != NULL);
    status = condense_all(files, NULL, count, &data);
    if (status == MIDGE_OK)
        status = write_page(data, out);
    json_decref(data);
    return status;
}

/** Parse one file. @param file_out  own, on MIDGE_OK */
static enum midge_status load(const char *path, json_t **file_out)
{
    const bool is_input = strcmp(path, "-") == 0;
    FILE *in = is_input ? stdin : fopen(path, "rbe");
    json_error_t error;

    if (in == NULL) {
        fprintf(stderr, "midge-bench: report: %s: %s\n", path, strerror(errno));
        return MIDGE_E_SYSTEM;
    }
    *file_out = json_loadf(in, JSON_REJECT_DUPLICATES, &error);
    if (!is_input)
        (void)fclose(in); /* only read */
    if (*file_out == NULL) {
        fprintf(stderr, "midge-bench: report: %s: no JSON: line %d, column %d: %s\n", path,
                error.line, error.column, error.text);
        return MIDGE_E_CONFIG;
    }
    return MIDGE_OK;
}

static enum midge_status write_to(const json_t *data, const char *path)
{
    enum midge_status status;
    FILE *out;

    if (strcmp(path, "-") == 0)
        return write_page(data, stdout);
    out = fopen(path, "wbe");
    if (out == NULL) {
        fprintf(stderr, "midge-bench: report: %s: %s\n", path, strerror(errno));
        return MIDGE_E_WRITE;
    }
    status = write_page(data, out);
    if (fclose(out) != 0 && status == MIDGE_OK) {
        fprintf(stderr, "midge-bench: report: %s: %s\n", path, strerror(errno));
        status = MIDGE_E_WRITE;
    }
    return status;
}

enum midge_status midge_report_convert(const char *const *paths, uint32_t count,
                                       const char *out_path)
{
    json_t **files = calloc(count, sizeof *files);
    enum midge_status status = MIDGE_OK;
    json_t *data = NULL;
    uint32_t index;

    MIDGE_ASSERT(paths != NULL && count > 0);
    MIDGE_ASSERT(out_path != NULL);
    if (files == NULL)
        return out_of_memory();
    for (index = 0; status == MIDGE_OK && index < count; index++)
        status = load(paths[index], &files[index]);
    if (status == MIDGE_OK)
        status = condense_all((const json_t *const *)files, paths, count, &data);
    if (status == MIDGE_OK)
        status = write_to(data, out_path);
    json_decref(data);
    for (index = 0; index < count; index++)
        json_decref(files[index]);
    free(files);
    return status;
}
