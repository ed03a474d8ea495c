/* Limits of this process's control groups; see cgroup.h. */
#include "cgroup.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "midge/compiler.h"

#define PATH_LEN_MAX 4096u

/* The first number of a file; false if there is none ("max" is none). */
static bool read_number(const char *path, uint64_t *number_out)
{
    char text[64];
    char *end;
    bool found = false;
    FILE *file = fopen(path, "re");

    if (file == NULL)
        return false;
    if (fgets(text, sizeof(text), file) != NULL && text[0] != '-') {
        *number_out = strtoull(text, &end, 10);
        found = end != text;
    }
    (void)fclose(file);
    return found;
}

/* True if a list of names with commas between holds the name; an empty list holds the empty name.
 */
static bool holds(const char *names, const char *name)
{
    const size_t name_len = strlen(name);

    for (;;) {
        const size_t len = strcspn(names, ",");

        if (len == name_len && strncmp(names, name, len) == 0)
            return true;
        if (names[len] == '\0')
            return false;
        names += len + 1;
    }
}

/* The path of this process in the hierarchy of a controller: "" names version 2's. */
static bool find_group(const char *controller, char group[PATH_LEN_MAX])
{
    char line[PATH_LEN_MAX];
    bool found = false;
    FILE *file = fopen("/proc/self/cgroup", "re");

    if (file == NULL)
        return false;
    /* hierarchy:controller,controller:/path */
    while (!found && fgets(line, sizeof(line), file) != NULL) {
        char *names = strchr(line, ':');
        char *path = names != NULL ? strchr(names + 1, ':') : NULL;

        if (path == NULL)
            continue;
        *path++ = '\0';
        path[strcspn(path, "\n")] = '\0';
        found = holds(names + 1, controller);
        if (found)
            (void)snprintf(group, PATH_LEN_MAX, "%s", path);
    }
    (void)fclose(file);
    return found;
}

/* The lowest number of a file in the group and all above it; UINT64_MAX if none has one. */
static uint64_t lowest(const char *root, const char *controller, const char *name)
{
    char group[PATH_LEN_MAX];
    char path[2 * PATH_LEN_MAX];
    uint64_t low = UINT64_MAX;

    if (!find_group(controller, group))
        return low;
    for (;;) {
        char *slash = strrchr(group, '/');
        uint64_t number;

        (void)snprintf(path, sizeof(path), "%s%s/%s", root, group, name);
        if (read_number(path, &number) && number < low)
            low = number;
        if (slash == NULL)
            return low;
        *slash = '\0';
    }
}

uint64_t midge_cgroup_memory_bytes(void)
{
    const uint64_t version2 = lowest("/sys/fs/cgroup", "", "memory.max");
    const uint64_t version1 = lowest("/sys/fs/cgroup/memory", "memory", "memory.limit_in_bytes");

    return version1 < version2 ? version1 : version2;
}

bool midge_cgroup_has_cpu_quota(void)
{
    /* "max 100000" and "-1" hold no number in front. */
    return lowest("/sys/fs/cgroup", "", "cpu.max") != UINT64_MAX ||
           lowest("/sys/fs/cgroup/cpu", "cpu", "cpu.cfs_quota_us") != UINT64_MAX;
}
