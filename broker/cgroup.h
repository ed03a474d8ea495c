/*
 * What the control groups of this process allow it.
 *
 * Looks at the group that /proc/self/cgroup names and at all above it, versions 1 and 2.
 *
 * Thread: any, at start.
 * Source: cgroups(7); Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/ of Linux 6.18.
 */
#ifndef MIDGE_CGROUP_H
#define MIDGE_CGROUP_H

#include <stdbool.h>
#include <stdint.h>

/** The lowest memory limit in bytes; UINT64_MAX = none. */
uint64_t midge_cgroup_memory_bytes(void);

/** True if CPU time is limited by a quota. */
bool midge_cgroup_has_cpu_quota(void);

#endif
