/* Servers of a run; see server.h. */
#include "server_internal.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "endpoint.h"
#include "interrupt.h"
#include "process.h"
#include "server_command.h"
#include "server_process.h"

#define START_WAIT_MS   10000u
#define STOP_WAIT_MS    5000u
#define VERSION_WAIT_MS 10000u

/* Between two attempts to reach a server, and two looks whether it still runs. */
#define PAUSE_NS 2000000u
#define LOOK_MS  20

/* Ports that are tried. That somebody takes a port between its choice and its use is rare. */
#define PORTS_MAX 3u

/* What is shown of a server's output. */
#define TAIL_LEN   2000u
#define TAIL_LINES 10u
#define HEAD_LEN   200u

#define VERSION_LEN 1024u

static const char log_suffix[] = ".log";
static const char socket_suffix[] = ".sock";

struct start {
    const struct midge_server_options *options;
    struct midge_endpoint endpoint;
    char socket_path[MIDGE_SERVER_PATH_CAP];
    struct midge_server_place place;
    struct midge_server server;
    uint32_t wait_ms;
};

static void complain(const char *name, const char *what)
{
    (void)fprintf(stderr, "midge-bench: %s: %s\n", name, what);
}

/* The last bytes of a file, beginning with a whole line. @return their count */
static uint32_t read_tail(const char *path, char bytes[TAIL_LEN], bool *is_cut_out)
{
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    const off_t end = fd < 0 ? 0 : lseek(fd, 0, SEEK_END);
    const off_t begin = end > (off_t)TAIL_LEN ? end - (off_t)TAIL_LEN : 0;
    const ssize_t len = fd < 0 ? 0 : pread(fd, bytes, TAIL_LEN, begin);
    uint32_t count = len > 0 ? (uint32_t)len : 0;
    uint32_t skipped = 0;
    uint32_t lines = 0;

    if (fd >= 0)
        (void)close(fd);
    while (count > 0 && isspace((unsigned char)bytes[count - 1]))
        count--;
    for (uint32_t i = count; i > 0 && skipped == 0; i--) {
        if (bytes[i - 1] == '\n' && ++lines == TAIL_LINES)
            skipped = i;
    }
    if (skipped == 0 && begin > 0) { /* the first line is a part of one */
        const char *line = (const char *)memchr(bytes, '\n', count);

        skipped = line == NULL ? 0 : (uint32_t)(line - bytes) + 1;
    }
    *is_cut_out = begin > 0 || skipped > 0;
    memmove(bytes, bytes + skipped, count - skipped);
    return count - skipped;
}

/* Lines of a server, indented; a terminal would obey their control characters. */
static void show(const char *bytes, uint32_t len)
{
    bool is_line_begin = true;

    for (uint32_t i = 0; i < len; i++) {
        const bool is_control = iscntrl((unsigned char)bytes[i]) && bytes[i] != '\t';

        if (is_line_begin)
            (void)fputs("  ", stderr);
        is_line_begin = bytes[i] == '\n';
        (void)fputc(is_control && !is_line_begin ? '?' : bytes[i], stderr);
    }
    if (!is_line_begin)
        (void)fputc('\n', stderr);
}

/* One line of what happened, and below it the first line of the server's output, where a server
 * that prints its usage says what it did not understand, and how it ends. */
static void complain_with_output(const struct midge_server *server, const char *what)
{
    char first[HEAD_LEN];
    char tail[TAIL_LEN];
    bool is_cut = false;
    const uint32_t len = read_tail(server->log_path, tail, &is_cut);
    FILE *file = is_cut ? fopen(server->log_path, "re") : NULL;

    (void)fprintf(stderr, "midge-bench: %s: %s; %s\n", server->name, what,
                  len == 0 ? "it printed nothing" : "its output:");
    if (file != NULL && fgets(first, sizeof first, file) != NULL) {
        show(first, (uint32_t)strlen(first));
        (void)fputs("  ...\n", stderr);
    }
    if (file != NULL)
        (void)fclose(file);
    show(tail, len);
}

/* The socket's file has the name of the output's, with another end. What was not started here, as a
 * relay, has neither. */
static void remove_socket(const struct midge_server *server)
{
    char path[MIDGE_SERVER_PATH_CAP + sizeof socket_suffix];

    if (server->log_path[0] == '\0')
        return;
    const size_t len = strlen(server->log_path) - (sizeof log_suffix - 1);

    (void)snprintf(path, sizeof path, "%.*s%s", (int)len, server->log_path, socket_suffix);
    (void)unlink(path);
}

