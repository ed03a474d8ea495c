/*
 * Several shards in one broker: what each client must get, whichever shards the others are on.
 *
 * Method: three shards, each with its own ring, thread and listening port, so that a client chooses
 * its shard; clients are threads with blocking sockets, on which a lost message is a timeout. Every
 * case ends with a stop of all shards and with their accounts: deliveries, connections, memory.
 *
 * Usage: stress_shards [case [seed [auto|epoll]]]; no case, or `all`: every one.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "broker.h"
#include "shard.h"

#define SHARDS      3u
#define PATIENCE_S  20u  /* for one read or write of a client */
#define ALARM_S     240u /* for the whole program */
#define ACTORS_MAX  32u
#define PEER_CAP    (1u << 17)
#define PAYLOAD_MAX 40000u
#define STAMP_LEN   12u /* of a payload: publisher and number */

/* ---- failing ---- */

/* What runs, for the message of a failure. */
struct scene {
    const char *name;
    const char *kind;
    uint64_t seed;
};

static MIDGE_PRINTF(2, 3) _Noreturn void fail(const struct scene *scene, const char *format, ...)
{
    va_list args;

    (void)fprintf(stderr, "stress_shards %s %" PRIu64 " %s: ", scene->name, scene->seed,
                  scene->kind);
    va_start(args, format);
    (void)vfprintf(stderr, format, args);
    va_end(args);
    (void)fputc('\n', stderr);
    (void)fflush(NULL);
    _exit(1); /* other threads go on: no handlers */
}

#define CHECK(scene, condition, ...)                                                               \
    do {                                                                                           \
        if (!(condition))                                                                          \
            fail(scene, __VA_ARGS__);                                                              \
    } while (0)

static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static uint32_t random_below(uint64_t *state, uint32_t bound)
{
    return (uint32_t)((next_random(state) >> 16) % bound);
}

static void pause_us(uint32_t us)
{
    const struct timespec pause = {.tv_sec = us / 1000000, .tv_nsec = (long)(us % 1000000) * 1000};

    (void)nanosleep(&pause, NULL);
}

/* ---- the broker ---- */

struct rig {
    struct scene scene;
    struct midge_config config;
    struct midge_broker broker;
    struct midge_log *log;
    enum midge_ring_kind kind;
    uint64_t empty_bytes; /* memory before the first connection */
    pthread_mutex_t making;
    pthread_barrier_t made;
    struct rig_shard {
        struct rig *rig;
        uint16_t index;
        int listener_fd;
        uint16_t port;
        struct midge_shard *shard;
        pthread_t thread;
    } shards[SHARDS];
};

static void open_listener(struct rig_shard *mine)
{
    struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t len = sizeof(address);

    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    mine->listener_fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK(&mine->rig->scene,
          mine->listener_fd >= 0 &&
              bind(mine->listener_fd, (struct sockaddr *)&address, sizeof(address)) == 0 &&
              listen(mine->listener_fd, 128) == 0 &&
              getsockname(mine->listener_fd, (struct sockaddr *)&address, &len) == 0,
          "cannot listen: %s", strerror(errno));
    mine->port = ntohs(address.sin_port);
}

static void *shard_main(void *argument)
{
    struct rig_shard *mine = argument;
    struct rig *rig = mine->rig;
    const struct midge_ring_options options = {.kind = rig->kind};
    struct midge_ring *ring;
    char why[128];

    /* One after another: TSan sees no munmap of liburing's own, and so takes the rings that the
     * self-tests of two threads map at one address, one after the other, for one. */
    (void)pthread_mutex_lock(&rig->making);
    CHECK(&rig->scene, midge_ring_create(&options, &ring, why) == MIDGE_OK, "no ring: %s", why);
    (void)pthread_mutex_unlock(&rig->making);
    mine->shard = midge_shard_create(&rig->broker, mine->index, &ring);
    CHECK(&rig->scene, mine->shard != NULL, "no shard");
    midge_shard_add_listener(mine->shard, mine->listener_fd);
    (void)pthread_barrier_wait(&rig->made);
    midge_shard_run(mine->shard);
    return NULL;
}

/* The configuration is constant from here on. */
static void rig_start(struct rig *rig)
{
    rig->config.connections_max = 1024;
    rig->config.log_file = strdup("/dev/null"); /* owned by the config */
    CHECK(&rig->scene, midge_log_create(&rig->config, &rig->log) == MIDGE_OK, "no log");
    CHECK(&rig->scene,
          midge_broker_init(&rig->broker, &rig->config, rig->log, rig->scene.seed) == MIDGE_OK,
          "no broker");
    rig->broker.shard_count = SHARDS;
    rig->empty_bytes = midge_broker_memory_bytes(&rig->broker);
    (void)pthread_mutex_init(&rig->making, NULL);
    (void)pthread_barrier_init(&rig->made, NULL, SHARDS + 1);
    for (uint16_t i = 0; i < SHARDS; i++) {
        struct rig_shard *mine = &rig->shards[i];

        *mine = (struct rig_shard){.rig = rig, .index = i};
        open_listener(mine);
        CHECK(&rig->scene, pthread_create(&mine->thread, NULL, shard_main, mine) == 0, "no thread");
    }
    (void)pthread_barrier_wait(&rig->made);
}

/* Of all shards. */
struct sums {
#define SUM_FIELD(name, text) uint64_t name;
    MIDGE_STATS_TABLE(SUM_FIELD)
#undef SUM_FIELD
};

static struct sums sum_up(const struct rig *rig)
{
    struct sums sums = {0};

    for (uint32_t i = 0; i < SHARDS; i++) {
#define SUM_ADD(name, text) sums.name += midge_stats_read(&rig->shards[i].shard->stats.name);
        MIDGE_STATS_TABLE(SUM_ADD)
#undef SUM_ADD
    }
    return sums;
}

/* Blocks that a shard holds ready: all that is left of the pools' memory. */
static uint64_t spare_bytes(const struct rig *rig)
{
    uint64_t bytes = 0;

    for (uint32_t i = 0; i < SHARDS; i++) {
        const struct midge_spares *spares = &rig->shards[i].shard->spares;

        bytes += spares->small != NULL ? spares->small->block_cap : 0;
        bytes += spares->large != NULL ? spares->large->block_cap : 0;
        bytes += spares->view != NULL ? spares->view->block_cap : 0;
    }
    return bytes;
}

/* All shards have ended: nothing may be left, and every delivery has come to one end. */
static struct sums check_accounts(const struct rig *rig)
{
    const struct scene *scene = &rig->scene;
    const struct sums sums = sum_up(rig);
    const uint64_t bytes = midge_broker_memory_bytes(&rig->broker);

