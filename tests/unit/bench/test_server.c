/*
 * Servers of a run. Method: the tree's broker and programs of the shell, in a directory of their
 * own; what goes to standard error is caught in a file. Where nothing is to answer, the wait is
 * short.
 */
#include "server_internal.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "endpoint.h"

/* Of what is never ready, and of what does ready itself. */
#define SHORT_MS 200u
#define LONG_MS  20000u

static char directory[32];
static char said[8192];

static void create(void)
{
    (void)snprintf(directory, sizeof directory, "/tmp/midge-server-XXXXXX");
    cr_assert_not_null(mkdtemp(directory));
}

/* Nothing but the output is left of a server. */
static void destroy(void)
{
    char path[64];

    (void)snprintf(path, sizeof path, "%s/a.log", directory);
    (void)unlink(path);
    cr_expect_eq(rmdir(directory), 0, "%s holds more than the output", directory);
}

TestSuite(server, .init = create, .fini = destroy);

/* Standard error goes to a file. @return what it was */
static int catch_errors(FILE **file_out)
{
    const int kept = dup(STDERR_FILENO);

    *file_out = tmpfile();
    cr_assert_not_null(*file_out);
    cr_assert_geq(kept, 0);
    cr_assert_geq(dup2(fileno(*file_out), STDERR_FILENO), 0);
    return kept;
}

static void release_errors(FILE *file, int kept)
{
    (void)dup2(kept, STDERR_FILENO);
    (void)close(kept);
    rewind(file);
    said[fread(said, 1, sizeof said - 1, file)] = '\0';
    (void)fclose(file);
}

static enum midge_status start(const char *command, bool is_unix, uint32_t wait_ms,
                               struct midge_server *server_out)
{
    const struct midge_server_options options = {
        .command = command, .directory = directory, .name = "a", .is_unix = is_unix};
    FILE *file = NULL;
    const int kept = catch_errors(&file);
    const enum midge_status status = midge_server_start_within(&options, wait_ms, server_out);

    release_errors(file, kept);
    return status;
}

static void expect_failure(enum midge_status expected, const char *command, bool is_unix,
                           uint32_t wait_ms, const char *text)
{
    struct midge_server server = {.pid = 0};

    cr_expect_eq(start(command, is_unix, wait_ms, &server), expected, "%s", command);
    cr_expect_not_null(strstr(said, text), "%s: %s", command, said);
    cr_expect_eq(server.pid, 0, "a failed call leaves its argument alone");
}

static const char *broker(void)
{
    const char *path = getenv("MIDGE_SERVER");

    cr_assert_not_null(path, "MIDGE_SERVER names the broker");
    return path;
}

/* @return borrow, until the next call */
static const char *with_broker(const char *format)
{
    static char command[512];

    (void)snprintf(command, sizeof command, format, broker());
    return command;
}

/* The server greets whoever connects to its URL. */
static void expect_info(const struct midge_server *server)
{
    struct midge_endpoint endpoint;
    char bytes[5];
    int fd = -1;

    cr_assert_eq(midge_endpoint_parse(server->url, &endpoint), MIDGE_OK, "%s", server->url);
    cr_assert_eq(midge_endpoint_connect(&endpoint, 0, 0, &fd), MIDGE_OK);
    cr_assert_eq(recv(fd, bytes, sizeof bytes, MSG_WAITALL), sizeof bytes);
    cr_expect_eq(memcmp(bytes, "INFO ", sizeof bytes), 0);
    (void)close(fd);
}

static void expect_service(const char *command, bool is_unix, const char *url_begin)
{
    struct midge_server server;

    cr_assert_eq(start(command, is_unix, LONG_MS, &server), MIDGE_OK, "%s", said);
    const pid_t pid = server.pid;

    cr_expect_gt(pid, 0);
    cr_expect_eq(strncmp(server.url, url_begin, strlen(url_begin)), 0, "%s", server.url);
    expect_info(&server);
    cr_expect(midge_server_is_alive(&server));
    midge_server_stop(&server);
    cr_expect_eq(server.pid, 0);
    cr_expect_eq(kill(pid, 0), -1, "it is gone and reaped");
    midge_server_stop(&server);
}

Test(server, starts_on_a_tcp_port_and_stops)
{
    expect_service(with_broker("%s"), false, "nats://127.0.0.1:");
}

Test(server, starts_on_a_unix_socket_and_stops)
{
    expect_service(with_broker("%s"), true, "unix:///tmp/");
}

Test(server, places_in_the_command_are_filled)
{
    expect_service(with_broker("env A=b %s -a 127.0.0.1 -p {port}"), false, "nats://127.0.0.1:");
    expect_service(with_broker("env A=b %s -p {port} --unix {socket}"), true, "unix:///tmp/");
}

