/* What is looked at before anything is measured; see preflight.h. */
#include "preflight.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "server_command.h"

/* Files of a server, or of a process of the load, beside its connections. */
#define OWN_FILES 64u

void midge_preflight_raise_files(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
        return;
    limit.rlim_cur = limit.rlim_max;
    (void)setrlimit(RLIMIT_NOFILE, &limit);
}

/* @return false: errno says why */
static bool is_executable(const char *path)
{
    struct stat about;

    if (access(path, X_OK) != 0 || stat(path, &about) != 0)
        return false;
    errno = EISDIR;
    return !S_ISDIR(about.st_mode);
}

/* As execvp(3) would find it. @return false: errno says why */
static bool is_program(const char *name)
{
    const char *at = getenv("PATH");
    char path[PATH_MAX];

    if (strchr(name, '/') != NULL || at == NULL)
        return is_executable(name);
    for (;;) {
        const int len = (int)strcspn(at, ":");

        (void)snprintf(path, sizeof path, "%.*s%s%s", len, at, len == 0 ? "" : "/", name);
        if (is_executable(path))
            return true;
        if (at[len] == '\0')
            break;
        at += len + 1;
    }
    errno = ENOENT;
    return false;
}

static enum midge_status check_program(const char *option, const char *command)
{
    struct midge_server_command words;
    enum midge_status status = midge_server_command_init(option, command, NULL, &words);

    if (status != MIDGE_OK)
        return status;
    if (!is_program(words.words[0])) {
        (void)fprintf(stderr, "midge-bench: %s: %s: %s; install it, or give its path\n", option,
                      words.words[0], strerror(errno));
        status = MIDGE_E_CONFIG;
    }
    midge_server_command_deinit(&words);
    return status;
}

/* Connections that a server has at the same time. */
static uint32_t conn_count(const struct midge_run_options *run)
{
    if (run->scenario == MIDGE_RUN_CONNS)
        return run->connections;
    if (run->publishers > 0)
        return run->publishers + run->subscribers + run->stalled;
    return run->requesters + run->responders;
}

static enum midge_status check_files(const struct midge_bench_options *options)
{
    const uint32_t wanted = conn_count(&options->run) + OWN_FILES;
    struct rlimit limit;

    /* A server that runs has a limit of its own, and the load of a storm is many processes. */
    if ((options->url != NULL && options->run.scenario == MIDGE_RUN_CONNS) ||
        getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= wanted)
        return MIDGE_OK;
    (void)fprintf(stderr,
                  "midge-bench: %u connections need %u open files, and no process may have more "
                  "than %llu; see ulimit -n\n",
                  conn_count(&options->run), wanted, (unsigned long long)limit.rlim_cur);
    return MIDGE_E_CONFIG;
}

/* Each TCP connection to one address needs a port of its own at this end. */
static enum midge_status check_ports(const struct midge_bench_options *options)
{
    const bool is_unix =
        options->url == NULL ? options->is_unix : strncmp(options->url, "unix:", 5) == 0;
    FILE *file = fopen("/proc/sys/net/ipv4/ip_local_port_range", "re");
    uint32_t low = 0;
    uint32_t high = 0;
    const bool is_known = file != NULL && fscanf(file, "%u %u", &low, &high) == 2 && high >= low;

    if (file != NULL)
        (void)fclose(file);
    if (is_unix || !is_known || conn_count(&options->run) <= high - low + 1)
        return MIDGE_OK;
    (void)fprintf(stderr,
                  "midge-bench: %u TCP connections need as many ports, and there are %u of them "
                  "(net.ipv4.ip_local_port_range); %s needs none\n",
                  conn_count(&options->run), high - low + 1,
                  options->url == NULL ? "--transport unix" : "a Unix socket");
    return MIDGE_E_CONFIG;
}

enum midge_status midge_preflight_check(const struct midge_bench_options *options)
{
    enum midge_status status = MIDGE_OK;

    for (uint32_t i = 0; status == MIDGE_OK && i < MIDGE_OPTIONS_SERVERS_MAX; i++) {
        if (options->servers[i] != NULL)
            status = check_program(midge_options_server_name(options, i), options->servers[i]);
    }
    if (status == MIDGE_OK)
        status = check_files(options);
    return status == MIDGE_OK ? check_ports(options) : status;
}