/* Reap it, and say how it ended. */
static void complain_of_end(struct midge_server *server, const char *when)
{
    char how[64];
    char what[128];

    midge_server_process_reap(server->pid, how, sizeof how);
    server->pid = 0;
    remove_socket(server);
    (void)snprintf(what, sizeof what, "%s %s", when, how);
    complain_with_output(server, what);
}

/* @return MIDGE_OK: the port is free; E_SYSTEM: errno says why it is not (EADDRINUSE) */
static enum midge_status try_port(uint32_t port, uint32_t *port_out)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((uint16_t)port),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof address;
    const int one = 1;
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd < 0)
        return MIDGE_E_SYSTEM;
    const bool is_bound = setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) == 0 &&
                          bind(fd, (const struct sockaddr *)&address, sizeof address) == 0 &&
                          getsockname(fd, (struct sockaddr *)&address, &len) == 0;
    const int error = errno;

    (void)close(fd);
    errno = error;
    if (is_bound)
        *port_out = ntohs(address.sin_port);
    return is_bound ? MIDGE_OK : MIDGE_E_SYSTEM;
}

enum midge_status midge_server_free_port(uint32_t *port_out)
{
    return try_port(0, port_out);
}

/* A server that has ended: could it not have its port? The one who had it may be gone again. */
static bool lost_port(const struct start *start)
{
    char bytes[TAIL_LEN + 1];
    bool is_cut = false;
    uint32_t port = 0;

    bytes[read_tail(start->server.log_path, bytes, &is_cut)] = '\0';
    return strcasestr(bytes, "address already in use") != NULL ||
           (try_port(start->place.port, &port) != MIDGE_OK && errno == EADDRINUSE);
}

/* Files of the server, and where a client finds it, but for the port. */
static enum midge_status make_paths(struct start *start)
{
    const struct midge_server_options *options = start->options;
    char *directory = realpath(options->directory, NULL);

    if (directory == NULL) {
        complain(options->directory, strerror(errno));
        return MIDGE_E_SYSTEM;
    }
    const int socket_len = snprintf(start->socket_path, sizeof start->socket_path, "%s/%s%s",
                                    directory, options->name, socket_suffix);
    const int log_len = snprintf(start->server.log_path, sizeof start->server.log_path, "%s/%s%s",
                                 directory, options->name, log_suffix);

    free(directory);
    if (socket_len >= (int)sizeof start->socket_path ||
        log_len >= (int)sizeof start->server.log_path) {
        complain(options->directory, "is too long a path for a Unix socket in it");
        return MIDGE_E_CONFIG;
    }
    return MIDGE_OK;
}

/* Choose a port, and say by which address the server is to be reached. */
static enum midge_status choose_place(struct start *start)
{
    struct midge_server *server = &start->server;

    if (midge_server_free_port(&start->place.port) != MIDGE_OK) {
        complain(server->name, "there is no free TCP port");
        return MIDGE_E_SYSTEM;
    }
    if (start->place.is_unix)
        (void)snprintf(server->url, sizeof server->url, "unix://%s", start->socket_path);
    else
        (void)snprintf(server->url, sizeof server->url, "nats://127.0.0.1:%u", start->place.port);
    return midge_endpoint_parse(server->url, &start->endpoint);
}

static enum midge_status launch(struct start *start)
{
    struct midge_server *server = &start->server;
    struct midge_server_command command;
    enum midge_status status =
        midge_server_command_init(server->name, start->options->command, &start->place, &command);

    if (status != MIDGE_OK)
        return status;
    const int output =
        open(server->log_path, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0644);

    if (output < 0) {
        complain(server->log_path, strerror(errno));
        status = MIDGE_E_SYSTEM;
    } else {
        remove_socket(server);
        status = midge_server_process_start(server->name, command.words, start->options->cpus,
                                            output, &server->pid);
        (void)close(output);
    }
    midge_server_command_deinit(&command);
    return status;
}

/* Nobody listens, and the kernel chose the very same port for our end: we speak to ourselves, and
 * the server cannot have the port. */
static bool is_own_echo(const struct midge_endpoint *endpoint, int fd)
{
    struct sockaddr_in own = {.sin_port = 0};
    struct sockaddr_in peer = {.sin_port = 0};
    socklen_t own_len = sizeof own;
    socklen_t peer_len = sizeof peer;

    return !endpoint->is_unix && getsockname(fd, (struct sockaddr *)&own, &own_len) == 0 &&
           getpeername(fd, (struct sockaddr *)&peer, &peer_len) == 0 &&
           own.sin_port == peer.sin_port;
}

