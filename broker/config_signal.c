/*
 * --signal: find a running server and send it what was asked for.
 *
 * A running server is a process whose command name is midge-server or nats-server. With several and
 * no pid the user must choose. Source: nats-server v2.15.2, server/signal.go:90-216; proc(5).
 */
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include "config_internal.h"

#define PIDS_MAX 1024u

struct pid_list {
    pid_t pids[PIDS_MAX];
    uint32_t count;
};

static bool parse_pid(const char *text, pid_t *pid_out)
{
    const size_t len = strspn(text, "0123456789");
    char *end;
    long number;

    if (len == 0 || len > 9)
        return false;
    number = strtol(text, &end, 10);
    *pid_out = (pid_t)number;
    return number > 0 && end[strspn(end, " \t\r\n")] == '\0';
}

/* First line of a small file, without its newline. */
static bool read_line(const char *path, char *line, int cap)
{
    FILE *file = fopen(path, "re");
    bool got;

    if (file == NULL)
        return false;
    got = fgets(line, cap, file) != NULL;
    (void)fclose(file);
    if (got)
        line[strcspn(line, "\r\n")] = '\0';
    return got;
}

static bool is_server(pid_t pid)
{
    char path[64];
    char name[32];

    (void)snprintf(path, sizeof(path), "/proc/%ld/comm", (long)pid);
    return read_line(path, name, sizeof(name)) &&
           (strcmp(name, "midge-server") == 0 || strcmp(name, "nats-server") == 0);
}

/* Running servers whose pid starts with prefix, this process left out. */
static void find_servers(const char *prefix, struct pid_list *list)
{
    DIR *folder = opendir("/proc");
    const struct dirent *item;

    list->count = 0;
    if (folder == NULL)
        return;
    while (list->count < PIDS_MAX && (item = readdir(folder)) != NULL) {
        pid_t pid;

        if (!parse_pid(item->d_name, &pid) || pid == getpid() ||
            strncmp(item->d_name, prefix, strlen(prefix)) != 0 || !is_server(pid))
            continue;
        list->pids[list->count++] = pid;
    }
    (void)closedir(folder);
}

/* The only server that runs. */
static bool find_one(struct pid_list *list, FILE *err)
{
    find_servers("", list);
    if (list->count == 1)
        return true;
    if (list->count == 0) {
        (void)fputs("midge-server: no midge-server or nats-server process is running\n", err);
        return false;
    }
    (void)fputs("midge-server: several servers are running, name one by --signal CMD=PID:", err);
    for (uint32_t i = 0; i < list->count; i++)
        (void)fprintf(err, " %ld", (long)list->pids[i]);
    (void)fputc('\n', err);
    return false;
}

/* target: a pid file, a pid, or the start of pids with a * behind. */
static bool find_target(const char *target, struct pid_list *list, FILE *err)
{
    const size_t len = strlen(target);
    char line[64];
    char prefix[16];

    if (len > 0 && len <= sizeof(prefix) && target[len - 1] == '*' &&
        strspn(target, "0123456789") == len - 1) {
        memcpy(prefix, target, len - 1);
        prefix[len - 1] = '\0';
        find_servers(prefix, list);
        if (list->count > 0)
            return true;
        (void)fprintf(err, "midge-server: no server with a pid like %s is running\n", target);
        return false;
    }
    list->count = 1;
    if (parse_pid(read_line(target, line, sizeof(line)) ? line : target, &list->pids[0]))
        return true;
    (void)fprintf(err, "midge-server: \"%s\" is neither a pid nor a pid file\n", target);
    return false;
}

enum midge_status midge_config_send_signal(const struct midge_config *config, FILE *err)
{
    struct pid_list list;
    enum midge_status status = MIDGE_OK;

    MIDGE_ASSERT(config->action == MIDGE_CONFIG_SIGNAL);
    MIDGE_ASSERT(config->signal_number > 0);
    if (config->signal_target == NULL ? !find_one(&list, err)
                                      : !find_target(config->signal_target, &list, err))
        return MIDGE_E_CONFIG;
    for (uint32_t i = 0; i < list.count; i++) {
        if (kill(list.pids[i], config->signal_number) == 0)
            continue;
        (void)fprintf(err, "midge-server: cannot send signal %" PRId32 " to process %ld: %s\n",
                      config->signal_number, (long)list.pids[i], strerror(errno));
        status = MIDGE_E_CONFIG;
    }
    return status;
}
