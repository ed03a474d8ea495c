/* CPU quotas of control groups; see quota.h. Source: Linux,
 * Documentation/admin-guide/cgroup-v2.rst and Documentation/scheduler/sched-bwc.rst. */
#include "quota.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Room for the lines and paths of the kernel. */
#define LINE_CAP (PATH_MAX + 64)

/* A quota of one group. @return CPUs; 0 = none, or the group has no such file here */
static double read_max(const char *group)
{
    char path[LINE_CAP + 32];
    long quota = 0;
    long period = 0;

    (void)snprintf(path, sizeof path, "%s/cpu.max", group);
    FILE *file = fopen(path, "re");
    char line[64] = "";

    if (file == NULL)
        return 0;
    /* "max 100000", or "150000 100000" */
    if (fgets(line, sizeof line, file) != NULL) {
        char *rest = NULL;

        quota = strtol(line, &rest, 10);
        period = strtol(rest, NULL, 10);
    }
    (void)fclose(file);
    return quota > 0 && period > 0 ? (double)quota / (double)period : 0;
}

static long read_number(const char *group, const char *name)
{
    char path[LINE_CAP + 32];
    char line[64] = "";

    (void)snprintf(path, sizeof path, "%s/%s", group, name);
    FILE *file = fopen(path, "re");

    if (file == NULL)
        return 0;
    const bool is_read = fgets(line, sizeof line, file) != NULL;

    (void)fclose(file);
    return is_read ? strtol(line, NULL, 10) : 0;
}

static double read_cfs(const char *group)
{
    const long quota = read_number(group, "cpu.cfs_quota_us"); /* -1 = none */
    const long period = read_number(group, "cpu.cfs_period_us");

    return quota > 0 && period > 0 ? (double)quota / (double)period : 0;
}

/* The tightest one from the group `path` below `root` upwards. In a container a group may have a
 * path that is not to be seen there; what is seen ends at the container's own, its root. */
static double read_upwards(const char *root, char *path, double (*read_cb)(const char *group))
{
    char group[LINE_CAP];
    double tightest = 0;

    for (;;) {
        char *slash = strrchr(path, '/');
        double cpus = 0;

        if (snprintf(group, sizeof group, "%s%s", root, path) < (int)sizeof group)
            cpus = read_cb(group);
        if (cpus > 0 && (tightest <= 0 || cpus < tightest))
            tightest = cpus;
        if (slash == NULL)
            return tightest;
        *slash = '\0';
    }
}

/* True if a list of names with commas between holds "cpu". */
static bool holds_cpu(const char *names)
{
    for (;;) {
        const size_t len = strcspn(names, ",");

        if (len == 3 && strncmp(names, "cpu", 3) == 0)
            return true;
        if (names[len] == '\0')
            return false;
        names += len + 1;
    }
}

/* One line, hierarchy:controller,controller:/path; version 2 has no controllers in it. */
static double read_line(const char *root, char *line)
{
    char cpu_root[LINE_CAP];
    char *names = strchr(line, ':');
    char *path = names == NULL ? NULL : strchr(names + 1, ':');

    if (path == NULL)
        return 0;
    *path++ = '\0';
    names++;
    path[strcspn(path, "\n")] = '\0';
    if (names[0] == '\0')
        return read_upwards(root, path, read_max);
    if (!holds_cpu(names) ||
        snprintf(cpu_root, sizeof cpu_root, "%s/cpu", root) >= (int)sizeof cpu_root)
        return 0;
    return read_upwards(cpu_root, path, read_cfs);
}

bool midge_quota_read(const char *groups_path, const char *root, double *cpus_out)
{
    FILE *file = fopen(groups_path, "re");
    char line[LINE_CAP];
    double tightest = 0;

    if (file == NULL)
        return false;
    while (fgets(line, sizeof line, file) != NULL) {
        const double cpus = read_line(root, line);

        if (cpus > 0 && (tightest <= 0 || cpus < tightest))
            tightest = cpus;
    }
    (void)fclose(file);
    *cpus_out = tightest;
    return true;
}