/* Read a line that begins with INFO. @return MIDGE_OK; AGAIN: not yet; E_PARSE: another line */
static enum midge_status read_greeting(const struct start *start, int fd, uint64_t until_ns)
{
    static const char begin[] = "INFO ";
    uint32_t done = 0; /* bytes that are as they should be */

    while (midge_process_now_ns() < until_ns && midge_interrupt_signal() == 0 &&
           !midge_server_process_has_ended(start->server.pid)) {
        struct pollfd poll_fd = {.fd = fd, .events = POLLIN};
        char bytes[4096];

        if (poll(&poll_fd, 1, LOOK_MS) <= 0)
            continue;
        const ssize_t len = recv(fd, bytes, sizeof bytes, MSG_DONTWAIT);

        if (len <= 0)
            break;
        for (ssize_t i = 0; i < len; i++) {
            if (done == sizeof begin - 1 && bytes[i] == '\n')
                return MIDGE_OK;
            if (done < sizeof begin - 1 && bytes[i] != begin[done++])
                return MIDGE_E_PARSE;
        }
    }
    return MIDGE_AGAIN;
}

static enum midge_status greet(const struct start *start, uint64_t until_ns)
{
    enum midge_status status = MIDGE_AGAIN;
    int fd = -1;

    if (midge_endpoint_connect(&start->endpoint, 0, 0, &fd) != MIDGE_OK)
        return MIDGE_AGAIN;
    if (!is_own_echo(&start->endpoint, fd))
        status = read_greeting(start, fd, until_ns);
    (void)close(fd);
    return status;
}

/* @return MIDGE_OK; E_EOF: it has ended; E_TIMEOUT; E_PARSE: it does not speak NATS; E_CLOSED: we
 * are to end */
static enum midge_status wait_until_ready(const struct start *start)
{
    const uint64_t until_ns = midge_process_now_ns() + start->wait_ms * 1000000ull;
    enum midge_status status = MIDGE_AGAIN;

    while (status == MIDGE_AGAIN && midge_process_now_ns() < until_ns) {
        status = greet(start, until_ns);
        /* Also where somebody answered: it may be another one who has the port. */
        if (midge_server_process_has_ended(start->server.pid))
            return MIDGE_E_EOF;
        if (status != MIDGE_OK && midge_interrupt_signal() != 0)
            return MIDGE_E_CLOSED;
        if (status == MIDGE_AGAIN)
            midge_process_sleep_ns(PAUSE_NS);
    }
    return status == MIDGE_AGAIN ? MIDGE_E_TIMEOUT : status;
}

/* @return MIDGE_OK; AGAIN: somebody else has its port; anything else: said why */
static enum midge_status start_once(struct start *start, bool is_last)
{
    struct midge_server *server = &start->server;
    char what[96];
    enum midge_status status = choose_place(start);

    if (status == MIDGE_OK)
        status = launch(start);
    if (status != MIDGE_OK)
        return status;
    status = start->options->is_silent ? MIDGE_OK : wait_until_ready(start);
    if (status == MIDGE_E_EOF && !is_last && lost_port(start)) {
        midge_server_process_reap(server->pid, what, sizeof what);
        server->pid = 0;
        return MIDGE_AGAIN;
    }
    if (status == MIDGE_E_EOF) {
        complain_of_end(server, "ended before it was ready,");
    } else if (status == MIDGE_E_TIMEOUT) {
        (void)snprintf(what, sizeof what, "did not answer with INFO within %u ms", start->wait_ms);
        midge_server_stop(server);
        complain_with_output(server, what);
    } else if (status == MIDGE_E_PARSE) {
        midge_server_stop(server);
        complain_with_output(server, "did not begin with INFO, as a NATS server does");
    } else if (status == MIDGE_E_CLOSED) {
        midge_server_stop(server);
    }
    return status;
}

enum midge_status midge_server_start_within(const struct midge_server_options *options,
                                            uint32_t wait_ms, struct midge_server *server_out)
{
    struct start start = {.options = options, .wait_ms = wait_ms, .server.name = options->name};
    enum midge_status status = MIDGE_OK;

    MIDGE_ASSERT(strchr(options->name, '/') == NULL);
    status = make_paths(&start);
    if (status != MIDGE_OK)
        return status;
    start.place.socket = start.socket_path;
    start.place.is_unix = options->is_unix;
    for (uint32_t i = 1; i <= PORTS_MAX; i++) {
        status = start_once(&start, i == PORTS_MAX);
        if (status != MIDGE_AGAIN)
            break;
    }
    if (status == MIDGE_OK)
        *server_out = start.server;
    return status;
}

