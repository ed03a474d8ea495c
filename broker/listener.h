/*
 * Listening sockets, made at start: TCP on the configured addresses, and a Unix socket.
 *
 * Thread: main, before the shards start and after they have ended.
 * Source: unix(7), ip(7), ipv6(7); nats-server listens dual-stack on 0.0.0.0.
 */
#ifndef MIDGE_LISTENER_H
#define MIDGE_LISTENER_H

#include <stdint.h>
#include <sys/stat.h>

#include "config.h"

#define MIDGE_LISTENER_COUNT_MAX 8u

struct midge_listeners {
    int fds[MIDGE_LISTENER_COUNT_MAX];
    uint32_t count;
    uint16_t port;     /* of the TCP listeners */
    char host[256];    /* as INFO and the log show it */
    dev_t unix_device; /* of our socket file, so that only ours is removed at the end */
    ino_t unix_inode;
};

/**
 * Open all listeners.
 *
 * @param why  at least 256 bytes: the reason when it fails
 * @return MIDGE_OK or E_SYSTEM, and nothing is open then
 */
MIDGE_MUST_CHECK enum midge_status midge_listeners_open(struct midge_listeners *listeners,
                                                        const struct midge_config *config,
                                                        char why[256]);

/** Close all, and remove the Unix socket file if it is still ours. */
void midge_listeners_close(struct midge_listeners *listeners, const struct midge_config *config);

#endif
