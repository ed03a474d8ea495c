/* Real servers for the client library's tests, and fake ones. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "rig.h"

#define START_MAX_MS 20000u
#define LOG_CAP      65536u

/* --- real ones --- */

static const char *program_of(bool is_midge)
{
    const char *program = getenv(is_midge ? "MIDGE_SERVER" : "NATS_SERVER");

    if (program == NULL)
        midge_rig_fail(__FILE__, __LINE__, "%s is not set",
                       is_midge ? "MIDGE_SERVER" : "NATS_SERVER");
    return program;
}

static void path_of(const struct midge_rig_server *server, const char *name, char *out, size_t cap)
{
    (void)snprintf(out, cap, "%s/%s", server->folder, name);
}

/* In the child. It ends with the test, whatever happens to that. */
static _Noreturn void become_server(const struct midge_rig_server *server, const char *log_path)
{
    const char *argv[RIG_ARGUMENTS_MAX + 6];
    char port[8];
    uint32_t count = 0;
    const int log_fd = open(log_path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    (void)snprintf(port, sizeof(port), "%d", server->port == 0 ? -1 : server->port);
    argv[count++] = program_of(server->is_midge);
    argv[count++] = "-a";
    argv[count++] = "127.0.0.1";
    argv[count++] = "-p";
    argv[count++] = port;
    for (uint32_t i = 0; i < server->argument_count; i++)
        argv[count++] = server->arguments[i];
    argv[count] = NULL;
    if (log_fd < 0 || dup2(log_fd, STDOUT_FILENO) < 0 || dup2(log_fd, STDERR_FILENO) < 0)
        _exit(127);
    /* style: execv() takes pointers to what it does not change. */
    (void)execv(argv[0], (char *const *)(uintptr_t)argv);
    _exit(127);
}

static void read_log(const char *path, char *out)
{
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    const ssize_t len = fd < 0 ? -1 : read(fd, out, LOG_CAP - 1);

    out[len < 0 ? 0 : len] = '\0';
    if (fd >= 0)
        (void)close(fd);
}

static uint16_t port_in(const char *log)
{
    static const char words[] = "Listening for client connections on 127.0.0.1:";
    const char *at = strstr(log, words);

    return at == NULL ? 0 : (uint16_t)strtoul(at + sizeof(words) - 1, NULL, 10);
}

static void await_ready(struct midge_rig_server *server, const char *log_path)
{
    char *log = malloc(LOG_CAP);

    CHECK(log != NULL);
    for (uint32_t waited_ms = 0;; waited_ms++) {
        read_log(log_path, log);
        if (strstr(log, "Server is ready") != NULL)
            break;
        if (waited_ms == START_MAX_MS || waitpid(server->pid, NULL, WNOHANG) == server->pid)
            midge_rig_fail(__FILE__, __LINE__, "the server did not start:\n%s", log);
        midge_rig_sleep_ms(1);
    }
    server->port = port_in(log);
    CHECK(server->port != 0);
    (void)snprintf(server->url, sizeof(server->url), "nats://127.0.0.1:%u", server->port);
    free(log);
}

void midge_rig_server_again(struct midge_rig_server *server)
{
    char log_path[128];

    CHECK(server->pid == 0);
    path_of(server, "log", log_path, sizeof(log_path));
    (void)unlink(log_path);
    (void)fflush(NULL);
    server->pid = fork();
    CHECK(server->pid >= 0);
    if (server->pid == 0)
        become_server(server, log_path);
    await_ready(server, log_path);
}

static void prepare(const struct midge_rig *rig, struct midge_rig_server *server)
{
    *server = (struct midge_rig_server){.is_midge = rig->is_midge};
    CHECK(snprintf(server->folder, sizeof(server->folder), "%s/server.XXXXXX", rig->folder) <
          (int)sizeof(server->folder));
    CHECK(mkdtemp(server->folder) != NULL);
}

void midge_rig_server_start(const struct midge_rig *rig, struct midge_rig_server *server,
                            const char *const *arguments)
{
    prepare(rig, server);
    while (arguments != NULL && arguments[server->argument_count] != NULL) {
        CHECK(server->argument_count < RIG_ARGUMENTS_MAX - 2);
        server->arguments[server->argument_count] = arguments[server->argument_count];
        server->argument_count++;
    }
    if (rig->is_midge) {
        /* nats-server has no Unix sockets. */
        (void)snprintf(server->unix_url, sizeof(server->unix_url), "unix://%s/socket",
                       server->folder);
        server->arguments[server->argument_count++] = "--unix";
        server->arguments[server->argument_count++] = server->unix_url + strlen("unix://");
    }
    midge_rig_server_again(server);
}

void midge_rig_server_start_with(const struct midge_rig *rig, struct midge_rig_server *server,
                                 const char *config)
{
    static const char name[] = "server.conf";
    char path[128];
    FILE *file;

    prepare(rig, server);
    path_of(server, name, path, sizeof(path));
    file = fopen(path, "we");
    CHECK(file != NULL);
    CHECK(fputs(config, file) >= 0);
    CHECK(fclose(file) == 0);
    /* The path must outlive this call: it is put where the socket's would be. */
    (void)snprintf(server->unix_url, sizeof(server->unix_url), "%s", path);
    server->arguments[server->argument_count++] = "-c";
    server->arguments[server->argument_count++] = server->unix_url;
    midge_rig_server_again(server);
}

void midge_rig_server_signal(const struct midge_rig_server *server, int signal_number)
{
    CHECK(server->pid > 0);
    CHECK(kill(server->pid, signal_number) == 0);
    if (signal_number == SIGSTOP)
        CHECK(waitpid(server->pid, NULL, WUNTRACED) == server->pid);
}

void midge_rig_server_kill(struct midge_rig_server *server)
{
    if (server->pid == 0)
        return;
    midge_rig_server_signal(server, SIGKILL);
    CHECK(waitpid(server->pid, NULL, 0) == server->pid);
    server->pid = 0;
}

void midge_rig_server_end(struct midge_rig_server *server)
{
    static const char *const names[] = {"log", "socket", "server.conf"};
    char path[128];

    midge_rig_server_kill(server);
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        path_of(server, names[i], path, sizeof(path));
        (void)unlink(path);
    }
    (void)rmdir(server->folder);
}

