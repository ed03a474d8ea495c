/*
 * The percentile output that HdrHistogram's plotter reads. Method: a whole file compared with what
 * HdrHistogram prints for the same samples, and large ones read back as the plotter does it.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "histogram.h"

static struct midge_histogram histogram;

/* own (free). */
static char *written(void)
{
    char *text = NULL;
    size_t len = 0;
    FILE *file = open_memstream(&text, &len);

    cr_assert_not_null(file);
    cr_expect_eq(midge_histogram_write_hgrm(&histogram, file), MIDGE_OK);
    cr_assert_eq(fclose(file), 0);
    return text;
}

/* Source: HdrHistogramJS, src/Histogram.spec.ts, with values that its buckets hold exactly. */
Test(histogram_hgrm, three_samples_are_written_as_hdrhistogram_does)
{
    midge_histogram_init(&histogram);
    midge_histogram_add(&histogram, 250, 1);
    midge_histogram_add(&histogram, 500, 1);
    midge_histogram_add(&histogram, 750, 1);

    char *text = written();

    cr_expect_str_eq(text, "       Value     Percentile TotalCount 1/(1-Percentile)\n\n"
                           "       0.250 0.000000000000          1           1.00\n"
                           "       0.250 0.100000000000          1           1.11\n"
                           "       0.250 0.200000000000          1           1.25\n"
                           "       0.250 0.300000000000          1           1.43\n"
                           "       0.500 0.400000000000          2           1.67\n"
                           "       0.500 0.500000000000          2           2.00\n"
                           "       0.500 0.550000000000          2           2.22\n"
                           "       0.500 0.600000000000          2           2.50\n"
                           "       0.500 0.650000000000          2           2.86\n"
                           "       0.750 0.700000000000          3           3.33\n"
                           "       0.750 1.000000000000          3\n"
                           "#[Mean    =        0.500, StdDeviation   =        0.204]\n"
                           "#[Max     =        0.750, Total count    =            3]\n"
                           "#[Buckets =           32, SubBuckets     =         2048]\n");
    free(text);
}

Test(histogram_hgrm, an_empty_one_has_no_levels)
{
    midge_histogram_init(&histogram);

    char *text = written();

    cr_expect_str_eq(text, "       Value     Percentile TotalCount 1/(1-Percentile)\n\n"
                           "#[Mean    =        0.000, StdDeviation   =        0.000]\n"
                           "#[Max     =        0.000, Total count    =            0]\n"
                           "#[Buckets =           32, SubBuckets     =         2048]\n");
    free(text);
}

Test(histogram_hgrm, equal_samples_deviate_by_nothing)
{
    midge_histogram_init(&histogram);
    midge_histogram_add(&histogram, 123456789, 1000);

    char *text = written();

    cr_expect_not_null(strstr(text, "#[Mean    =   123456.789, StdDeviation   =        0.000]\n"));
    free(text);
}

Test(histogram_hgrm, samples_beyond_an_hour_are_an_hour_but_the_largest)
{
    midge_histogram_init(&histogram);
    midge_histogram_add(&histogram, 2 * MIDGE_HISTOGRAM_NS_MAX, 5);

    char *text = written();

    cr_expect_not_null(strstr(text, "\n3600000000.000 1.000000000000          5\n"));
    cr_expect_not_null(strstr(text, "Mean    = 3600000000.000, StdDeviation   =        0.000]\n"));
    cr_expect_not_null(
        strstr(text, "#[Max     = 7200000000.000, Total count    =            5]\n"));
    free(text);
}

struct line {
    double value_us;
    double percentile;
    unsigned long long count;
    double inverse;
};

/* Samples 1,000 ns, 2,000 ns, … so that the one at rank r is r us. */
static void expect_line(const struct line *line, const struct line *before, uint32_t samples)
{
    cr_expect_geq(line->value_us, before->value_us);
    cr_expect_gt(line->percentile, before->percentile);
    cr_expect_geq(line->count, before->count);
    cr_expect_geq((double)line->count, line->percentile * samples * (1 - 1e-9));
    cr_expect_geq(line->value_us, (double)line->count);
    cr_expect_leq(line->value_us, (double)line->count * 1.001);
    cr_expect_float_eq(line->inverse, 1 / (1 - line->percentile), 0.01 + line->inverse * 1e-6);
}

static void expect_readable(uint32_t samples, uint32_t lines_expected)
{
    midge_histogram_init(&histogram);
    for (uint64_t i = 1; i <= samples; i++)
        midge_histogram_add(&histogram, i * 1000, 1);

    char *text = written();
    char *rest = text;
    struct line before = {.percentile = -1};
    uint32_t lines = 0;
    bool has_ended = false;

    for (char *row = strsep(&rest, "\n"); row != NULL; row = strsep(&rest, "\n")) {
        struct line line = {.value_us = 0};
        const int columns = sscanf(row, " %lf %lf %llu %lf", &line.value_us, &line.percentile,
                                   &line.count, &line.inverse);

        if (columns == 4) {
            cr_expect_not(has_ended);
            expect_line(&line, &before, samples);
            before = line;
            lines++;
        } else if (columns == 3) {
            cr_expect_not(has_ended, "there is one line for all");
            cr_expect_eq(line.percentile, 1);
            cr_expect_eq(line.count, samples);
            cr_expect_eq(line.value_us, samples);
            has_ended = true;
        }
    }
    cr_expect(has_ended);
    cr_expect_eq(lines, lines_expected, "%u", lines);
    free(text);
}

Test(histogram_hgrm, levels_are_read_back_in_order)
{
    /* 5 for each halving while a sample is left, and one for the last sample. */
    expect_readable(1, 1);
    expect_readable(7, 16);
    expect_readable(1000, 51);
    /* The last bucket has 52 samples: 57 levels before it, one for it. */
    expect_readable(123456, 58);
}

Test(histogram_hgrm, a_full_device_is_a_failure)
{
    FILE *file = fopen("/dev/full", "w");

    cr_assert_not_null(file);
    midge_histogram_init(&histogram);
    midge_histogram_add(&histogram, 1000, 1000);
    cr_expect_eq(midge_histogram_write_hgrm(&histogram, file), MIDGE_E_WRITE);
    cr_expect_eq(errno, ENOSPC);
    (void)fclose(file);
}
