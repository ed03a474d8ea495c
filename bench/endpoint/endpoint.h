/*
 * Where a benchmark program listens or connects: a TCP port on IPv4 or a Unix socket, blocking.
 *
 * Written as nats://HOST:PORT, tcp:PORT (on 127.0.0.1), unix:///PATH or unix:PATH. HOST is a
 * numeric IPv4 address or `localhost`; name service would be a second thing to measure. TCP sockets
 * get TCP_NODELAY.
 *
 * Thread: constant after init (a value).
 * Memory: none.
 */
#ifndef MIDGE_ENDPOINT_H
#define MIDGE_ENDPOINT_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

#include "midge/compiler.h"
#include "midge/status.h"

struct midge_endpoint {
    struct sockaddr_storage address;
    socklen_t address_len;
    bool is_unix;
};

/**
 * Read an endpoint in any of the four forms.
 *
 * @param text          NUL-terminated, from the command line
 * @param endpoint_out  filled on MIDGE_OK, untouched otherwise
 * @return MIDGE_OK; E_CONFIG: not an endpoint
 * Thread: any (lock-free).
 */
MIDGE_MUST_CHECK enum midge_status midge_endpoint_parse(const char *text,
                                                        struct midge_endpoint *endpoint_out);

/**
 * Listen; a stale Unix socket file is an error, not removed.
 *
 * @param fd_out  own; set on MIDGE_OK
 * @return MIDGE_OK; E_SYSTEM: errno says why
 * Thread: any (lock-free).
 */
MIDGE_MUST_CHECK enum midge_status midge_endpoint_listen(const struct midge_endpoint *endpoint,
                                                         int *fd_out);

/**
 * Take the next connection of a listener.
 *
 * @param fd_out  own; set on MIDGE_OK
 * @return MIDGE_OK; E_SYSTEM: errno says why
 * Thread: any (lock-free).
 */
MIDGE_MUST_CHECK enum midge_status midge_endpoint_accept(const struct midge_endpoint *endpoint,
                                                         int listener, int *fd_out);

/**
 * Connect; while nobody listens yet, try again for up to `patience_ms`, so that a benchmark may
 * start a server and its load at the same time.
 *
 * @param receive_buffer_len  SO_RCVBUF in bytes, 0 = what the kernel chooses
 * @param fd_out              own; set on MIDGE_OK
 * @return MIDGE_OK; E_SYSTEM: errno says why
 * Thread: any (lock-free).
 */
MIDGE_MUST_CHECK enum midge_status midge_endpoint_connect(const struct midge_endpoint *endpoint,
                                                          uint32_t patience_ms,
                                                          uint32_t receive_buffer_len, int *fd_out);

#endif
