/* Listening sockets; see listener.h. */
#include "listener.h"

#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

/* Connections that the kernel holds for us while accept is behind. */
#define BACKLOG 4096

/* How long an address that is in use may stay so before that is an error. After SIGKILL the kernel
 * takes the rings down in a work item, and their listeners with them, some milliseconds after the
 * process could be waited for: a broker that is started again at once must outlast its predecessor.
 * Seen: up to 11 ms, kernel 6.18; more on a busy machine. */
#define IN_USE_WAIT_MS  1000u
#define IN_USE_PAUSE_MS 10u

static enum midge_status fail(char why[256], const char *what, const char *where)
{
    (void)snprintf(why, 256, "%s %.150s: %.60s", what, where, strerror(errno));
    return MIDGE_E_SYSTEM;
}

static uint16_t port_of(int fd)
{
    struct sockaddr_in6 address = {0};
    socklen_t len = sizeof(address);

    if (getsockname(fd, (struct sockaddr *)&address, &len) != 0)
        return 0;
    return ntohs(address.sin6_port);
}
static_assert(offsetof(struct sockaddr_in, sin_port) == offsetof(struct sockaddr_in6, sin6_port),
              "one place for the port in both families");

/* Pause before another try. @return false once IN_USE_WAIT_MS are used up */
static bool wait_for_predecessor(uint32_t *waited_ms)
{
    const struct timespec pause = {.tv_nsec = IN_USE_PAUSE_MS * 1000000L};

    if (*waited_ms >= IN_USE_WAIT_MS)
        return false;
    (void)nanosleep(&pause, NULL);
    *waited_ms += IN_USE_PAUSE_MS;
    return true;
}

static int bind_and_listen(int fd, const struct sockaddr *address, socklen_t len)
{
    uint32_t waited_ms = 0;

    while (bind(fd, address, len) != 0) {
        if (errno != EADDRINUSE || !wait_for_predecessor(&waited_ms))
            return -1;
    }
    return listen(fd, BACKLOG);
}

/* @return descriptor, or -1 with errno */
static int listen_on(const struct sockaddr *address, socklen_t len, bool dual_stack)
{
    const int yes = 1;
    const int only_v6 = dual_stack ? 0 : 1;
    const int fd = socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd < 0)
        return -1;
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes)) != 0)
        goto err_close;
    if (address->sa_family == AF_INET6 &&
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &only_v6, sizeof(only_v6)) != 0)
        goto err_close;
    if (bind_and_listen(fd, address, len) != 0)
        goto err_close;
    return fd;

err_close:;
    const int saved = errno;

    (void)close(fd);
    errno = saved;
    return -1;
}

static void add(struct midge_listeners *listeners, int fd)
{
    MIDGE_ASSERT(listeners->count < MIDGE_LISTENER_COUNT_MAX);
    listeners->fds[listeners->count++] = fd;
}

static void set_port(struct sockaddr *address, uint16_t port)
{
    if (address->sa_family == AF_INET6)
        ((struct sockaddr_in6 *)(void *)address)->sin6_port = htons(port);
    else
        ((struct sockaddr_in *)(void *)address)->sin_port = htons(port);
}

/* An address that this machine does not have is no error where another one of the name works. */
static bool is_absent(int error)
{
    return error == EAFNOSUPPORT || error == EADDRNOTAVAIL;
}

/* Every address of one name; the first one chooses the port, the others take the same. */
static enum midge_status open_name(struct midge_listeners *listeners, const char *host,
                                   uint16_t port, char why[256])
{
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE};
    const uint32_t before = listeners->count;
    char where[300];
    struct addrinfo *found;
    int error;

    (void)snprintf(where, sizeof(where), "%.255s:%u", host, port);
    error = getaddrinfo(host, NULL, &hints, &found);
    if (error != 0) {
        (void)snprintf(why, 256, "listen address %.150s: %s", host, gai_strerror(error));
        return MIDGE_E_SYSTEM;
    }
    for (struct addrinfo *at = found; at != NULL; at = at->ai_next) {
        int fd;

        if (listeners->count + 1 >= MIDGE_LISTENER_COUNT_MAX)
            break;
        set_port(at->ai_addr, port);
        fd = listen_on(at->ai_addr, at->ai_addrlen, false);
        if (fd < 0 && is_absent(errno))
            continue;
        if (fd < 0) {
            const enum midge_status status = fail(why, "listen tcp", where);

            freeaddrinfo(found);
            return status;
        }
        add(listeners, fd);
        if (port == 0)
            port = port_of(fd);
    }
    freeaddrinfo(found);
    if (listeners->count == before)
        return fail(why, "listen tcp", where);
    listeners->port = port;
    return MIDGE_OK;
}

/* All addresses: one dual-stack socket, or IPv4 alone where IPv6 is off. */
static enum midge_status open_any(struct midge_listeners *listeners, uint16_t port, char why[256])
{
    const struct sockaddr_in6 any6 = {
        .sin6_family = AF_INET6, .sin6_port = htons(port), .sin6_addr = IN6ADDR_ANY_INIT};
    int fd = listen_on((const struct sockaddr *)&any6, sizeof(any6), true);

