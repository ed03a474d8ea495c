/*
 * The CPU time that control groups allow this process, of version 2 (cpu.max) or 1
 * (cpu.cfs_quota_us).
 *
 * Thread: any (values).
 */
#ifndef MIDGE_QUOTA_H
#define MIDGE_QUOTA_H

#include <stdbool.h>

#include "midge/compiler.h"

/**
 * The tightest quota of the process's group and of all above it.
 *
 * @param groups_path  "/proc/self/cgroup"
 * @param root         "/sys/fs/cgroup"
 * @param cpus_out     CPUs that it is worth: 1.5; 0 = there is none
 * @return false if the groups of the process are not known
 */
MIDGE_MUST_CHECK bool midge_quota_read(const char *groups_path, const char *root, double *cpus_out);

#endif