    CHECK(scene,
          sums.matched ==
              sums.out_msgs + sums.dropped_closing + sums.dropped_slow + sums.dropped_memory,
          "matched %" PRIu64 ", appended %" PRIu64 ", dropped %" PRIu64 " + %" PRIu64 " + %" PRIu64,
          sums.matched, sums.out_msgs, sums.dropped_closing, sums.dropped_slow,
          sums.dropped_memory);
    CHECK(scene, sums.out_msgs == sums.delivered + sums.discarded,
          "appended %" PRIu64 ", delivered %" PRIu64 ", discarded %" PRIu64, sums.out_msgs,
          sums.delivered, sums.discarded);
    CHECK(scene, sums.connects == sums.disconnects, "%" PRIu64 " connects, %" PRIu64 " disconnects",
          sums.connects, sums.disconnects);
    CHECK(scene, atomic_load(&rig->broker.connection_count) == 0, "connections are left");
    CHECK(scene, !atomic_load(&rig->broker.memory_picking), "a connection is still being picked");
    CHECK(scene, bytes == rig->empty_bytes + spare_bytes(rig),
          "%" PRIu64 " bytes are left of %" PRIu64 " and spares of %" PRIu64, bytes,
          rig->empty_bytes, spare_bytes(rig));
    for (uint32_t i = 0; i < SHARDS; i++)
        CHECK(scene, rig->shards[i].shard->paused == NULL, "a publisher is still paused");
    return sums;
}

static struct sums rig_stop(struct rig *rig)
{
    struct timespec deadline;
    struct sums sums;

    /* Release pairs with the acquire in midge_shard_turn(). */
    atomic_store_explicit(&rig->broker.stopping, true, memory_order_release);
    for (uint32_t i = 0; i < SHARDS; i++)
        midge_ring_doorbell(rig->shards[i].shard->ring);
    (void)clock_gettime(CLOCK_REALTIME, &deadline);
    deadline.tv_sec += PATIENCE_S;
    for (uint32_t i = 0; i < SHARDS; i++)
        CHECK(&rig->scene, pthread_timedjoin_np(rig->shards[i].thread, NULL, &deadline) == 0,
              "shard %" PRIu32 " does not stop", i);
    sums = check_accounts(rig);
    for (uint32_t i = 0; i < SHARDS; i++) {
        midge_shard_destroy(rig->shards[i].shard);
        (void)close(rig->shards[i].listener_fd);
    }
    midge_broker_deinit(&rig->broker);
    midge_log_destroy(rig->log);
    midge_config_deinit(&rig->config);
    (void)pthread_barrier_destroy(&rig->made);
    (void)pthread_mutex_destroy(&rig->making);
    return sums;
}

/* ---- clients ---- */

enum frame_kind {
    FRAME_MSG = 0,
    FRAME_PONG,
    FRAME_ERR,
    FRAME_END, /* the broker has closed */
};

struct frame {
    enum frame_kind kind;
    char subject[64];
    char reply[64];
    uint32_t sid;
    uint32_t header_len;
    uint32_t body_len;   /* headers included */
    const uint8_t *body; /* until the next read */
};

struct peer {
    const struct scene *scene;
    const char *role;
    int fd;
    uint32_t off;
    uint32_t len;
    uint8_t bytes[PEER_CAP];
};

static void peer_write(struct peer *peer, const void *bytes, size_t len)
{
    const uint8_t *at = bytes;

    while (len > 0) {
        const ssize_t sent = send(peer->fd, at, len, MSG_NOSIGNAL);

        CHECK(peer->scene, sent > 0, "a client cannot write: %s", strerror(errno));
        at += sent;
        len -= (size_t)sent;
    }
}

static void peer_text(struct peer *peer, const char *text)
{
    peer_write(peer, text, strlen(text));
}

/* @param receive_len  of the socket's buffer, 0 = the system's */
static struct peer *peer_connect(struct rig *rig, uint32_t shard, int receive_len)
{
    const struct timeval patience = {.tv_sec = PATIENCE_S};
    struct sockaddr_in address = {.sin_family = AF_INET};
    struct peer *peer = malloc(sizeof(*peer));
    const int yes = 1;

