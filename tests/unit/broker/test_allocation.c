/*
 * The message path does not call the allocator once it is warm.
 * Method: a shard on the real ring and two connected sockets, all in this thread; every allocation
 * of the broker's own code goes through a counting wrapper (--wrap). Request, reply, queue pick,
 * headers, 503, fan-out and a payload over the copy limit run until the pool is warm, and then may
 * not count one.
 */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "shard.h"

static uint64_t allocations;

void *__real_malloc(size_t len);
void *__real_calloc(size_t count, size_t len);
void *__real_realloc(void *block, size_t len);
void *__real_aligned_alloc(size_t alignment, size_t len);
void *__wrap_malloc(size_t len);
void *__wrap_calloc(size_t count, size_t len);
void *__wrap_realloc(void *block, size_t len);
void *__wrap_aligned_alloc(size_t alignment, size_t len);

void *__wrap_malloc(size_t len)
{
    allocations++;
    return __real_malloc(len);
}

void *__wrap_calloc(size_t count, size_t len)
{
    allocations++;
    return __real_calloc(count, len);
}

void *__wrap_realloc(void *block, size_t len)
{
    allocations++;
    return __real_realloc(block, len);
}

void *__wrap_aligned_alloc(size_t alignment, size_t len)
{
    allocations++;
    return __real_aligned_alloc(alignment, len);
}

struct fixture {
    struct midge_config config;
    struct midge_broker broker;
    struct midge_log *log;
    struct midge_shard *shard;
    struct sockaddr_un address;
    int listener;
    int client;
};

static void turn(struct fixture *fixture)
{
    for (uint32_t i = 0; i < 4; i++)
        midge_shard_turn(fixture->shard, false);
}

static void set_up(struct fixture *fixture)
{
    struct midge_ring *ring;
    char why[128];

    memset(fixture, 0, sizeof(*fixture));
    midge_config_init(&fixture->config);
    cr_assert_eq(midge_log_create(&fixture->config, &fixture->log), MIDGE_OK);
    cr_assert_eq(midge_broker_init(&fixture->broker, &fixture->config, fixture->log, 42), MIDGE_OK);
    fixture->broker.shard_count = 1;
    cr_assert_eq(midge_ring_create(NULL, &ring, why), MIDGE_OK, "%s", why);
    fixture->shard = midge_shard_create(&fixture->broker, 0, &ring);
    cr_assert_not_null(fixture->shard);
    fixture->address.sun_family = AF_UNIX;
    /* An abstract name: no file to clean up. */
    (void)snprintf(fixture->address.sun_path + 1, sizeof(fixture->address.sun_path) - 1,
                   "midge-allocation-%d", (int)getpid());
    fixture->listener = socket(AF_UNIX, SOCK_STREAM, 0);
    cr_assert_eq(
        bind(fixture->listener, (struct sockaddr *)&fixture->address, sizeof(fixture->address)), 0);
    cr_assert_eq(listen(fixture->listener, 8), 0);
    midge_shard_add_listener(fixture->shard, fixture->listener);
    fixture->client = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
    cr_assert_eq(
        connect(fixture->client, (struct sockaddr *)&fixture->address, sizeof(fixture->address)),
        0);
    turn(fixture);
}

static void tear_down(struct fixture *fixture)
{
    (void)close(fixture->client);
    midge_shard_stop(fixture->shard);
    while (!midge_shard_is_idle(fixture->shard))
        midge_shard_turn(fixture->shard, false);
    midge_shard_destroy(fixture->shard);
    (void)close(fixture->listener);
    midge_broker_deinit(&fixture->broker);
    midge_log_destroy(fixture->log);
    midge_config_deinit(&fixture->config);
}

/* Send, turn, and throw away what comes back. @return bytes that came back */
static uint64_t exchange(struct fixture *fixture, const char *bytes, size_t len)
{
    static char sink[65536];
    uint64_t received = 0;
    size_t sent = 0;

    while (sent < len) {
        const ssize_t res = send(fixture->client, bytes + sent, len - sent, MSG_NOSIGNAL);
        ssize_t got;

        if (res > 0)
            sent += (size_t)res;
        turn(fixture);
        while ((got = recv(fixture->client, sink, sizeof(sink), 0)) > 0)
            received += (uint64_t)got;
    }
    return received;
}

Test(allocation, message_path_is_free_of_it_once_warm)
{
    static const char begin[] =
        "CONNECT {\"verbose\":false,\"headers\":true,\"no_responders\":true}\r\n"
        "SUB svc 1\r\nSUB work q 2\r\nSUB work q 3\r\nSUB fan.* 4\r\nSUB fan.> 5\r\nSUB inbox.* "
        "6\r\n"
        "SUB big 7\r\n";
    static const char round[] = "PUB svc inbox.1 2\r\nhi\r\n"
                                "PUB inbox.1 2\r\nho\r\n"
                                "PUB work 1\r\nx\r\n"
                                "HPUB fan.a 18 20\r\nNATS/1.0\r\nA: b\r\n\r\nxy\r\n"
                                "PUB nobody inbox.2 1\r\nx\r\n";
    static char big[20100];
    struct fixture fixture;
    uint64_t received = 0;
    size_t big_len;
    uint64_t before;

    big_len = (size_t)snprintf(big, sizeof(big), "PUB big 20000\r\n%020000d\r\n", 1);
    set_up(&fixture);
    (void)exchange(&fixture, begin, sizeof(begin) - 1);
    for (uint32_t i = 0; i < 200; i++) {
        (void)exchange(&fixture, round, sizeof(round) - 1);
        (void)exchange(&fixture, big, big_len);
    }
    before = allocations;
    cr_assert_gt(before, 0, "the wrapper does not count");
    for (uint32_t i = 0; i < 1000; i++) {
        received += exchange(&fixture, round, sizeof(round) - 1);
        received += exchange(&fixture, big, big_len);
    }
    cr_assert_eq(allocations, before, "%llu allocations in 6,000 messages",
                 (unsigned long long)(allocations - before));
    cr_assert_gt(received, 1000 * (big_len + sizeof(round)));
    cr_assert_eq(midge_stats_read(&fixture.shard->stats.no_responders), 1200);
    tear_down(&fixture);
}