enum midge_status midge_server_start(const struct midge_server_options *options,
                                     struct midge_server *server_out)
{
    return midge_server_start_within(options, START_WAIT_MS, server_out);
}

bool midge_server_is_alive(struct midge_server *server)
{
    if (server->pid == 0)
        return false;
    if (!midge_server_process_has_ended(server->pid))
        return true;
    complain_of_end(server, "ended during the run,");
    return false;
}

void midge_server_stop_within(struct midge_server *server, uint32_t wait_ms)
{
    if (server->pid == 0)
        return;
    midge_server_process_end(server->pid, wait_ms);
    server->pid = 0;
    remove_socket(server);
}

void midge_server_stop(struct midge_server *server)
{
    midge_server_stop_within(server, STOP_WAIT_MS);
}

/* A line such as "VmRSS:     1234 kB". @return false if it is another one */
static bool read_kib(const char *line, const char *key, uint64_t *bytes_out)
{
    const size_t len = strlen(key);

    if (strncmp(line, key, len) != 0)
        return false;
    *bytes_out = strtoull(line + len, NULL, 10) * 1024;
    return true;
}

enum midge_status midge_server_usage(pid_t pid, struct midge_server_usage *usage_out)
{
    struct midge_server_usage usage = {.cpu_ns = 0};
    uint32_t found = 0;
    char path[64];
    char line[256];

    if (pid == 0) {
        *usage_out = usage;
        return MIDGE_OK;
    }
    if (midge_process_cpu_ns(pid, &usage.cpu_ns) != MIDGE_OK)
        return MIDGE_E_SYSTEM;
    (void)snprintf(path, sizeof path, "/proc/%d/status", (int)pid);
    FILE *file = fopen(path, "re");

    if (file == NULL)
        return MIDGE_E_SYSTEM;
    while (found < 2 && fgets(line, sizeof line, file) != NULL) {
        if (read_kib(line, "VmRSS:", &usage.resident_bytes) ||
            read_kib(line, "VmHWM:", &usage.peak_bytes))
            found++;
    }
    (void)fclose(file);
    if (found < 2) { /* a process that has ended has no memory */
        errno = ESRCH;
        return MIDGE_E_SYSTEM;
    }
    *usage_out = usage;
    return MIDGE_OK;
}

/* Read until the end of a pipe, or until the time is over. @return bytes, at most `cap` */
static uint32_t read_pipe(int fd, char *bytes, uint32_t cap)
{
    const uint64_t until_ns = midge_process_now_ns() + VERSION_WAIT_MS * 1000000ull;
    uint32_t len = 0;

    while (len < cap && midge_process_now_ns() < until_ns) {
        struct pollfd poll_fd = {.fd = fd, .events = POLLIN};

        if (poll(&poll_fd, 1, LOOK_MS) <= 0)
            continue;
        const ssize_t count = read(fd, bytes + len, cap - len);

        if (count <= 0)
            break;
        len += (uint32_t)count;
    }
    return len;
}

/* Lines become one, with commas between. */
static void join_lines(const char *bytes, uint32_t len, char *out, uint32_t cap)
{
    uint32_t out_len = 0;
    bool is_line_over = false;

    for (uint32_t i = 0; i < len; i++) {
        if (bytes[i] == '\n') {
            is_line_over = out_len > 0;
            continue;
        }
        if (is_line_over && out_len + 2 < cap) {
            memcpy(out + out_len, ", ", 2);
            out_len += 2;
        }
        is_line_over = false;
        if (out_len + 1 < cap)
            out[out_len++] = iscntrl((unsigned char)bytes[i]) ? ' ' : bytes[i];
    }
    out[out_len] = '\0';
}

void midge_server_version(const char *command, char *out, uint32_t cap)
{
    char flag[] = "--version";
    struct midge_server_command words;
    char bytes[VERSION_LEN];
    uint32_t len = 0;
    pid_t pid = 0;
    int output[2];

    MIDGE_ASSERT(cap > 0);
    out[0] = '\0';
    if (midge_server_command_init(NULL, command, NULL, &words) != MIDGE_OK)
        return;
    char *const asked[] = {words.words[words.program], flag, NULL};

    if (pipe2(output, O_CLOEXEC) == 0) {
        const enum midge_status status =
            midge_server_process_start(NULL, asked, NULL, output[1], &pid);

        (void)close(output[1]);
        if (status == MIDGE_OK) {
            len = read_pipe(output[0], bytes, sizeof bytes);
            midge_server_process_end(pid, 0);
        }
        (void)close(output[0]);
    }
    midge_server_command_deinit(&words);
    join_lines(bytes, len, out, cap);
}