    CHECK(&rig->scene, peer != NULL, "no memory");
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons(rig->shards[shard].port);
    peer->scene = &rig->scene;
    peer->role = receive_len > 0 ? "slow client" : "client";
    peer->off = 0;
    peer->len = 0;
    peer->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK(&rig->scene, peer->fd >= 0, "no socket");
    (void)setsockopt(peer->fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes));
    (void)setsockopt(peer->fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    (void)setsockopt(peer->fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
    if (receive_len > 0)
        (void)setsockopt(peer->fd, SOL_SOCKET, SO_RCVBUF, &receive_len, sizeof(receive_len));
    CHECK(&rig->scene, connect(peer->fd, (struct sockaddr *)&address, sizeof(address)) == 0,
          "cannot connect: %s", strerror(errno));
    return peer;
}

static void peer_close(struct peer *peer)
{
    (void)close(peer->fd);
    free(peer);
}

/* Receive more behind what is there. @return false at the end of the stream */
static bool peer_fill(struct peer *peer)
{
    ssize_t got;

    if (peer->off > 0) {
        memmove(peer->bytes, peer->bytes + peer->off, peer->len - peer->off);
        peer->len -= peer->off;
        peer->off = 0;
    }
    CHECK(peer->scene, peer->len < PEER_CAP, "a frame is too long");
    got = recv(peer->fd, peer->bytes + peer->len, PEER_CAP - peer->len, 0);
    CHECK(peer->scene, got >= 0 || errno == ECONNRESET,
          "a %s waits in vain behind %" PRIu32 " bytes: %s", peer->role, peer->len,
          strerror(errno));
    if (got <= 0)
        return false;
    peer->len += (uint32_t)got;
    return true;
}

/* Split the control line behind MSG or HMSG; false if it is none. */
static bool parse_msg_line(struct frame *frame, const char *line, bool headers)
{
    char words[5][64];
    const int wanted = headers ? 5 : 4;
    int count =
        sscanf(line, "%63s %63s %63s %63s %63s", words[0], words[1], words[2], words[3], words[4]);
    int at = 2;

    frame->reply[0] = '\0';
    if (count != wanted && count != wanted - 1)
        return false;
    memcpy(frame->subject, words[0], sizeof(frame->subject));
    frame->sid = (uint32_t)strtoul(words[1], NULL, 10);
    if (count == wanted)
        memcpy(frame->reply, words[at++], sizeof(frame->reply));
    frame->header_len = headers ? (uint32_t)strtoul(words[at++], NULL, 10) : 0;
    frame->body_len = (uint32_t)strtoul(words[at], NULL, 10);
    return true;
}

/* One control line, without CRLF, as text. @return false at the end of the stream */
static bool peer_line(struct peer *peer, char line[256])
{
    const uint8_t *end;
    uint32_t len;

    while ((end = memchr(peer->bytes + peer->off, '\n', peer->len - peer->off)) == NULL) {
        if (!peer_fill(peer))
            return false;
    }
    len = (uint32_t)(end - (peer->bytes + peer->off));
    CHECK(peer->scene, len >= 1 && end[-1] == '\r', "a line without CR");
    memset(line, 0, 256);
    memcpy(line, peer->bytes + peer->off, len - 1 < 255 ? len - 1 : 255);
    peer->off += len + 1;
    return true;
}

static bool peer_body(struct peer *peer, struct frame *frame)
{
    while (peer->len - peer->off < frame->body_len + 2) {
        if (!peer_fill(peer))
            return false;
    }
    frame->body = peer->bytes + peer->off;
    CHECK(peer->scene, memcmp(frame->body + frame->body_len, "\r\n", 2) == 0,
          "a payload without CRLF");
    peer->off += frame->body_len + 2;
    return true;
}

/* The next frame that the caller cares for: INFO and +OK are passed over, PING is answered. */
static enum frame_kind peer_next(struct peer *peer, struct frame *frame)
{
    char line[256];

    frame->kind = FRAME_END;
    while (peer_line(peer, line)) {
        const bool headers = strncmp(line, "HMSG ", 5) == 0;

        if (headers || strncmp(line, "MSG ", 4) == 0) {
            CHECK(peer->scene, parse_msg_line(frame, line + (headers ? 5 : 4), headers),
                  "bad line `%s`", line);
            return frame->kind = peer_body(peer, frame) ? FRAME_MSG : FRAME_END;
        }
        if (strcmp(line, "PONG") == 0)
            return frame->kind = FRAME_PONG;
        if (strncmp(line, "-ERR ", 5) == 0)
            return frame->kind = FRAME_ERR;
        if (strcmp(line, "PING") == 0)
            peer_text(peer, "PONG\r\n");
        else if (strcmp(line, "+OK") != 0)
            CHECK(peer->scene, strncmp(line, "INFO ", 5) == 0, "strange line `%s`", line);
    }
    return frame->kind;
}

/* PING, and what comes before its PONG. @return messages among it */
static uint32_t peer_fence(struct peer *peer)
{
    struct frame frame;
    uint32_t count = 0;

    peer_text(peer, "PING\r\n");
    while (peer_next(peer, &frame) == FRAME_MSG)
        count++;
    CHECK(peer->scene, frame.kind == FRAME_PONG, "no PONG but frame %d", (int)frame.kind);
    return count;
}

/* Connect, say hello and subscribe, and know that it is done. */
static struct peer *peer_join(struct rig *rig, uint32_t shard, const char *text)
{
    struct peer *peer = peer_connect(rig, shard, 0);

    peer_text(peer, "CONNECT {\"verbose\":false,\"pedantic\":false,\"headers\":true,"
                    "\"no_responders\":true,\"protocol\":1}\r\n");
    peer_text(peer, text);
    (void)peer_fence(peer);
    return peer;
}

static void expect_msg(struct peer *peer, struct frame *frame)
{
    CHECK(peer->scene, peer_next(peer, frame) == FRAME_MSG, "frame %d instead of a message",
          (int)frame->kind);
}

/* ---- stamped messages ---- */

static uint8_t fill_of(uint32_t publisher, uint32_t number)
{
    return (uint8_t)('a' + (publisher * 7 + number) % 26);
}

/* Mostly short, some about as long as what is copied, some shared. */
static uint32_t pick_len(uint64_t *random)
{
    const uint32_t kind = random_below(random, 100);

    if (kind < 80)
        return STAMP_LEN + random_below(random, 300);
    if (kind < 92)
        return STAMP_LEN + random_below(random, 4000);
    if (kind < 97)
        return 8000 + random_below(random, 400);
    return 8000 + random_below(random, PAYLOAD_MAX - 8000);
}

/* Bytes on their way to be written. */
struct writing {
    uint32_t len;
    char bytes[1u << 19];
};

static struct writing *writing_create(const struct scene *scene)
{
    struct writing *writing = malloc(sizeof(*writing));

    CHECK(scene, writing != NULL, "no memory");
    writing->len = 0;
    return writing;
}

/* Append one PUB with a stamp. @return false without room */
static bool add_stamped(struct writing *writing, const char *subject, uint32_t publisher,
                        uint32_t number, uint32_t len)
{
    char *at = writing->bytes + writing->len;
    int line_len;

    if (sizeof(writing->bytes) - writing->len < len + 128)
        return false;
    line_len = snprintf(at, 128, "PUB %s %" PRIu32 "\r\n%03" PRIu32 " %07" PRIu32 " ", subject, len,
                        publisher, number);
    memset(at + line_len, fill_of(publisher, number), len - STAMP_LEN);
    at += (uint32_t)line_len + len - STAMP_LEN;
    memcpy(at, "\r\n", 2);
    writing->len = (uint32_t)(at + 2 - writing->bytes);
    return true;
}

/* Write all, in pieces that end anywhere. */
static void write_cut(struct peer *peer, struct writing *writing, uint64_t *random)
{
    uint32_t off = 0;

    while (off < writing->len) {
        const uint32_t left = writing->len - off;
        uint32_t piece = left;

        if (random_below(random, 2) == 0)
            piece = 1 + random_below(random, left);
        peer_write(peer, writing->bytes + off, piece);
        off += piece;
        if (piece < left && random_below(random, 4) == 0)
            (void)sched_yield();
    }
    writing->len = 0;
}

/* Check the next message of its publisher. @return publisher */
static uint32_t check_stamped(const struct scene *scene, const struct frame *frame, uint32_t *next,
                              uint32_t publisher_count)
{
    const uint8_t *fill = frame->body + STAMP_LEN;
    const uint32_t fill_len = frame->body_len - STAMP_LEN;
    uint32_t publisher;
    uint32_t number;

    CHECK(scene, frame->body_len >= STAMP_LEN && frame->body[3] == ' ' && frame->body[11] == ' ',
          "a message without stamp");
    publisher = (uint32_t)strtoul((const char *)frame->body, NULL, 10);
    number = (uint32_t)strtoul((const char *)frame->body + 4, NULL, 10);
    CHECK(scene, publisher < publisher_count, "publisher %" PRIu32, publisher);
    CHECK(scene, number == next[publisher],
          "message %" PRIu32 " instead of %" PRIu32 " of publisher %" PRIu32, number,
          next[publisher], publisher);
    if (fill_len > 0)
        CHECK(scene,
              fill[0] == fill_of(publisher, number) && memcmp(fill, fill + 1, fill_len - 1) == 0,
              "message %" PRIu32 " of publisher %" PRIu32 " is garbled", number, publisher);
    next[publisher]++;
    return publisher;
}

/* ---- actors: one thread each ---- */

struct actor {
    struct rig *rig;
    uint32_t index; /* among those of its kind */
    uint32_t shard;
    uint64_t random;
    void *state;    /* of the case */
    uint64_t count; /* of whatever the case counts */
    pthread_t thread;
};

static void start_actors(struct rig *rig, struct actor *actors, uint32_t count, void *state,
                         void *(*main_cb)(void *argument))
{
    CHECK(&rig->scene, count <= ACTORS_MAX, "too many actors");
    for (uint32_t i = 0; i < count; i++) {
        actors[i] = (struct actor){.rig = rig, .index = i, .shard = i % SHARDS, .state = state};
        actors[i].random = (rig->scene.seed + 1) * 0x9e3779b97f4a7c15ull + i * 0x1000193ull + 1;
        CHECK(&rig->scene, pthread_create(&actors[i].thread, NULL, main_cb, &actors[i]) == 0,
              "no thread");
    }
}

static void join_actors(struct actor *actors, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        (void)pthread_join(actors[i].thread, NULL);
}

/* ---- order: each subscriber gets each publisher's messages in order, all, once ---- */

#define ORDER_PUBLISHERS  (2 * SHARDS)
#define ORDER_SUBSCRIBERS (2 * SHARDS)
#define ORDER_MESSAGES    500u

struct order_case {
    pthread_barrier_t ready; /* all have joined */
    pthread_barrier_t done;  /* the broker has taken all that was published */
};

static void *order_publish(void *argument)
{
    struct actor *actor = argument;
    struct order_case *order = actor->state;
    struct writing *writing = writing_create(&actor->rig->scene);
    struct peer *peer = peer_join(actor->rig, actor->shard, "");
    uint32_t number = 0;

    (void)pthread_barrier_wait(&order->ready);
    while (number < ORDER_MESSAGES) {
        uint32_t burst = 1 + random_below(&actor->random, 60);

        for (; burst > 0 && number < ORDER_MESSAGES; burst--) {
            if (!add_stamped(writing, "order.all", actor->index, number, pick_len(&actor->random)))
                break;
            number++;
        }
        write_cut(peer, writing, &actor->random);
        if (random_below(&actor->random, 4) == 0)
            pause_us(random_below(&actor->random, 2000));
    }
    (void)peer_fence(peer);
    (void)pthread_barrier_wait(&order->done);
    peer_close(peer);
    free(writing);
    return NULL;
}

static void *order_subscribe(void *argument)
{
    struct actor *actor = argument;
    struct order_case *order = actor->state;
    struct peer *peer =
        peer_join(actor->rig, actor->shard,
                  actor->index < SHARDS ? "SUB order.all 1\r\n" : "SUB order.* 1\r\n");
    uint32_t next[ORDER_PUBLISHERS] = {0};
    struct frame frame;

    (void)pthread_barrier_wait(&order->ready);
    for (uint32_t i = 0; i < ORDER_PUBLISHERS * ORDER_MESSAGES; i++) {
        expect_msg(peer, &frame);
        (void)check_stamped(&actor->rig->scene, &frame, next, ORDER_PUBLISHERS);
    }
    (void)pthread_barrier_wait(&order->done);
    CHECK(&actor->rig->scene, peer_fence(peer) == 0, "a message came twice");
    peer_close(peer);
    return NULL;
}

static void run_order(struct rig *rig)
{
    struct order_case order;
    struct actor publishers[ACTORS_MAX];
    struct actor subscribers[ACTORS_MAX];

    rig_start(rig);
    (void)pthread_barrier_init(&order.ready, NULL, ORDER_PUBLISHERS + ORDER_SUBSCRIBERS);
    (void)pthread_barrier_init(&order.done, NULL, ORDER_PUBLISHERS + ORDER_SUBSCRIBERS);
    start_actors(rig, subscribers, ORDER_SUBSCRIBERS, &order, order_subscribe);
    start_actors(rig, publishers, ORDER_PUBLISHERS, &order, order_publish);
    join_actors(publishers, ORDER_PUBLISHERS);
    join_actors(subscribers, ORDER_SUBSCRIBERS);
    (void)pthread_barrier_destroy(&order.ready);
    (void)pthread_barrier_destroy(&order.done);
    (void)rig_stop(rig);
}

/* ---- request: one reply each, from a group spread over all shards; or one 503 ---- */

#define REQUESTERS        (2 * SHARDS)
#define RESPONDERS        (2 * SHARDS)
#define REQUEST_ROUNDS    60u
#define REQUESTS_IN_ROUND 8u /* the last one to a subject that nobody serves */

static void *request_respond(void *argument)
{
    struct actor *actor = argument;
    struct peer *peer = peer_join(actor->rig, actor->shard, "SUB rpc.* pool 1\r\nSUB end 2\r\n");
    struct frame frame;

    (void)pthread_barrier_wait(actor->state);
    for (;;) {
        char text[256];
        int len;

        expect_msg(peer, &frame);
        if (frame.sid == 2)
            break;
        CHECK(&actor->rig->scene, frame.reply[0] != '\0' && frame.body_len < 64, "bad request");
        len = snprintf(text, sizeof(text), "PUB %s %" PRIu32 "\r\n%.*s\r\n", frame.reply,
                       frame.body_len, (int)frame.body_len, (const char *)frame.body);
        peer_write(peer, text, (size_t)len);
        actor->count++;
    }
    peer_close(peer);
    return NULL;
}

/* The reply to request `number` of this round; each may come once, in any order. */
static void take_reply(struct actor *actor, struct peer *peer, uint32_t round, uint32_t *seen)
{
    const struct scene *scene = &actor->rig->scene;
    struct frame frame;
    uint32_t number;
    uint32_t of_round;
    char text[64];

    expect_msg(peer, &frame);
    CHECK(scene,
          sscanf(frame.subject, "_INBOX.%*u.%" PRIu32 ".%" PRIu32, &of_round, &number) == 2 &&
              of_round == round && number < REQUESTS_IN_ROUND,
          "reply on `%s` in round %" PRIu32, frame.subject, round);
    CHECK(scene, (*seen & 1u << number) == 0, "two replies on `%s`", frame.subject);
    *seen |= 1u << number;
    if (number == REQUESTS_IN_ROUND - 1) {
        CHECK(scene,
              frame.header_len == frame.body_len && frame.body_len >= 12 &&
                  memcmp(frame.body, "NATS/1.0 503", 12) == 0,
              "no 503 on `%s`", frame.subject);
        return;
    }
    (void)snprintf(text, sizeof(text), "%" PRIu32 " %" PRIu32 " %" PRIu32, actor->index, round,
                   number);
    CHECK(scene, frame.body_len == strlen(text) && memcmp(frame.body, text, frame.body_len) == 0,
          "reply `%.*s` on `%s`", (int)frame.body_len, (const char *)frame.body, frame.subject);
}

static void *request_ask(void *argument)
{
    struct actor *actor = argument;
    struct peer *peer;
    char text[256];

    (void)snprintf(text, sizeof(text), "SUB _INBOX.%" PRIu32 ".> 1\r\n", actor->index);
    peer = peer_join(actor->rig, actor->shard, text);
    (void)pthread_barrier_wait(actor->state);
    for (uint32_t round = 0; round < REQUEST_ROUNDS; round++) {
        uint32_t seen = 0;

        for (uint32_t number = 0; number < REQUESTS_IN_ROUND; number++) {
            char body[64];

            (void)snprintf(body, sizeof(body), "%" PRIu32 " %" PRIu32 " %" PRIu32, actor->index,
                           round, number);
            (void)snprintf(text, sizeof(text),
                           "PUB %s _INBOX.%" PRIu32 ".%" PRIu32 ".%" PRIu32 " %zu\r\n%s\r\n",
                           number == REQUESTS_IN_ROUND - 1 ? "nobody" : "rpc.x", actor->index,
                           round, number, strlen(body), body);
            peer_text(peer, text);
        }
        for (uint32_t i = 0; i < REQUESTS_IN_ROUND; i++)
            take_reply(actor, peer, round, &seen);
    }
    (void)pthread_barrier_wait(actor->state);
    CHECK(&actor->rig->scene, peer_fence(peer) == 0, "a reply too many");
    peer_close(peer);
    return NULL;
}

static void run_request(struct rig *rig)
{
    /* Requesters meet again when all have their replies; responders by then wait for the end. */
    pthread_barrier_t ready;
    struct actor requesters[ACTORS_MAX];
    struct actor responders[ACTORS_MAX];
    pthread_barrier_t joined;
    struct peer *ender;
    struct sums sums;

    rig_start(rig);
    (void)pthread_barrier_init(&joined, NULL, RESPONDERS + 1);
    (void)pthread_barrier_init(&ready, NULL, REQUESTERS);
    start_actors(rig, responders, RESPONDERS, &joined, request_respond);
    (void)pthread_barrier_wait(&joined);
    start_actors(rig, requesters, REQUESTERS, &ready, request_ask);
    join_actors(requesters, REQUESTERS);
    ender = peer_join(rig, 0, "PUB end 0\r\n\r\n");
    join_actors(responders, RESPONDERS);
    peer_close(ender);
    for (uint32_t i = 0; i < RESPONDERS; i++)
        CHECK(&rig->scene, responders[i].count > 0, "responder %" PRIu32 " got nothing", i);
    (void)pthread_barrier_destroy(&joined);
    (void)pthread_barrier_destroy(&ready);
    sums = rig_stop(rig);
    CHECK(&rig->scene, sums.no_responders == REQUESTERS * REQUEST_ROUNDS, "%" PRIu64 " 503s",
          sums.no_responders);
}

/* ---- fence: PONG says that SUB and UNSUB hold on every shard; UNSUB max is exact ---- */

#define FENCE_ROUNDS  60u
#define FENCE_MAX     50u
#define FENCE_RACERS  SHARDS
#define FENCE_SUBJECT "fence.x"

struct fence_case {
    pthread_barrier_t ready;
    _Atomic bool done;
    _Atomic uint32_t max_round; /* racers publish to max.<round>, too */
};

/* Publish all the time, but never more than the broker has taken. */
static void *fence_race(void *argument)
{
    struct actor *actor = argument;
    struct fence_case *fence = actor->state;
    struct peer *peer = peer_join(actor->rig, actor->shard, "");

    (void)pthread_barrier_wait(&fence->ready);
    while (!atomic_load(&fence->done)) {
        const uint32_t round = atomic_load(&fence->max_round);
        char text[2048];
        uint32_t len = 0;

        for (uint32_t i = 1 + random_below(&actor->random, 20); i > 0; i--)
            len += (uint32_t)snprintf(
                text + len, sizeof(text) - len,
                "PUB " FENCE_SUBJECT " 5\r\nnoise\r\nPUB max.%" PRIu32 " 5\r\nnoise\r\n", round);
        peer_write(peer, text, len);
        (void)peer_fence(peer);
    }
    peer_close(peer);
    return NULL;
}

/* Publish one message, and know that the broker has delivered it. */
static void publish_mark(struct peer *peer, uint32_t round)
{
    char text[64];

    (void)snprintf(text, sizeof(text), "PUB " FENCE_SUBJECT " 10\r\nmark%06" PRIu32 "\r\n", round);
    peer_text(peer, text);
    (void)peer_fence(peer);
}

/* Read up to the mark of this round. */
static void await_mark(struct peer *peer, uint32_t round)
{
    struct frame frame;
    char text[16];

    (void)snprintf(text, sizeof(text), "mark%06" PRIu32, round);
    do {
        expect_msg(peer, &frame);
        CHECK(peer->scene, frame.sid == round, "sid %" PRIu32 " in round %" PRIu32, frame.sid,
              round);
    } while (frame.body_len != 10 || memcmp(frame.body, text, 10) != 0);
}

/* SUB and UNSUB hold from their PONGs on. */
static void fence_round(struct peer *reader, struct peer *publisher, uint32_t round)
{
    char text[96];

    (void)snprintf(text, sizeof(text), "SUB " FENCE_SUBJECT " %" PRIu32 "\r\n", round);
    peer_text(reader, text);
    (void)peer_fence(reader);
    publish_mark(publisher, round);
    await_mark(reader, round);
    (void)snprintf(text, sizeof(text), "UNSUB %" PRIu32 "\r\n", round);
    peer_text(reader, text);
    (void)peer_fence(reader);
    publish_mark(publisher, round);
    CHECK(reader->scene, peer_fence(reader) == 0, "a message behind UNSUB, round %" PRIu32, round);
}

/* The racers begin behind UNSUB, which would otherwise come too late to be exact. */
static void max_round(struct fence_case *fence, struct peer *reader, struct peer *publisher,
                      uint32_t round)
{
    struct frame frame;
    char text[96];

    (void)snprintf(text, sizeof(text), "SUB max.%" PRIu32 " 1\r\nUNSUB 1 %u\r\n", round, FENCE_MAX);
    peer_text(reader, text);
    CHECK(reader->scene, peer_fence(reader) == 0, "a message on a new subject");
    atomic_store(&fence->max_round, round);
    for (uint32_t i = 0; i < FENCE_MAX; i++)
        expect_msg(reader, &frame);
    (void)snprintf(text, sizeof(text), "PUB max.%" PRIu32 " 0\r\n\r\n", round);
    peer_text(publisher, text);
    (void)peer_fence(publisher);
    CHECK(reader->scene, peer_fence(reader) == 0, "a message over max, round %" PRIu32, round);
}

static void run_fence(struct rig *rig)
{
    struct fence_case fence = {.max_round = UINT32_MAX};
    struct actor racers[ACTORS_MAX];
    struct peer *readers[SHARDS];
    struct peer *publishers[SHARDS];

    rig_start(rig);
    (void)pthread_barrier_init(&fence.ready, NULL, FENCE_RACERS + 1);
    start_actors(rig, racers, FENCE_RACERS, &fence, fence_race);
    for (uint32_t i = 0; i < SHARDS; i++) {
        readers[i] = peer_join(rig, i, "");
        publishers[i] = peer_join(rig, i, "");
    }
    (void)pthread_barrier_wait(&fence.ready);
    for (uint32_t round = 0; round < FENCE_ROUNDS; round++) {
        struct peer *reader = readers[round % SHARDS];
        struct peer *publisher = publishers[(round + 1 + round / 3 % 2) % SHARDS];

        fence_round(reader, publisher, round);
        max_round(&fence, reader, publisher, round);
    }
    atomic_store(&fence.done, true);
    join_actors(racers, FENCE_RACERS);
    for (uint32_t i = 0; i < SHARDS; i++) {
        peer_close(readers[i]);
        peer_close(publishers[i]);
    }
    (void)pthread_barrier_destroy(&fence.ready);
    (void)rig_stop(rig);
}

/* ---- hand-over: more recipients on one other shard than a publisher's shard sends to ---- */

#define HANDOVER_READERS  100u
#define HANDOVER_MESSAGES 150u

static void *handover_publish(void *argument)
{
    struct actor *actor = argument;
    struct writing *writing = writing_create(&actor->rig->scene);
    struct peer *peer = peer_join(actor->rig, actor->shard, "");

    for (uint32_t number = 0; number < HANDOVER_MESSAGES;) {
        for (uint32_t burst = 1 + random_below(&actor->random, 10);
             burst > 0 && number < HANDOVER_MESSAGES; burst--)
            (void)add_stamped(writing, "many", actor->index, number++,
                              STAMP_LEN + random_below(&actor->random, 100));
        write_cut(peer, writing, &actor->random);
        if (random_below(&actor->random, 3) == 0)
            pause_us(random_below(&actor->random, 1000));
    }
    (void)peer_fence(peer);
    peer_close(peer);
    free(writing);
    return NULL;
}

/* All readers are on shard 1; one publisher is there, too, so that both ways to send meet. At the
 * end one of another shard publishes alone: nothing else makes shard 1 look. */
static void run_handover(struct rig *rig)
{
    struct peer *readers[HANDOVER_READERS];
    struct actor publishers[ACTORS_MAX];
    struct peer *last;

    rig_start(rig);
    for (uint32_t i = 0; i < HANDOVER_READERS; i++)
        readers[i] = peer_join(rig, 1, "SUB many 1\r\n");
    start_actors(rig, publishers, 2, NULL, handover_publish);
    for (uint32_t i = 0; i < HANDOVER_READERS; i++) {
        uint32_t next[2] = {0};
        struct frame frame;

        for (uint32_t got = 0; got < 2 * HANDOVER_MESSAGES; got++) {
            expect_msg(readers[i], &frame);
            (void)check_stamped(&rig->scene, &frame, next, 2);
        }
    }
    join_actors(publishers, 2);
    for (uint32_t i = 0; i < HANDOVER_READERS; i++)
        CHECK(&rig->scene, peer_fence(readers[i]) == 0, "a message came twice");
    last = peer_join(rig, 2, "PUB many 0\r\n\r\n");
    for (uint32_t i = 0; i < HANDOVER_READERS; i++) {
        struct frame frame;

        expect_msg(readers[i], &frame);
    }
    for (uint32_t i = 0; i < HANDOVER_READERS; i++)
        peer_close(readers[i]);
    peer_close(last);
    (void)rig_stop(rig);
}

/* ---- quiet: the first message of another shard, to an owner that sleeps ---- */

#define QUIET_ROUNDS 100u

/* The owner has just sent PONG, or a message of its own, and sleeps; what it has sent may not be
 * settled yet. Nothing but the message wakes it. */
static void run_quiet(struct rig *rig)
{
    uint64_t random = rig->scene.seed + 1;
    struct peer *publishers[SHARDS];
    struct frame frame;

    rig_start(rig);
    for (uint32_t i = 0; i < SHARDS; i++)
        publishers[i] = peer_join(rig, i, "");
    for (uint32_t round = 0; round < QUIET_ROUNDS; round++) {
        const uint32_t shard = round % SHARDS;
        /* Without CONNECT, so that no timer for a first PING wakes the owner. */
        struct peer *reader = peer_connect(rig, shard, 0);
        const bool own_first = random_below(&random, 2) == 0;

        peer_text(reader, "SUB quiet 1\r\n");
        (void)peer_fence(reader);
        if (own_first) {
            peer_text(publishers[shard], "PUB quiet 3\r\nown\r\n");
            expect_msg(reader, &frame);
        }
        if (random_below(&random, 2) == 0)
            pause_us(random_below(&random, 1000));
        for (uint32_t i = 1; i < SHARDS; i++) {
            peer_text(publishers[(shard + i) % SHARDS], "PUB quiet 5\r\nother\r\n");
            expect_msg(reader, &frame);
        }
        CHECK(&rig->scene, peer_fence(reader) == 0, "a message came twice");
        peer_close(reader);
    }
    for (uint32_t i = 0; i < SHARDS; i++)
        peer_close(publishers[i]);
    (void)rig_stop(rig);
}

/* ---- pressure: publishers on other shards wait for a slow reader, and nothing is lost ---- */

#define PRESSURE_BYTES     (20u << 20) /* of each publisher */
#define PRESSURE_MAX       (1u << 19)  /* max_pending: less than a turn can bring */
#define PRESSURE_READ_STEP (1u << 19)

static uint32_t pressure_len(uint64_t *random)
{
    return 1000 + random_below(random, random_below(random, 10) == 0 ? PAYLOAD_MAX - 1000 : 8000);
}

/* The first on shard 0, the second on shard 2. The last message is empty. */
static void *pressure_publish(void *argument)
{
    struct actor *actor = argument;
    struct writing *writing = writing_create(&actor->rig->scene);
    struct peer *peer = peer_join(actor->rig, actor->index * 2, "");
    uint64_t bytes = 0;
    uint32_t number = 0;

    while (bytes < PRESSURE_BYTES) {
        const uint32_t len = pressure_len(&actor->random);

        if (!add_stamped(writing, "flood", actor->index, number, len)) {
            peer_write(peer, writing->bytes, writing->len);
            writing->len = 0;
            continue;
        }
        number++;
        bytes += len;
    }
    peer_write(peer, writing->bytes, writing->len);
    writing->len = 0;
    (void)add_stamped(writing, "flood", actor->index, number, STAMP_LEN);
    peer_write(peer, writing->bytes, writing->len);
    actor->count = number + 1;
    (void)peer_fence(peer);
    peer_close(peer);
    free(writing);
    return NULL;
}

static void run_pressure(struct rig *rig)
{
    struct actor publishers[ACTORS_MAX];
    uint64_t random = rig->scene.seed + 1;
    uint32_t next[2] = {0};
    uint32_t ended = 0;
    uint64_t bytes = 0;
    struct peer *reader;
    struct frame frame;

    rig->config.pending_bytes_max = PRESSURE_MAX;
    /* Beyond our patience: a publisher goes on because it is told, not because it is late. */
    rig->config.write_deadline_ms = 10 * PATIENCE_S * 1000;
    rig_start(rig);
    reader = peer_connect(rig, 1, 1 << 16);
    peer_text(reader, "CONNECT {\"verbose\":false}\r\nSUB flood 1\r\n");
    (void)peer_fence(reader);
    start_actors(rig, publishers, 2, NULL, pressure_publish);
    while (ended < 2) {
        expect_msg(reader, &frame);
        (void)check_stamped(&rig->scene, &frame, next, 2);
        ended += frame.body_len == STAMP_LEN;
        bytes += frame.body_len;
        if (bytes >= PRESSURE_READ_STEP) {
            bytes = 0;
            pause_us(random_below(&random, 20) == 0 ? 100000 : 1000);
        }
    }
    join_actors(publishers, 2);
    for (uint32_t i = 0; i < 2; i++) {
        CHECK(&rig->scene, next[i] == publishers[i].count, "messages of %" PRIu32 " are lost", i);
        CHECK(&rig->scene,
              rig->config.move_turns > 0 ||
                  midge_stats_read(&rig->shards[i * 2].shard->stats.stalls) > 0,
              "publisher %" PRIu32 " was never held back", i);
    }
    CHECK(&rig->scene, peer_fence(reader) == 0, "a message came twice");
    peer_close(reader);
    (void)rig_stop(rig);
}

/* ---- churn: connections come and go in every way; bystanders lose nothing ---- */

#define CHURN_PUBLISHERS SHARDS
#define CHURN_BYSTANDERS SHARDS
#define CHURN_CHURNERS   (2 * SHARDS)
#define CHURN_MESSAGES   2500u
#define CHURN_WINDOW     40u        /* messages of one publisher that bystanders have not got */
#define CHURN_MAX        (1u << 19) /* max_pending: much more than all windows */

struct churn_case {
    pthread_barrier_t ready;
    _Atomic bool done;
    _Atomic uint32_t got[CHURN_BYSTANDERS][CHURN_PUBLISHERS];
};

/* Wait until every bystander has what was published, but for a window. */
static void churn_keep_pace(struct actor *actor, uint32_t number)
{
    struct churn_case *churn = actor->state;

    for (uint32_t i = 0; i < CHURN_BYSTANDERS; i++) {
        uint32_t waits = 0;

        while (atomic_load(&churn->got[i][actor->index]) + CHURN_WINDOW <= number) {
            CHECK(&actor->rig->scene, ++waits < PATIENCE_S * 10000, "bystander %" PRIu32 " stands",
                  i);
            pause_us(50);
        }
    }
}

static void *churn_publish(void *argument)
{
    struct actor *actor = argument;
    struct churn_case *churn = actor->state;
    struct writing *writing = writing_create(&actor->rig->scene);
    struct peer *peer = peer_join(actor->rig, actor->shard, "");

    (void)pthread_barrier_wait(&churn->ready);
    for (uint32_t number = 0; number < CHURN_MESSAGES;) {
        for (uint32_t burst = 1 + random_below(&actor->random, 10);
             burst > 0 && number < CHURN_MESSAGES; burst--)
            (void)add_stamped(writing, "churn.a", actor->index, number++, pick_len(&actor->random));
        write_cut(peer, writing, &actor->random);
        churn_keep_pace(actor, number);
    }
    (void)peer_fence(peer);
    peer_close(peer);
    free(writing);
    return NULL;
}

static void *churn_stand_by(void *argument)
{
    struct actor *actor = argument;
    struct churn_case *churn = actor->state;
    struct peer *peer = peer_join(actor->rig, actor->shard, "SUB churn.a 1\r\n");
    uint32_t next[CHURN_PUBLISHERS] = {0};
    struct frame frame;

    (void)pthread_barrier_wait(&churn->ready);
    for (uint32_t i = 0; i < CHURN_PUBLISHERS * CHURN_MESSAGES; i++) {
        uint32_t publisher;

        expect_msg(peer, &frame);
        publisher = check_stamped(&actor->rig->scene, &frame, next, CHURN_PUBLISHERS);
        atomic_store(&churn->got[actor->index][publisher], next[publisher]);
    }
    CHECK(&actor->rig->scene, peer_fence(peer) == 0, "a message came twice");
    peer_close(peer);
    return NULL;
}

/* What a connection of a churner does: reads a while, or not, and how it ends. */
static void churn_read(struct actor *actor, struct peer *peer, uint32_t frames)
{
    uint32_t next[CHURN_PUBLISHERS];
    bool begun[CHURN_PUBLISHERS] = {false};
    struct pollfd ready = {.fd = peer->fd, .events = POLLIN};
    struct frame frame;

    for (; frames > 0; frames--) {
        /* Nothing may come any more: the publishers may have ended. */
        if (peer->off == peer->len && poll(&ready, 1, 5) == 0)
            return;
        if (peer_next(peer, &frame) == FRAME_END)
            return;
        if (frame.kind != FRAME_MSG || frame.sid != 1)
            continue;
        if (frame.body_len >= STAMP_LEN) {
            const uint32_t publisher = (uint32_t)(frame.body[2] - '0') % CHURN_PUBLISHERS;

            /* The first one may be any. */
            if (!begun[publisher])
                next[publisher] = (uint32_t)strtoul((const char *)frame.body + 4, NULL, 10);
            begun[publisher] = true;
        }
        (void)check_stamped(&actor->rig->scene, &frame, next, CHURN_PUBLISHERS);
    }
}

static void try_text(struct peer *peer, const char *text)
{
    /* The broker may have closed it already. */
    (void)!send(peer->fd, text, strlen(text), MSG_NOSIGNAL | MSG_DONTWAIT);
}

static void churn_end(struct actor *actor, struct peer *peer)
{
    const struct linger linger = {.l_onoff = 1, .l_linger = 0};
    uint8_t sink[4096];

    switch (random_below(&actor->random, 5)) {
    case 0: /* reset */
        (void)setsockopt(peer->fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger));
        break;
    case 1: /* in the midst of a message */
        try_text(peer, "PUB churn.b 20000\r\nthe rest is missing");
        break;
    case 2: /* end of stream, and then to the end of the other one */
        (void)shutdown(peer->fd, SHUT_WR);
        while (recv(peer->fd, sink, sizeof(sink), 0) > 0)
            continue;
        break;
    case 3: /* a fault, of which the broker tells before it closes */
        try_text(peer, "NONSENSE\r\n");
        while (recv(peer->fd, sink, sizeof(sink), 0) > 0)
            continue;
        break;
    default: /* does not read: too slow before long */
        pause_us(20000 + random_below(&actor->random, 100000));
        break;
    }
    peer_close(peer);
}

