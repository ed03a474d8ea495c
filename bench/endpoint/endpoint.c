/* Addresses of the benchmark programs; see endpoint.h. */
#include "endpoint.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

/* Pause between two attempts to connect, in ms: short against the start of any server. */
#define CONNECT_PAUSE_MS 5u

/* Connections waiting for accept: every process of a load may connect before the first accept. */
#define LISTEN_BACKLOG 64

/* If `text` begins with `prefix`, the rest of it, otherwise NULL. */
static const char *after(const char *text, const char *prefix)
{
    const size_t len = strlen(prefix);

    return strncmp(text, prefix, len) == 0 ? text + len : NULL;
}

static enum midge_status parse_port(const char *text, uint16_t *port_out)
{
    char *end = NULL;
    unsigned long port = 0;

    if (text[0] < '0' || text[0] > '9')
        return MIDGE_E_CONFIG;
    port = strtoul(text, &end, 10);
    if (*end != '\0' || port == 0 || port > UINT16_MAX)
        return MIDGE_E_CONFIG;
    *port_out = (uint16_t)port;
    return MIDGE_OK;
}

static enum midge_status make_tcp(const char *host, const char *port_text,
                                  struct midge_endpoint *endpoint_out)
{
    struct sockaddr_in address = {.sin_family = AF_INET};
    uint16_t port = 0;
    const enum midge_status status = parse_port(port_text, &port);

    if (status != MIDGE_OK)
        return status;
    if (inet_pton(AF_INET, strcmp(host, "localhost") == 0 ? "127.0.0.1" : host,
                  &address.sin_addr) != 1)
        return MIDGE_E_CONFIG;
    address.sin_port = htons(port);
    memset(endpoint_out, 0, sizeof *endpoint_out);
    memcpy(&endpoint_out->address, &address, sizeof address);
    endpoint_out->address_len = sizeof address;
    return MIDGE_OK;
}

static enum midge_status make_unix(const char *path, struct midge_endpoint *endpoint_out)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    const size_t len = strlen(path);

    if (len == 0 || len >= sizeof address.sun_path)
        return MIDGE_E_CONFIG;
    memcpy(address.sun_path, path, len);
    memset(endpoint_out, 0, sizeof *endpoint_out);
    memcpy(&endpoint_out->address, &address, sizeof address);
    endpoint_out->address_len = sizeof address;
    endpoint_out->is_unix = true;
    return MIDGE_OK;
}

enum midge_status midge_endpoint_parse(const char *text, struct midge_endpoint *endpoint_out)
{
    char host[INET_ADDRSTRLEN] = "";
    const char *rest = after(text, "unix://");
    const char *colon = NULL;

    if (rest == NULL)
        rest = after(text, "unix:");
    if (rest != NULL)
        return make_unix(rest, endpoint_out);
    rest = after(text, "tcp:");
    if (rest != NULL)
        return make_tcp("localhost", rest, endpoint_out);
    rest = after(text, "nats://");
    if (rest == NULL)
        return MIDGE_E_CONFIG;
    colon = strchr(rest, ':');
    if (colon == NULL || (size_t)(colon - rest) >= sizeof host)
        return MIDGE_E_CONFIG;
    memcpy(host, rest, (size_t)(colon - rest));
    return make_tcp(host, colon + 1, endpoint_out);
}

static const struct sockaddr *address_of(const struct midge_endpoint *endpoint)
{
    return (const struct sockaddr *)&endpoint->address;
}

/* Nagle's delay would be measured instead of the server. */
static enum midge_status set_no_delay(const struct midge_endpoint *endpoint, int fd)
{
    const int one = 1;

    if (!endpoint->is_unix && setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one) != 0)
        return MIDGE_E_SYSTEM;
    return MIDGE_OK;
}

enum midge_status midge_endpoint_listen(const struct midge_endpoint *endpoint, int *fd_out)
{
    const int one = 1;
    const int fd = socket(endpoint->address.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd < 0)
        return MIDGE_E_SYSTEM;
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) != 0 ||
        bind(fd, address_of(endpoint), endpoint->address_len) != 0 ||
        listen(fd, LISTEN_BACKLOG) != 0) {
        const int error = errno;

        (void)close(fd);
        errno = error;
        return MIDGE_E_SYSTEM;
    }
    *fd_out = fd;
    return MIDGE_OK;
}

enum midge_status midge_endpoint_accept(const struct midge_endpoint *endpoint, int listener,
                                        int *fd_out)
{
    const int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);

    if (fd < 0)
        return MIDGE_E_SYSTEM;
    if (set_no_delay(endpoint, fd) != MIDGE_OK) {
        (void)close(fd);
        return MIDGE_E_SYSTEM;
    }
    *fd_out = fd;
    return MIDGE_OK;
}

static enum midge_status connect_once(const struct midge_endpoint *endpoint,
                                      uint32_t receive_buffer_len, int *fd_out)
{
    const int fd = socket(endpoint->address.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const int buffer_len = (int)receive_buffer_len;

    if (fd < 0)
        return MIDGE_E_SYSTEM;
    if ((receive_buffer_len > 0 &&
         setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &buffer_len, sizeof buffer_len) != 0) ||
        set_no_delay(endpoint, fd) != MIDGE_OK ||
        connect(fd, address_of(endpoint), endpoint->address_len) != 0) {
        const int error = errno;

        (void)close(fd);
        errno = error;
        return MIDGE_E_SYSTEM;
    }
    *fd_out = fd;
    return MIDGE_OK;
}

enum midge_status midge_endpoint_connect(const struct midge_endpoint *endpoint,
                                         uint32_t patience_ms, uint32_t receive_buffer_len,
                                         int *fd_out)
{
    const struct timespec pause = {.tv_nsec = CONNECT_PAUSE_MS * 1000000L};

    for (uint32_t waited_ms = 0;; waited_ms += CONNECT_PAUSE_MS) {
        const enum midge_status status = connect_once(endpoint, receive_buffer_len, fd_out);

        if (status == MIDGE_OK || waited_ms >= patience_ms)
            return status;
        if (errno != ECONNREFUSED && errno != ENOENT)
            return status;
        (void)nanosleep(&pause, NULL);
    }
}
