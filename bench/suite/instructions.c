/* Instructions of a server; see instructions.h. */
#include "instructions.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <linux/perf_event.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

/* A counter that ran for less than this share of the time, in thousandths, was lent to others. */
#define RUNNING_SHARE 999u

/* As the kernel gives it. Source: perf_event_open(2), "Reading results". */
struct reading {
    uint64_t value;
    uint64_t enabled_ns;
    uint64_t running_ns;
};

/* @return descriptor; -1: errno */
static int open_one(pid_t thread, uint32_t type, uint64_t config, bool has_kernel)
{
    struct perf_event_attr attributes = {
        .type = type,
        .size = sizeof attributes,
        .config = config,
        .read_format = PERF_FORMAT_TOTAL_TIME_ENABLED | PERF_FORMAT_TOTAL_TIME_RUNNING,
        .inherit = 1,
        .exclude_kernel = has_kernel ? 0 : 1,
        .exclude_hv = 1,
    };

    return (int)syscall(SYS_perf_event_open, &attributes, thread, -1, -1, PERF_FLAG_FD_CLOEXEC);
}

/* One after the other; a thread that has ended meanwhile is left out. */
static enum midge_status open_all(DIR *threads, uint32_t type, uint64_t config,
                                  struct midge_instructions *counter)
{
    const struct dirent *entry = NULL;

    while ((entry = readdir(threads)) != NULL) {
        if (!isdigit((unsigned char)entry->d_name[0]))
            continue;
        if (counter->thread_count == MIDGE_INSTRUCTIONS_THREADS_MAX) {
            errno = E2BIG;
            return MIDGE_E_SYSTEM;
        }
        const int fd =
            open_one((pid_t)strtol(entry->d_name, NULL, 10), type, config, counter->has_kernel);

        if (fd >= 0)
            counter->fds[counter->thread_count++] = fd;
        else if (errno != ESRCH)
            return MIDGE_E_SYSTEM;
    }
    return counter->thread_count > 0 ? MIDGE_OK : MIDGE_E_SYSTEM;
}

static enum midge_status try_to_open(pid_t pid, uint32_t type, uint64_t config, bool has_kernel,
                                     struct midge_instructions *counter_out)
{
    struct midge_instructions counter = {.has_kernel = has_kernel};
    enum midge_status status = MIDGE_OK;
    char path[64];

    (void)snprintf(path, sizeof path, "/proc/%d/task", (int)pid);
    DIR *threads = opendir(path);

    if (threads == NULL)
        return MIDGE_E_SYSTEM;
    errno = ESRCH; /* should there be none */
    status = open_all(threads, type, config, &counter);
    const int error = errno;

    (void)closedir(threads);
    if (status == MIDGE_OK)
        *counter_out = counter;
    else
        midge_instructions_close(&counter);
    errno = error;
    return status;
}

enum midge_status midge_instructions_open_event(pid_t pid, uint32_t type, uint64_t config,
                                                struct midge_instructions *counter_out)
{
    const enum midge_status status = try_to_open(pid, type, config, true, counter_out);

    if (status == MIDGE_OK || (errno != EACCES && errno != EPERM))
        return status;
    return try_to_open(pid, type, config, false, counter_out);
}

enum midge_status midge_instructions_open(pid_t pid, struct midge_instructions *counter_out)
{
    return midge_instructions_open_event(pid, PERF_TYPE_HARDWARE, PERF_COUNT_HW_INSTRUCTIONS,
                                         counter_out);
}

bool midge_instructions_read(const struct midge_instructions *counter, uint64_t *count_out)
{
    uint64_t count = 0;

    for (uint32_t i = 0; i < counter->thread_count; i++) {
        struct reading reading;

        if (read(counter->fds[i], &reading, sizeof reading) != (ssize_t)sizeof reading ||
            reading.running_ns < reading.enabled_ns / 1000 * RUNNING_SHARE)
            return false;
        count += reading.value;
    }
    if (counter->thread_count > 0)
        *count_out = count;
    return counter->thread_count > 0;
}

void midge_instructions_close(struct midge_instructions *counter)
{
    for (uint32_t i = 0; i < counter->thread_count; i++)
        (void)close(counter->fds[i]);
    counter->thread_count = 0;
}