    if (fd < 0 && is_absent(errno))
        return open_name(listeners, "0.0.0.0", port, why);
    if (fd < 0) {
        char where[32];

        (void)snprintf(where, sizeof(where), "0.0.0.0:%u", port);
        return fail(why, "listen tcp", where);
    }
    add(listeners, fd);
    listeners->port = port_of(fd);
    return MIDGE_OK;
}

/* Loopback of both families; IPv6 may be off, or its port taken where ours is random. */
static enum midge_status open_loopback(struct midge_listeners *listeners, uint16_t port,
                                       char why[256])
{
    enum midge_status status = open_name(listeners, "127.0.0.1", port, why);
    struct sockaddr_in6 address = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    int fd;

    if (status != MIDGE_OK)
        return status;
    address.sin6_port = htons(listeners->port);
    fd = listen_on((const struct sockaddr *)&address, sizeof(address), false);
    if (fd >= 0)
        add(listeners, fd);
    else if (!is_absent(errno) && port != 0)
        return fail(why, "listen tcp", "[::1]");
    return MIDGE_OK;
}

static enum midge_status open_tcp(struct midge_listeners *listeners,
                                  const struct midge_config *config, char why[256])
{
    const uint16_t port = config->port < 0 ? 0 : (uint16_t)config->port;
    const char *host = config->host;

    if (host == NULL && midge_config_auth_required(config))
        host = "0.0.0.0";
    (void)snprintf(listeners->host, sizeof(listeners->host), "%s",
                   host != NULL ? host : "127.0.0.1");
    if (host == NULL)
        return open_loopback(listeners, port, why);
    if (strcmp(host, "0.0.0.0") == 0 || strcmp(host, "::") == 0)
        return open_any(listeners, port, why);
    return open_name(listeners, host, port, why);
}

/* @return 0 if somebody listens, EAGAIN if their backlog is full, else errno */
static int probe(const struct sockaddr_un *address)
{
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int error = 0;

    if (fd < 0)
        return errno;
    if (connect(fd, (const struct sockaddr *)address, sizeof(*address)) != 0)
        error = errno;
    (void)close(fd);
    return error;
}

/* Remove a socket file that nobody listens on; anything else there is an error. */
static enum midge_status clear_stale(const struct sockaddr_un *address, char why[256])
{
    uint32_t waited_ms = 0;
    struct stat info;
    int error;

    if (lstat(address->sun_path, &info) != 0)
        return errno == ENOENT ? MIDGE_OK : fail(why, "unix socket", address->sun_path);
    if (!S_ISSOCK(info.st_mode)) {
        (void)snprintf(why, 256,
                       "unix socket %s: a file that is no socket is in the way; remove it",
                       address->sun_path);
        return MIDGE_E_SYSTEM;
    }
    do
        error = probe(address);
    while ((error == 0 || error == EAGAIN) && wait_for_predecessor(&waited_ms));
    if (error == ENOENT || (error == ECONNREFUSED && unlink(address->sun_path) == 0))
        return MIDGE_OK;
    if (error != ECONNREFUSED)
        errno = error == 0 ? EADDRINUSE : error;
    return fail(why, "unix socket", address->sun_path);
}

static enum midge_status open_unix(struct midge_listeners *listeners,
                                   const struct midge_config *config, char why[256])
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    enum midge_status status;
    struct stat info;
    mode_t mask;
    int fd;

    if (strlen(config->unix_path) >= sizeof(address.sun_path)) {
        (void)snprintf(why, 256, "unix socket %.100s…: the path is longer than %zu bytes",
                       config->unix_path, sizeof(address.sun_path) - 1);
        return MIDGE_E_SYSTEM;
    }
    memcpy(address.sun_path, config->unix_path, strlen(config->unix_path) + 1);
    status = clear_stale(&address, why);
    if (status != MIDGE_OK)
        return status;
    /* The mask before bind: the socket must not be open to all for a moment (CVE-2023-45145). */
    mask = umask((mode_t)(~config->unix_mode & 0777u));
    fd = listen_on((const struct sockaddr *)&address, sizeof(address), false);
    (void)umask(mask);
    if (fd < 0)
        return fail(why, "unix socket", config->unix_path);
    add(listeners, fd);
    if (stat(config->unix_path, &info) == 0) {
        listeners->unix_device = info.st_dev;
        listeners->unix_inode = info.st_ino;
    }
    return MIDGE_OK;
}

enum midge_status midge_listeners_open(struct midge_listeners *listeners,
                                       const struct midge_config *config, char why[256])
{
    enum midge_status status;

    *listeners = (struct midge_listeners){0};
    status = open_tcp(listeners, config, why);
    if (status == MIDGE_OK && config->unix_path != NULL)
        status = open_unix(listeners, config, why);
    if (status != MIDGE_OK)
        midge_listeners_close(listeners, config);
    return status;
}

void midge_listeners_close(struct midge_listeners *listeners, const struct midge_config *config)
{
    struct stat info;

    for (uint32_t i = 0; i < listeners->count; i++)
        (void)close(listeners->fds[i]);
    listeners->count = 0;
    if (listeners->unix_inode != 0 && stat(config->unix_path, &info) == 0 &&
        info.st_ino == listeners->unix_inode && info.st_dev == listeners->unix_device)
        (void)unlink(config->unix_path);
    listeners->unix_inode = 0;
}