/* --- fake ones --- */

struct midge_rig_fake {
    int listener_fd;
    char url[64];
    pthread_t thread;
    void *context;
    midge_rig_talk_cb talk_cb;
    _Atomic uint32_t conns;
    _Atomic bool is_over;
};

static int listen_anywhere(uint16_t *port_out)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t len = sizeof(address);
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    CHECK(fd >= 0);
    CHECK(bind(fd, (const struct sockaddr *)&address, sizeof(address)) == 0);
    CHECK(getsockname(fd, (struct sockaddr *)&address, &len) == 0);
    *port_out = ntohs(address.sin_port);
    return fd;
}

uint16_t midge_rig_free_port(void)
{
    uint16_t port;

    (void)close(listen_anywhere(&port));
    return port;
}

static void *serve_fake(void *context)
{
    struct midge_rig_fake *fake = context;

    /* Relaxed: shutdown() of the listener ends accept() after the flag was set. */
    while (!atomic_load_explicit(&fake->is_over, memory_order_relaxed)) {
        struct midge_rig_fake_conn conn = {.context = fake->context};

        conn.fd = accept4(fake->listener_fd, NULL, NULL, SOCK_CLOEXEC);
        if (conn.fd < 0)
            continue;
        conn.number = atomic_fetch_add_explicit(&fake->conns, 1, memory_order_relaxed);
        fake->talk_cb(&conn);
        (void)close(conn.fd);
    }
    return NULL;
}

struct midge_rig_fake *midge_rig_fake_start(void *context, midge_rig_talk_cb talk_cb)
{
    struct midge_rig_fake *fake = calloc(1, sizeof(*fake));
    uint16_t port;

    CHECK(fake != NULL);
    fake->listener_fd = listen_anywhere(&port);
    CHECK(listen(fake->listener_fd, 16) == 0);
    (void)snprintf(fake->url, sizeof(fake->url), "nats://127.0.0.1:%u", port);
    fake->context = context;
    fake->talk_cb = talk_cb;
    CHECK(pthread_create(&fake->thread, NULL, serve_fake, fake) == 0);
    return fake;
}

const char *midge_rig_fake_url(const struct midge_rig_fake *fake)
{
    return fake->url;
}

uint32_t midge_rig_fake_conns(struct midge_rig_fake *fake)
{
    return atomic_load_explicit(&fake->conns, memory_order_relaxed);
}

void midge_rig_fake_end(struct midge_rig_fake *fake)
{
    atomic_store_explicit(&fake->is_over, true, memory_order_relaxed);
    (void)shutdown(fake->listener_fd, SHUT_RDWR);
    CHECK(pthread_join(fake->thread, NULL) == 0);
    (void)close(fake->listener_fd);
    free(fake);
}

void midge_rig_fake_send(const struct midge_rig_fake_conn *conn, const char *text)
{
    for (size_t len = strlen(text); len > 0;) {
        const ssize_t sent = send(conn->fd, text, len, MSG_NOSIGNAL);
        if (sent < 0)
            return; /* the peer has gone; the next await says so */
        text += sent;
        len -= (size_t)sent;
    }
}

bool midge_rig_fake_await(const struct midge_rig_fake_conn *conn, const char *text)
{
    char *log = calloc(1, LOG_CAP);
    size_t len = 0;
    bool is_there = false;

    CHECK(log != NULL);
    /* Byte by byte, so that nothing behind the text is lost. */
    while (!is_there && len < LOG_CAP - 1 && recv(conn->fd, log + len, 1, 0) == 1) {
        len++;
        is_there = len >= strlen(text) && memcmp(log + len - strlen(text), text, strlen(text)) == 0;
    }
    free(log);
    return is_there;
}

void midge_rig_fake_info(const struct midge_rig_fake_conn *conn, const char *members)
{
    char info[1024];

    (void)snprintf(info, sizeof(info),
                   "INFO {\"server_id\":\"FAKE\",\"version\":\"2.15.2\",\"proto\":1,"
                   "\"headers\":true,\"max_payload\":1048576%s}\r\n",
                   members);
    midge_rig_fake_send(conn, info);
}

bool midge_rig_fake_accept(const struct midge_rig_fake_conn *conn, const char *members)
{
    midge_rig_fake_info(conn, members);
    if (!midge_rig_fake_await(conn, "PING\r\n"))
        return false;
    midge_rig_fake_send(conn, "PONG\r\n");
    return true;
}