Test(server, stale_socket_does_not_matter)
{
    char path[64];

    (void)snprintf(path, sizeof path, "%s/a.sock", directory);
    const int fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);

    cr_assert_geq(fd, 0);
    (void)close(fd);
    expect_service(with_broker("%s"), true, "unix:///tmp/");
}

Test(server, usage_is_read_while_it_runs)
{
    struct midge_server_usage usage;
    struct midge_server server;

    cr_assert_eq(start(with_broker("%s"), false, LONG_MS, &server), MIDGE_OK, "%s", said);
    const pid_t pid = server.pid;

    cr_assert_eq(midge_server_usage(pid, &usage), MIDGE_OK);
    cr_expect_gt(usage.cpu_ns, 0);
    cr_expect_gt(usage.resident_bytes, 0);
    cr_expect_geq(usage.peak_bytes, usage.resident_bytes);
    midge_server_stop(&server);
    usage.cpu_ns = 42;
    cr_expect_eq(midge_server_usage(pid, &usage), MIDGE_E_SYSTEM);
    cr_expect_eq(usage.cpu_ns, 42);
    cr_expect_eq(midge_server_usage(0, &usage), MIDGE_OK);
    cr_expect_eq(usage.cpu_ns + usage.resident_bytes + usage.peak_bytes, 0);
}

Test(server, runs_on_the_cpus_it_is_given)
{
    struct midge_server server;
    cpu_set_t given;
    cpu_set_t found;
    int cpu = 0;

    cr_assert_eq(sched_getaffinity(0, sizeof given, &given), 0);
    while (!CPU_ISSET((size_t)cpu, &given))
        cpu++;
    CPU_ZERO(&given);
    CPU_SET((size_t)cpu, &given);
    const struct midge_server_options options = {
        .command = with_broker("%s"), .directory = directory, .name = "a", .cpus = &given};

    cr_assert_eq(midge_server_start(&options, &server), MIDGE_OK);
    cr_expect_eq(sched_getaffinity(server.pid, sizeof found, &found), 0);
    cr_expect(CPU_EQUAL(&given, &found));
    midge_server_stop(&server);
}

Test(server, one_that_dies_during_the_run_is_found)
{
    struct midge_server server;
    FILE *file = NULL;

    cr_assert_eq(start(with_broker("%s"), false, LONG_MS, &server), MIDGE_OK, "%s", said);
    const int kept = catch_errors(&file);

    cr_expect_eq(kill(server.pid, SIGKILL), 0);
    while (midge_server_is_alive(&server))
        (void)usleep(1000);
    release_errors(file, kept);
    /* What it had not yet printed is lost with it, so of its output nothing is certain. */
    cr_expect_not_null(strstr(said, "midge-bench: a: ended during the run, by signal 9 (Killed); "),
                       "%s", said);
    cr_expect_eq(server.pid, 0);
    cr_expect_not(midge_server_is_alive(&server));
}

/* Said by what its port does: who reaps an orphan is not ours to know. */
Test(server, ends_with_the_process_that_started_it)
{
    struct midge_endpoint endpoint;
    const char *command = with_broker("%s"); /* assertions of a child's child would be lost */
    struct midge_server server;
    int pipe_fds[2];
    int fd = -1;

    cr_assert_eq(pipe2(pipe_fds, O_CLOEXEC), 0);
    const pid_t pid = fork();

    cr_assert_geq(pid, 0);
    if (pid == 0) {
        const bool is_started = start(command, false, LONG_MS, &server) == MIDGE_OK;

        _exit(is_started && write(pipe_fds[1], &server, sizeof server) == sizeof server ? 0 : 1);
    }
    (void)close(pipe_fds[1]);
    cr_assert_eq(read(pipe_fds[0], &server, sizeof server), sizeof server);
    cr_assert_eq(waitpid(pid, NULL, 0), pid);
    cr_assert_eq(midge_endpoint_parse(server.url, &endpoint), MIDGE_OK);
    while (midge_endpoint_connect(&endpoint, 0, 0, &fd) == MIDGE_OK) {
        (void)close(fd);
        (void)usleep(1000);
    }
    cr_expect_eq(errno, ECONNREFUSED);
    (void)close(pipe_fds[0]);
}

Test(server, program_that_does_not_exist_is_named)
{
    expect_failure(MIDGE_E_SYSTEM, "midge-no-such-server {port}", false, LONG_MS,
                   "midge-bench: a: midge-no-such-server: not found; install it or give its path");
    expect_failure(MIDGE_E_SYSTEM, "/nonexistent/nats-server", false, LONG_MS,
                   "/nonexistent/nats-server: not found");
    expect_failure(MIDGE_E_SYSTEM, "/etc/passwd {port}", false, LONG_MS,
                   "/etc/passwd: cannot be run: Permission denied");
}

Test(server, one_that_ends_at_once_is_quoted)
{
    expect_failure(MIDGE_E_EOF, "sh -c 'echo bad flag; echo no config >&2; exit 3' {port}", false,
                   LONG_MS,
                   "midge-bench: a: ended before it was ready, with exit status 3; its "
                   "output:\n  bad flag\n  no config\n");
    expect_failure(MIDGE_E_EOF, "false {port}", false, LONG_MS,
                   "with exit status 1; it printed nothing\n");
}