static void *churn_come_and_go(void *argument)
{
    struct actor *actor = argument;
    struct churn_case *churn = actor->state;

    (void)pthread_barrier_wait(&churn->ready);
    while (!atomic_load(&churn->done)) {
        const uint32_t dice = random_below(&actor->random, 8);
        struct peer *peer = peer_connect(actor->rig, random_below(&actor->random, SHARDS), 4096);

        try_text(peer, "CONNECT {\"verbose\":false,\"headers\":true}\r\n");
        if (dice > 0)
            try_text(peer, "SUB churn.a 1\r\n");
        if (dice % 2 == 0)
            try_text(peer, "SUB churn.> 2\r\nSUB churn.a group 3\r\n");
        if (dice % 4 == 0)
            try_text(peer, "SUB churn.a 4\r\nUNSUB 4 20\r\nUNSUB 2\r\n");
        /* So that INFO is not the last thing that comes. */
        try_text(peer, "PING\r\n");
        if (dice < 6)
            churn_read(actor, peer, random_below(&actor->random, 300));
        if (dice % 3 == 0)
            try_text(peer, "PUB churn.b 3\r\nabc\r\nPUB churn.b r 3\r\nabc\r\n");
        churn_end(actor, peer);
        actor->count++;
    }
    return NULL;
}

