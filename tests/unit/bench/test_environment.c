/*
 * The record of the machine, and what others did on it. Method: made-up readings whose sums are
 * known; of the real machine only what holds for every one.
 */
#include "environment.h"

#include <criterion/criterion.h>
#include <string.h>

#define MS 1000000ull

static uint64_t entry(const json_t *foreign, const char *key)
{
    const json_t *value = json_object_get(foreign, key);

    cr_assert(json_is_integer(value), "%s", key);
    return (uint64_t)json_integer_value(value);
}

static cpu_set_t only_cpu(uint32_t cpu)
{
    cpu_set_t cpus;

    CPU_ZERO(&cpus);
    CPU_SET(cpu, &cpus);
    return cpus;
}

static void expect_foreign(uint64_t own_ns, uint64_t here_ns)
{
    struct midge_environment_times before = {
        .cpu_count = 3, .busy_ns = {100 * MS, 200 * MS, 300 * MS}, .steal_ns = {MS, MS, MS}};
    struct midge_environment_times after = {.cpu_count = 3,
                                            .busy_ns = {150 * MS, 400 * MS, 310 * MS},
                                            .steal_ns = {MS, 3 * MS, 2 * MS}};
    const cpu_set_t cpus = only_cpu(1);
    json_t *foreign = midge_environment_foreign(&before, &after, &cpus, own_ns, 999);

    cr_assert_not_null(foreign);
    cr_expect_eq(entry(foreign, "elapsed_ns"), 999);
    cr_expect_eq(entry(foreign, "here_ns"), here_ns);
    cr_expect_eq(entry(foreign, "elsewhere_ns"), 60 * MS);
    cr_expect_eq(entry(foreign, "steal_ns"), 3 * MS);
    json_decref(foreign);
}

Test(environment, others_are_what_is_left_after_our_own_time)
{
    expect_foreign(150 * MS, 50 * MS);
    expect_foreign(0, 200 * MS);
}

Test(environment, ticks_are_coarse_so_our_own_time_may_be_more_than_all)
{
    expect_foreign(205 * MS, 0);
}

Test(environment, network_work_of_the_kernel_is_neither_ours_nor_others)
{
    const struct midge_environment_times before = {
        .cpu_count = 2, .busy_ns = {100 * MS}, .network_ns = {70 * MS, MS}};
    const struct midge_environment_times after = {
        .cpu_count = 2, .busy_ns = {200 * MS}, .network_ns = {90 * MS, MS}};
    const cpu_set_t cpus = only_cpu(0);
    json_t *foreign = midge_environment_foreign(&before, &after, &cpus, 50 * MS, 1);

    cr_assert_not_null(foreign);
    cr_expect_eq(entry(foreign, "here_ns"), 30 * MS);
    cr_expect_eq(entry(foreign, "network_ns"), 20 * MS);
    json_decref(foreign);
}

Test(environment, cpu_that_counts_from_zero_again_adds_nothing)
{
    const struct midge_environment_times before = {
        .cpu_count = 2, .busy_ns = {500 * MS, 10 * MS}, .steal_ns = {70 * MS}};
    const struct midge_environment_times after = {.cpu_count = 2, .busy_ns = {20 * MS, 15 * MS}};
    const cpu_set_t cpus = only_cpu(0);
    json_t *foreign = midge_environment_foreign(&before, &after, &cpus, 0, 1);

    cr_assert_not_null(foreign);
    cr_expect_eq(entry(foreign, "here_ns"), 0);
    cr_expect_eq(entry(foreign, "elsewhere_ns"), 5 * MS);
    cr_expect_eq(entry(foreign, "steal_ns"), 0);
    json_decref(foreign);
}

Test(environment, times_only_grow)
{
    struct midge_environment_times before;
    struct midge_environment_times after;
    const cpu_set_t cpus = only_cpu(0);
    uint64_t busy_ns = 0;

    midge_environment_read(&cpus, &before);
    midge_environment_read(&cpus, &after);
    cr_assert_gt(before.cpu_count, 0);
    cr_assert_eq(before.cpu_count, after.cpu_count);
    for (uint32_t i = 0; i < before.cpu_count; i++) {
        cr_expect_geq(after.busy_ns[i], before.busy_ns[i]);
        cr_expect_geq(after.network_ns[i], before.network_ns[i]);
        busy_ns += before.busy_ns[i];
    }
    cr_expect_gt(busy_ns, 0);
}

static json_t *describe(void)
{
    char program[] = "midge-bench";
    char flag[] = "--a";
    char command[] = "midge-server -p '1'";
    char *const argv[] = {program, flag, command, NULL};
    json_t *record = midge_environment_describe(3, argv);

    cr_assert_not_null(record);
    return record;
}

Test(environment, record_has_every_entry_even_if_it_is_null)
{
    static const char *const keys[] = {
        "cpu_model",    "hypervisor",   "cpus_online",  "cpus_allowed", "cpus_isolated",
        "smt",          "boost",        "governor",     "idle_driver",  "kernel",
        "mitigations",  "clock_source", "memory_bytes", "huge_pages",   "cgroup_quota",
        "load_average", "time_utc",     "libraries",    "compiler",     "build_type",
        "build_flags",  "midge_bench",  "commit",       "command_line",
    };
    json_t *record = describe();

    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++)
        cr_expect_not_null(json_object_get(record, keys[i]), "%s", keys[i]);
    cr_expect_eq(json_object_size(record), sizeof keys / sizeof keys[0]);
    json_decref(record);
}

Test(environment, what_every_machine_knows_is_not_null)
{
    json_t *record = describe();

    cr_expect_gt(json_integer_value(json_object_get(record, "cpus_online")), 0);
    cr_expect_gt(json_integer_value(json_object_get(record, "memory_bytes")), 0);
    cr_expect_gt(json_string_length(json_object_get(record, "cpus_allowed")), 0);
    cr_expect(strncmp(json_string_value(json_object_get(record, "kernel")), "Linux ", 6) == 0);
    cr_expect_eq(json_string_length(json_object_get(record, "time_utc")),
                 strlen("2026-01-31T12:00:00Z"));
    cr_expect_gt(json_string_length(json_object_get(record, "commit")), 0);
    json_decref(record);
}

Test(environment, command_line_can_be_given_to_a_shell)
{
    json_t *record = describe();

    cr_expect_str_eq(json_string_value(json_object_get(record, "command_line")),
                     "midge-bench --a 'midge-server -p '\\''1'\\'''");
    json_decref(record);
}
