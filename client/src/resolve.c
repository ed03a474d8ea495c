/*
 * Addresses of a server.
 *
 * Numeric addresses, localhost and Unix sockets need no look-up. Every other name is looked up by a
 * thread of its own, since getaddrinfo() waits for the network and nothing else may: a caller in an
 * event loop does not wait at all, and an attempt to connect has its time limit. The thread lives
 * for one look-up, and blocks all signals. A look-up that is abandoned ends when the resolver gives
 * up, and then frees what it holds.
 *
 * Thread: any (its own lock).
 * Source: getaddrinfo(3); RFC 6761 section 6.3 (localhost).
 */
#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/un.h>

#include "client_internal.h"

#define LOOKUP_STACK_LEN (256u * 1024)

struct midge_lookup {
    pthread_mutex_t lock;
    /* Under the lock. */
    struct midge_ring *ring; /* NULL = abandoned */
    bool is_done;
    uint32_t references;
    int error; /* of getaddrinfo */
    struct midge_addresses found;
    /* Constant after init. */
    char *host;
    char port[8];
};

static void add(struct midge_addresses *out, const void *address, socklen_t len)
{
    if (out->count == MIDGE_ADDRESSES_MAX)
        return;
    memcpy(&out->list[out->count], address, len);
    out->lens[out->count] = len;
    out->count++;
}

static void add_v4(struct midge_addresses *out, struct in_addr address, uint16_t port)
{
    const struct sockaddr_in v4 = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr = address};

    add(out, &v4, sizeof(v4));
}

static void add_v6(struct midge_addresses *out, struct in6_addr address, uint16_t port)
{
    const struct sockaddr_in6 v6 = {
        .sin6_family = AF_INET6, .sin6_port = htons(port), .sin6_addr = address};

    add(out, &v6, sizeof(v6));
}

bool midge_resolve_now(const struct midge_server *server, struct midge_addresses *out)
{
    struct in_addr v4;
    struct in6_addr v6;

    out->count = 0;
    if (server->is_unix) {
        struct sockaddr_un path = {.sun_family = AF_UNIX};
        memcpy(path.sun_path, server->host, strlen(server->host));
        /* A name that begins with @ is one of the abstract namespace. */
        if (path.sun_path[0] == '@')
            path.sun_path[0] = '\0';
        add(out, &path,
            (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(server->host) +
                        (server->host[0] != '@')));
        return true;
    }
    if (inet_pton(AF_INET, server->host, &v4) == 1) {
        add_v4(out, v4, server->port);
        return true;
    }
    if (inet_pton(AF_INET6, server->host, &v6) == 1) {
        add_v6(out, v6, server->port);
        return true;
    }
    if (strcasecmp(server->host, "localhost") == 0) {
        add_v4(out, (struct in_addr){htonl(INADDR_LOOPBACK)}, server->port);
        add_v6(out, in6addr_loopback, server->port);
        return true;
    }
    return false;
}

/* Let go of one reference. Called with the lock, which it gives up. */
static void let_go(struct midge_lookup *lookup)
{
    const bool is_last = --lookup->references == 0;

    pthread_mutex_unlock(&lookup->lock);
    if (!is_last)
        return;
    pthread_mutex_destroy(&lookup->lock);
    free(lookup->host);
    free(lookup);
}

static void *look_up(void *context)
{
    struct midge_lookup *lookup = context;
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_ADDRCONFIG};
    struct addrinfo *list = NULL;
    const int error = getaddrinfo(lookup->host, lookup->port, &hints, &list);

    pthread_mutex_lock(&lookup->lock);
    lookup->error = error;
    for (const struct addrinfo *each = list; each != NULL; each = each->ai_next)
        add(&lookup->found, each->ai_addr, each->ai_addrlen);
    lookup->is_done = true;
    if (lookup->ring != NULL)
        midge_ring_doorbell(lookup->ring);
    let_go(lookup);
    if (list != NULL)
        freeaddrinfo(list);
    return NULL;
}

/* A thread that takes no signal from the program. */
static bool start_thread(struct midge_lookup *lookup)
{
    pthread_attr_t attributes;
    pthread_t thread;
    sigset_t all;
    sigset_t before;
    int error;

    (void)sigfillset(&all);
    if (pthread_attr_init(&attributes) != 0)
        return false;
    (void)pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    (void)pthread_attr_setstacksize(&attributes, LOOKUP_STACK_LEN);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    error = pthread_create(&thread, &attributes, look_up, lookup);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    (void)pthread_attr_destroy(&attributes);
    return error == 0;
}

struct midge_lookup *midge_lookup_begin(const struct midge_server *server, struct midge_ring *ring)
{
    struct midge_lookup *lookup = calloc(1, sizeof(*lookup));

    if (lookup == NULL)
        return NULL;
    lookup->host = strdup(server->host);
    if (lookup->host == NULL)
        goto err_free;
    (void)snprintf(lookup->port, sizeof(lookup->port), "%u", server->port);
    pthread_mutex_init(&lookup->lock, NULL);
    lookup->ring = ring;
    lookup->references = 2;
    if (start_thread(lookup))
        return lookup;
    pthread_mutex_destroy(&lookup->lock);
    free(lookup->host);
err_free:
    free(lookup);
    return NULL;
}

bool midge_lookup_is_for(const struct midge_lookup *lookup, const struct midge_server *server)
{
    char port[sizeof(lookup->port)];

    (void)snprintf(port, sizeof(port), "%u", server->port);
    return strcmp(lookup->host, server->host) == 0 && strcmp(lookup->port, port) == 0;
}

bool midge_lookup_is_done(struct midge_lookup *lookup, struct midge_addresses *out,
                          const char **why)
{
    bool is_done;

    pthread_mutex_lock(&lookup->lock);
    is_done = lookup->is_done;
    if (is_done) {
        *out = lookup->found;
        *why = lookup->error == 0 ? "it has no address" : gai_strerror(lookup->error);
    }
    pthread_mutex_unlock(&lookup->lock);
    return is_done;
}

void midge_lookup_abandon(struct midge_lookup *lookup)
{
    pthread_mutex_lock(&lookup->lock);
    lookup->ring = NULL;
    let_go(lookup);
}