static void run_churn(struct rig *rig)
{
    struct churn_case churn = {.done = false};
    struct actor publishers[ACTORS_MAX];
    struct actor bystanders[ACTORS_MAX];
    struct actor churners[ACTORS_MAX];
    struct peer *sleepers[SHARDS]; /* never read: too slow in any case */
    struct sums sums;

    rig->config.pending_bytes_max = CHURN_MAX;
    rig->config.no_fast_producer_stall = true;
    rig_start(rig);
    for (uint32_t i = 0; i < SHARDS; i++) {
        sleepers[i] = peer_connect(rig, i, 4096);
        peer_text(sleepers[i], "CONNECT {\"verbose\":false}\r\nSUB churn.* 1\r\n");
        (void)peer_fence(sleepers[i]);
    }
    (void)pthread_barrier_init(&churn.ready, NULL,
                               CHURN_PUBLISHERS + CHURN_BYSTANDERS + CHURN_CHURNERS);
    start_actors(rig, bystanders, CHURN_BYSTANDERS, &churn, churn_stand_by);
    start_actors(rig, publishers, CHURN_PUBLISHERS, &churn, churn_publish);
    start_actors(rig, churners, CHURN_CHURNERS, &churn, churn_come_and_go);
    join_actors(publishers, CHURN_PUBLISHERS);
    join_actors(bystanders, CHURN_BYSTANDERS);
    atomic_store(&churn.done, true);
    join_actors(churners, CHURN_CHURNERS);
    for (uint32_t i = 0; i < SHARDS; i++)
        peer_close(sleepers[i]);
    (void)pthread_barrier_destroy(&churn.ready);
    sums = rig_stop(rig);
    CHECK(&rig->scene, sums.slow_pending >= SHARDS, "%" PRIu64 " were too slow", sums.slow_pending);
    CHECK(&rig->scene, sums.discarded > 0, "nobody left anything unread");
}

