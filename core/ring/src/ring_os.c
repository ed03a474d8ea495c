/*
 * The system calls that the io_uring and the epoll implementation make alike.
 *
 * Thread: any (lock-free), except midge_ring_os_idle_ns(); nothing here has state.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "ring_internal.h"

#define NS_PER_S 1000000000ull

uint64_t midge_ring_os_now_ns(struct midge_ring *ring)
{
    struct timespec now;

    (void)ring;
    (void)clock_gettime(CLOCK_MONOTONIC, &now); /* cannot fail with this clock */
    return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}

uint64_t midge_ring_os_busy_ns(struct midge_ring *ring)
{
    const uint64_t watched_ns = atomic_load_explicit(&ring->spin_ns, memory_order_relaxed);
    struct timespec used = {0};
    clockid_t clock;
    uint64_t used_ns;

    /* Both fail only for a thread that has ended. */
    if (pthread_getcpuclockid(ring->owner, &clock) != 0 || clock_gettime(clock, &used) != 0)
        return 0;
    used_ns = (uint64_t)used.tv_sec * NS_PER_S + (uint64_t)used.tv_nsec;
    return used_ns > watched_ns ? used_ns - watched_ns : 0;
}

/* Source: proc_stat(5): cpu<N> user nice system idle iowait …, in ticks. */
uint64_t midge_ring_os_idle_ns(struct midge_ring *ring)
{
    const long ticks_per_s = sysconf(_SC_CLK_TCK);
    uint64_t ticks = 0;
    bool found = false;
    cpu_set_t cpus;
    char line[512];
    FILE *file;

    /* The process, not this thread, which may be bound to one core of those. */
    if (ticks_per_s <= 0 || sched_getaffinity(getpid(), sizeof(cpus), &cpus) != 0)
        return midge_ring_os_now_ns(ring);
    file = fopen("/proc/stat", "re");
    if (file == NULL)
        return midge_ring_os_now_ns(ring);
    while (fgets(line, sizeof(line), file) != NULL) {
        unsigned long long idle;
        unsigned long long waiting;
        unsigned cpu;

        if (sscanf(line, "cpu%u %*u %*u %*u %llu %llu", &cpu, &idle, &waiting) != 3 ||
            cpu >= CPU_SETSIZE || !CPU_ISSET(cpu, &cpus))
            continue;
        found = true;
        ticks += idle + waiting;
    }
    (void)fclose(file);
    return found ? ticks * (NS_PER_S / (uint64_t)ticks_per_s) : midge_ring_os_now_ns(ring);
}

uint64_t midge_ring_os_seed(void)
{
    uint64_t seed;

    /* Before the kernel's pool is ready the clock has to do: these bits guard no secret. */
    if (getrandom(&seed, sizeof(seed), GRND_NONBLOCK) != (ssize_t)sizeof(seed))
        seed = midge_ring_os_now_ns(NULL);
    return seed;
}

int64_t midge_ring_os_try_send(struct midge_ring *ring, int fd, const struct iovec *pieces,
                               uint32_t piece_count)
{
    struct msghdr message = {0};
    ssize_t sent;

    (void)ring;
    /* The kernel does not write through msg_iov in sendmsg; its type is shared with recvmsg. */
    memcpy(&message.msg_iov, &pieces, sizeof(pieces));
    message.msg_iovlen = piece_count;
    do {
        sent = sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    } while (sent < 0 && errno == EINTR);
    return sent < 0 ? -errno : sent;
}

void midge_ring_os_shutdown(struct midge_ring *ring, int fd, int how)
{
    (void)ring;
    (void)shutdown(fd, how); /* ENOTCONN: the peer was faster */
}

static int peer_unix(int fd, struct midge_ring_peer *peer_out)
{
    struct ucred credentials;
    socklen_t len = sizeof(credentials);

    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &len) != 0)
        return -errno;
    peer_out->is_unix = true;
    peer_out->uid = credentials.uid;
    return 0;
}

int midge_ring_os_peer(struct midge_ring *ring, int fd, struct midge_ring_peer *peer_out)
{
    union {
        struct sockaddr any;
        struct sockaddr_in in;
        struct sockaddr_in6 in6;
        struct sockaddr_un un;
    } address;
    socklen_t len = sizeof(address);

    (void)ring;
    memset(&address, 0, sizeof(address));
    if (getpeername(fd, &address.any, &len) != 0)
        return -errno;
    memset(peer_out, 0, sizeof(*peer_out));
    if (address.any.sa_family == AF_UNIX)
        return peer_unix(fd, peer_out);
    if (address.any.sa_family == AF_INET) {
        (void)inet_ntop(AF_INET, &address.in.sin_addr, peer_out->ip, sizeof(peer_out->ip));
        peer_out->port = ntohs(address.in.sin_port);
        return 0;
    }
    if (address.any.sa_family == AF_INET6) {
        /* A client of 127.0.0.1 on a socket that listens on both families is still 127.0.0.1. */
        if (IN6_IS_ADDR_V4MAPPED(&address.in6.sin6_addr))
            (void)inet_ntop(AF_INET, &address.in6.sin6_addr.s6_addr[12], peer_out->ip,
                            sizeof(peer_out->ip));
        else
            (void)inet_ntop(AF_INET6, &address.in6.sin6_addr, peer_out->ip, sizeof(peer_out->ip));
        peer_out->port = ntohs(address.in6.sin6_port);
        return 0;
    }
    return -EAFNOSUPPORT;
}

int midge_ring_os_set_nodelay(int fd)
{
    const int on = 1;

    if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)) == 0)
        return 0;
    /* Source: unix(7) and socket(2): a family without the level answers one of these. */
    return errno == EOPNOTSUPP || errno == ENOPROTOOPT ? 0 : -errno;
}

int midge_ring_os_set_nonblocking(int fd, bool nonblocking)
{
    const int flags = fcntl(fd, F_GETFL);
    int wanted;

    if (flags < 0)
        return -errno;
    wanted = nonblocking ? flags | O_NONBLOCK : flags & ~O_NONBLOCK;
    if (wanted != flags && fcntl(fd, F_SETFL, wanted) != 0)
        return -errno;
    return 0;
}