Test(server, of_much_output_begin_and_end_are_quoted)
{
    expect_failure(MIDGE_E_EOF,
                   "sh -c 'for i in 1 2 3 4 5 6 7 8 9 x y z; do echo line $i; done' {port}", false,
                   LONG_MS, "its output:\n  line 1\n  ...\n  line 3\n  line 4\n");
    expect_failure(MIDGE_E_EOF,
                   "sh -c 'printf \"%5000d\\nlast\\033[2J\\n\" 1; kill -TERM $$' {port}", false,
                   LONG_MS, "  ...\n  last?[2J\n");
}

Test(server, one_that_never_answers_is_given_up)
{
    expect_failure(MIDGE_E_TIMEOUT, "sh -c 'exec sleep 60' {port}", false, SHORT_MS,
                   "did not answer with INFO within 200 ms; it printed nothing\n");
}

Test(server, one_that_is_started_twice_gets_another_port_each_time)
{
    struct midge_server first;
    struct midge_server second;

    cr_assert_eq(start(with_broker("%s"), false, LONG_MS, &first), MIDGE_OK, "%s", said);
    cr_assert_eq(start(with_broker("%s"), false, LONG_MS, &second), MIDGE_OK, "%s", said);
    cr_expect_str_neq(first.url, second.url);
    midge_server_stop(&first);
    expect_info(&second);
    midge_server_stop(&second);
}

Test(server, taken_port_is_tried_again)
{
    struct midge_server server;

    expect_failure(MIDGE_E_EOF, "sh -c 'echo listen: address already in use; exit 1' {port}", false,
                   LONG_MS, "ended before it was ready");
    /* The first attempt finds its port taken; the second one does not. */
    cr_assert_eq(start(with_broker("sh -c 'if mkdir $1; then echo Address already in use; exit 1; "
                                   "else rmdir $1; exec %s -a 127.0.0.1 -p $0; fi' {port} "
                                   "{socket}.mark"),
                       false, LONG_MS, &server),
                 MIDGE_OK, "%s", said);
    cr_expect_str_empty(said);
    midge_server_stop(&server);
}

Test(server, wrong_greeting_is_no_server)
{
    expect_failure(
        MIDGE_E_PARSE,
        "python3 -c 'import socket, sys; s = socket.create_server((\"127.0.0.1\", "
        "int(sys.argv[1]))); s.accept()[0].sendall(b\"HELLO\\r\\n\"); s.accept()' {port}",
        false, LONG_MS, "did not begin with INFO, as a NATS server does");
}

Test(server, unix_socket_that_the_server_has_not_is_refused)
{
    expect_failure(MIDGE_E_CONFIG, "nats-server", true, LONG_MS,
                   "midge-bench: a: nats-server has no Unix socket");
    expect_failure(MIDGE_E_CONFIG, "other {port}", true, LONG_MS, "write {socket} there");
}

Test(server, command_that_needs_a_shell_is_explained)
{
    expect_failure(MIDGE_E_CONFIG, "nats-server | tee log", false, LONG_MS,
                   "midge-bench: a: its command has one of |");
}

Test(server, one_that_ignores_sigterm_is_killed)
{
    struct midge_server server;

    cr_assert_eq(start(with_broker("%s"), false, LONG_MS, &server), MIDGE_OK, "%s", said);
    cr_assert_eq(kill(server.pid, SIGSTOP), 0);
    const pid_t pid = server.pid;

    midge_server_stop_within(&server, SHORT_MS);
    cr_expect_eq(server.pid, 0);
    cr_expect_eq(kill(pid, 0), -1);
    cr_expect_eq(errno, ESRCH);
}

Test(server, what_has_no_output_file_has_no_socket_to_remove)
{
    struct midge_server relay = {.name = "relay"};

    cr_assert_eq(chdir(directory), 0);
    const int fd = open(".sock", O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

    cr_assert_geq(fd, 0);
    (void)close(fd);
    relay.pid = fork();
    cr_assert_geq(relay.pid, 0);
    if (relay.pid == 0) {
        (void)pause();
        _exit(0);
    }
    midge_server_stop(&relay);
    cr_assert_eq(unlink(".sock"), 0, "it was not its own");
}

Test(server, version_is_one_line)
{
    char version[128];

    midge_server_version(with_broker("%s -p {port}"), version, sizeof version);
    cr_expect_not_null(strstr(version, "midge-server: v"), "%s", version);
    cr_expect_null(strchr(version, '\n'));
    midge_server_version("midge-no-such-server", version, sizeof version);
    cr_expect_str_empty(version);
    midge_server_version(with_broker("%s"), version, 5);
    cr_expect_eq(strlen(version), 4);
}