/* ---- memory: over max_memory those that do not read are closed, and only those ---- */

#define MEMORY_MAX        (8u << 20)
#define MEMORY_PUBLISHERS SHARDS
#define MEMORY_BYSTANDERS SHARDS
#define MEMORY_IDLERS     (2 * SHARDS)  /* do not read */
#define MEMORY_CLOSED     MEMORY_IDLERS /* so many of them, until the publishers end */
#define MEMORY_BURSTS_MAX 4000u         /* of 16 messages */

static uint64_t memory_closed(const struct rig *rig)
{
    uint64_t count = 0;

    for (uint32_t i = 0; i < SHARDS; i++)
        count += midge_stats_read(&rig->shards[i].shard->stats.memory_closed);
    return count;
}

static void *memory_publish(void *argument)
{
    struct actor *actor = argument;
    struct writing *writing = writing_create(&actor->rig->scene);
    struct peer *peer = peer_join(actor->rig, actor->shard, "");
    uint32_t burst;

    for (burst = 0; burst < MEMORY_BURSTS_MAX; burst++) {
        for (uint32_t i = 0; i < 16; i++)
            (void)add_stamped(writing, "idle", actor->index, i, pick_len(&actor->random));
        (void)add_stamped(writing, "read", actor->index, burst, STAMP_LEN + 100);
        write_cut(peer, writing, &actor->random);
        if (memory_closed(actor->rig) >= MEMORY_CLOSED)
            break;
    }
    CHECK(&actor->rig->scene, burst < MEMORY_BURSTS_MAX, "%" PRIu64 " closed in all",
          memory_closed(actor->rig));
    (void)add_stamped(writing, "read", actor->index, burst + 1, STAMP_LEN);
    peer_write(peer, writing->bytes, writing->len);
    (void)peer_fence(peer);
    peer_close(peer);
    free(writing);
    return NULL;
}

