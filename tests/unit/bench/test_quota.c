/*
 * Quotas of both versions of control groups. Method: a made-up tree of groups in a directory of its
 * own, and the list of groups of a process; one behaviour per test.
 */
#include "quota.h"

#include <criterion/criterion.h>
#include <ftw.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static char root[32];

static void create(void)
{
    (void)snprintf(root, sizeof root, "/tmp/midge-quota-XXXXXX");
    cr_assert_not_null(mkdtemp(root));
}

static int remove_entry(const char *path, const struct stat *status, int type, struct FTW *place)
{
    (void)status;
    (void)type;
    (void)place;
    return remove(path);
}

static void destroy(void)
{
    cr_expect_eq(nftw(root, remove_entry, 8, FTW_DEPTH | FTW_PHYS), 0);
}

TestSuite(quota, .init = create, .fini = destroy);

/* Write a file below the root, and the directories above it. */
static void put(const char *name, const char *text)
{
    char path[256];

    (void)snprintf(path, sizeof path, "%s/%s", root, name);
    for (char *slash = path + strlen(root) + 1; (slash = strchr(slash, '/')) != NULL; slash++) {
        *slash = '\0';
        (void)mkdir(path, 0700);
        *slash = '/';
    }
    FILE *file = fopen(path, "we");

    cr_assert_not_null(file);
    (void)fputs(text, file);
    cr_assert_eq(fclose(file), 0);
}

static void expect_cpus(const char *groups, double expected)
{
    char path[256];
    double cpus = -1;

    put("groups", groups);
    (void)snprintf(path, sizeof path, "%s/groups", root);
    cr_assert(midge_quota_read(path, root, &cpus));
    cr_expect(cpus > expected - 0.001 && cpus < expected + 0.001, "%f, not %f", cpus, expected);
}

Test(quota, version_2_is_quota_by_period)
{
    put("user/one/cpu.max", "150000 100000\n");
    expect_cpus("0::/user/one\n", 1.5);
}

Test(quota, max_is_none)
{
    put("user/one/cpu.max", "max 100000\n");
    expect_cpus("0::/user/one\n", 0);
}

Test(quota, tightest_group_on_the_way_up_counts)
{
    put("user/one/cpu.max", "400000 100000\n");
    put("user/cpu.max", "50000 100000\n");
    put("cpu.max", "max 100000\n");
    expect_cpus("0::/user/one\n", 0.5);
}

Test(quota, version_1_is_read_below_its_controller)
{
    put("cpu/one/cpu.cfs_quota_us", "200000\n");
    put("cpu/one/cpu.cfs_period_us", "100000\n");
    put("cpu/cpu.cfs_quota_us", "-1\n");
    put("cpu/cpu.cfs_period_us", "100000\n");
    expect_cpus("2:cpuset:/\n1:cpu,cpuacct:/one\n0::/\n", 2);
}

Test(quota, minus_one_is_none)
{
    put("cpu/cpu.cfs_quota_us", "-1\n");
    put("cpu/cpu.cfs_period_us", "100000\n");
    expect_cpus("1:cpu:/\n", 0);
}

Test(quota, groups_that_are_not_to_be_seen_leave_the_root)
{
    put("cpu.max", "25000 100000\n");
    expect_cpus("0::/docker/0123\n", 0.25);
}

Test(quota, lines_that_are_none_are_left_out)
{
    expect_cpus("nonsense\n1:\n\n", 0);
}

Test(quota, without_a_list_of_groups_nothing_is_known)
{
    double cpus = 42;

    cr_expect_not(midge_quota_read("/nonexistent", root, &cpus));
    cr_expect_eq(cpus, 42);
}