static void *memory_stand_by(void *argument)
{
    struct actor *actor = argument;
    struct peer *peer = peer_join(actor->rig, actor->shard, "SUB read 1\r\n");
    uint32_t next[MEMORY_PUBLISHERS] = {0};
    uint32_t ended = 0;
    struct frame frame;

    (void)pthread_barrier_wait(actor->state);
    while (ended < MEMORY_PUBLISHERS) {
        expect_msg(peer, &frame);
        (void)check_stamped(&actor->rig->scene, &frame, next, MEMORY_PUBLISHERS);
        ended += frame.body_len == STAMP_LEN;
    }
    CHECK(&actor->rig->scene, peer_fence(peer) == 0, "a message came twice");
    peer_close(peer);
    return NULL;
}

static void run_memory(struct rig *rig)
{
    struct actor publishers[ACTORS_MAX];
    struct actor bystanders[ACTORS_MAX];
    struct peer *idlers[MEMORY_IDLERS];
    pthread_barrier_t ready;
    struct sums sums;
    uint32_t waits = 0;

    rig->config.memory_bytes_max = MEMORY_MAX;
    rig->config.no_fast_producer_stall = true;
    rig_start(rig);
    for (uint32_t i = 0; i < MEMORY_IDLERS; i++) {
        idlers[i] = peer_connect(rig, i % SHARDS, 4096);
        peer_text(idlers[i], "CONNECT {\"verbose\":false}\r\nSUB idle 1\r\n");
        (void)peer_fence(idlers[i]);
    }
    (void)pthread_barrier_init(&ready, NULL, MEMORY_BYSTANDERS + 1);
    start_actors(rig, bystanders, MEMORY_BYSTANDERS, &ready, memory_stand_by);
    (void)pthread_barrier_wait(&ready);
    start_actors(rig, publishers, MEMORY_PUBLISHERS, NULL, memory_publish);
    join_actors(publishers, MEMORY_PUBLISHERS);
    join_actors(bystanders, MEMORY_BYSTANDERS);
    while (atomic_load(&rig->broker.memory_picking)) {
        CHECK(&rig->scene, ++waits < PATIENCE_S * 1000, "still picking");
        pause_us(1000);
    }
    for (uint32_t i = 0; i < MEMORY_IDLERS; i++)
        peer_close(idlers[i]);
    (void)pthread_barrier_destroy(&ready);
    sums = rig_stop(rig);
    CHECK(&rig->scene, sums.memory_closed >= MEMORY_CLOSED && sums.memory_closed <= MEMORY_IDLERS,
          "%" PRIu64 " closed because of max_memory", sums.memory_closed);
}

/* ---- the program ---- */

static const struct {
    const char *name;
    void (*run)(struct rig *rig);
    uint32_t
        move_turns; /* connections move meanwhile; 0 where the case needs them in their place */
} cases[] = {
    {"order", run_order, 0},       {"order_moves", run_order, 2},
    {"request", run_request, 0},   {"request_moves", run_request, 2},
    {"fence", run_fence, 0},       {"fence_moves", run_fence, 1},
    {"handover", run_handover, 0}, {"quiet", run_quiet, 0},
    {"pressure", run_pressure, 0}, {"pressure_moves", run_pressure, 2},
    {"churn", run_churn, 0},       {"churn_moves", run_churn, 1},
    {"memory", run_memory, 0},
};

static void run_case(uint32_t index, uint64_t seed, enum midge_ring_kind kind)
{
    struct rig *rig = calloc(1, sizeof(*rig));

    if (rig == NULL)
        exit(1);
    rig->scene = (struct scene){
        .name = cases[index].name,
        .kind = kind == MIDGE_RING_KIND_EPOLL ? "epoll" : "auto",
        .seed = seed,
    };
    rig->kind = kind;
    midge_config_init(&rig->config);
    rig->config.move_turns = cases[index].move_turns;
    cases[index].run(rig);
    (void)printf("%s %" PRIu64 " %s: passed\n", rig->scene.name, seed, rig->scene.kind);
    (void)fflush(stdout);
    free(rig);
}

int main(int argc, char **argv)
{
    const char *name = argc > 1 ? argv[1] : "all";
    const char *kind = argc > 3 ? argv[3] : "";
    const uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 10) : (uint64_t)time(NULL);
    bool known = false;

    (void)alarm(ALARM_S);
    for (uint32_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        if (strcmp(name, "all") != 0 && strcmp(name, cases[i].name) != 0)
            continue;
        known = true;
        if (strcmp(kind, "epoll") != 0)
            run_case(i, seed, MIDGE_RING_KIND_AUTO);
        if (strcmp(kind, "auto") != 0)
            run_case(i, seed, MIDGE_RING_KIND_EPOLL);
    }
    if (!known)
        (void)fprintf(stderr, "stress_shards: no case `%s`\n", name);
    return known ? 0 : 1;
}
