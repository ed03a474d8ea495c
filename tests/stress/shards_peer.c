/* Clients on blocking sockets; see shards_peer.h. */
#include "shards_peer.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

void midge_peer_write(struct midge_peer *peer, const void *bytes, size_t len)
{
    const uint8_t *at = bytes;

    while (len > 0) {
        const ssize_t sent = send(peer->fd, at, len, MSG_NOSIGNAL);

        CHECK(peer->scene, sent > 0, "a client cannot write: %s", strerror(errno));
        at += sent;
        len -= (size_t)sent;
    }
}

void midge_peer_text(struct midge_peer *peer, const char *text)
{
    midge_peer_write(peer, text, strlen(text));
}

struct midge_peer *midge_peer_connect(struct midge_rig *rig, uint32_t shard, int receive_len)
{
    const struct timeval patience = {.tv_sec = MIDGE_PATIENCE_S};
    struct sockaddr_in address = {.sin_family = AF_INET};
    struct midge_peer *peer = malloc(sizeof(*peer));
    const int yes = 1;

    CHECK(&rig->scene, peer != NULL, "no memory");
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons(rig->shards[shard].port);
    peer->scene = &rig->scene;
    peer->role = receive_len > 0 ? "slow client" : "client";
    peer->answers_no_ping = false;
    peer->may_run_dry = false;
    peer->is_reset = false;
    peer->is_torn = false;
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

void midge_peer_close(struct midge_peer *peer)
{
    (void)close(peer->fd);
    free(peer);
}

/* Receive more behind what is there. @return false at the end of the stream */
static bool peer_fill(struct midge_peer *peer)
{
    ssize_t got;

    if (peer->off > 0) {
        memmove(peer->bytes, peer->bytes + peer->off, peer->len - peer->off);
        peer->len -= peer->off;
        peer->off = 0;
    }
    CHECK(peer->scene, peer->len < MIDGE_PEER_CAP, "a frame is too long");
    got = recv(peer->fd, peer->bytes + peer->len, MIDGE_PEER_CAP - peer->len, 0);
    CHECK(peer->scene, got >= 0 || errno == ECONNRESET,
          "a %s waits in vain behind %" PRIu32 " bytes: %s", peer->role, peer->len,
          strerror(errno));
    if (got <= 0) {
        peer->is_reset = got < 0;
        return false;
    }
    peer->len += (uint32_t)got;
    return true;
}

/* Split the control line behind MSG or HMSG; false if it is none. */
static bool parse_msg_line(struct midge_peer_frame *frame, const char *line, bool headers)
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
static bool peer_line(struct midge_peer *peer, char line[256])
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

static bool peer_body(struct midge_peer *peer, struct midge_peer_frame *frame)
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

/* Between two frames, and no byte of the next one is there. */
static bool is_dry(const struct midge_peer *peer)
{
    struct pollfd ready = {.fd = peer->fd, .events = POLLIN};

    return peer->off == peer->len && poll(&ready, 1, 0) == 0;
}

enum midge_peer_frame_kind midge_peer_next(struct midge_peer *peer, struct midge_peer_frame *frame)
{
    char line[256];

    frame->kind = FRAME_END;
    for (;;) {
        if (peer->may_run_dry && is_dry(peer))
            return frame->kind = FRAME_NONE;
        if (!peer_line(peer, line))
            break;

        const bool headers = strncmp(line, "HMSG ", 5) == 0;

        if (headers || strncmp(line, "MSG ", 4) == 0) {
            CHECK(peer->scene, parse_msg_line(frame, line + (headers ? 5 : 4), headers),
                  "bad line `%s`", line);
            if (peer_body(peer, frame))
                return frame->kind = FRAME_MSG;
            peer->is_torn = true;
            return FRAME_END;
        }
        if (strcmp(line, "PONG") == 0)
            return frame->kind = FRAME_PONG;
        if (strncmp(line, "-ERR ", 5) == 0)
            return frame->kind = FRAME_ERR;
        if (strcmp(line, "PING") != 0 && strcmp(line, "+OK") != 0)
            CHECK(peer->scene, strncmp(line, "INFO ", 5) == 0, "strange line `%s`", line);
        else if (line[0] == 'P' && !peer->answers_no_ping)
            midge_peer_text(peer, "PONG\r\n");
    }
    peer->is_torn = peer->off < peer->len;
    return FRAME_END;
}

void midge_peer_answer_pings(struct midge_peer *peer)
{
    struct midge_peer_frame frame;

    peer->may_run_dry = true;
    CHECK(peer->scene, midge_peer_next(peer, &frame) == FRAME_NONE, "frame %d for a publisher",
          (int)frame.kind);
    peer->may_run_dry = false;
}

uint32_t midge_peer_fence(struct midge_peer *peer)
{
    struct midge_peer_frame frame;
    uint32_t count = 0;

    midge_peer_text(peer, "PING\r\n");
    while (midge_peer_next(peer, &frame) == FRAME_MSG)
        count++;
    CHECK(peer->scene, frame.kind == FRAME_PONG, "no PONG but frame %d", (int)frame.kind);
    return count;
}

struct midge_peer *midge_peer_join(struct midge_rig *rig, uint32_t shard, const char *text)
{
    struct midge_peer *peer = midge_peer_connect(rig, shard, 0);

    midge_peer_text(peer, "CONNECT {\"verbose\":false,\"pedantic\":false,\"headers\":true,"
                          "\"no_responders\":true,\"protocol\":1}\r\n");
    midge_peer_text(peer, text);
    (void)midge_peer_fence(peer);
    return peer;
}

void midge_peer_expect_msg(struct midge_peer *peer, struct midge_peer_frame *frame)
{
    CHECK(peer->scene, midge_peer_next(peer, frame) == FRAME_MSG, "frame %d instead of a message",
          (int)frame->kind);
}

/* ---- stamped messages ---- */

static uint8_t fill_of(uint32_t publisher, uint32_t number)
{
    return (uint8_t)('a' + (publisher * 7 + number) % 26);
}

uint32_t midge_writing_pick_len(uint64_t *random)
{
    const uint32_t kind = midge_random_below(random, 100);

    if (kind < 80)
        return MIDGE_STAMP_LEN + midge_random_below(random, 300);
    if (kind < 92)
        return MIDGE_STAMP_LEN + midge_random_below(random, 4000);
    if (kind < 97)
        return 8000 + midge_random_below(random, 400);
    return 8000 + midge_random_below(random, MIDGE_RIG_PAYLOAD_MAX - 8000);
}

struct midge_writing *midge_writing_create(const struct midge_scene *scene)
{
    struct midge_writing *writing = malloc(sizeof(*writing));

    CHECK(scene, writing != NULL, "no memory");
    writing->len = 0;
    return writing;
}

bool midge_writing_add(struct midge_writing *writing, const char *subject, uint32_t publisher,
                       uint32_t number, uint32_t len)
{
    char *at = writing->bytes + writing->len;
    int line_len;

    if (sizeof(writing->bytes) - writing->len < len + 128)
        return false;
    line_len = snprintf(at, 128, "PUB %s %" PRIu32 "\r\n%03" PRIu32 " %07" PRIu32 " ", subject, len,
                        publisher, number);
    memset(at + line_len, fill_of(publisher, number), len - MIDGE_STAMP_LEN);
    at += (uint32_t)line_len + len - MIDGE_STAMP_LEN;
    memcpy(at, "\r\n", 2);
    writing->len = (uint32_t)(at + 2 - writing->bytes);
    return true;
}

void midge_writing_send(struct midge_peer *peer, struct midge_writing *writing, uint64_t *random)
{
    uint32_t off = 0;

    while (off < writing->len) {
        const uint32_t left = writing->len - off;
        uint32_t piece = left;

        if (midge_random_below(random, 2) == 0)
            piece = 1 + midge_random_below(random, left);
        midge_peer_write(peer, writing->bytes + off, piece);
        off += piece;
        if (piece < left && midge_random_below(random, 4) == 0)
            (void)sched_yield();
    }
    writing->len = 0;
}

uint32_t midge_peer_check_stamp(const struct midge_scene *scene,
                                const struct midge_peer_frame *frame, uint32_t publisher_count,
                                uint32_t *number_out)
{
    const uint8_t *fill = frame->body + MIDGE_STAMP_LEN;
    const uint32_t fill_len = frame->body_len - MIDGE_STAMP_LEN;
    uint32_t publisher;
    uint32_t number;

    CHECK(scene,
          frame->body_len >= MIDGE_STAMP_LEN && frame->body[3] == ' ' && frame->body[11] == ' ',
          "a message without stamp");
    publisher = (uint32_t)strtoul((const char *)frame->body, NULL, 10);
    number = (uint32_t)strtoul((const char *)frame->body + 4, NULL, 10);
    CHECK(scene, publisher < publisher_count, "publisher %" PRIu32, publisher);
    if (fill_len > 0)
        CHECK(scene,
              fill[0] == fill_of(publisher, number) && memcmp(fill, fill + 1, fill_len - 1) == 0,
              "message %" PRIu32 " of publisher %" PRIu32 " is garbled", number, publisher);
    *number_out = number;
    return publisher;
}

uint32_t midge_peer_check_stamped(const struct midge_scene *scene,
                                  const struct midge_peer_frame *frame, uint32_t *next,
                                  uint32_t publisher_count)
{
    uint32_t number;
    const uint32_t publisher = midge_peer_check_stamp(scene, frame, publisher_count, &number);

    CHECK(scene, number == next[publisher],
          "message %" PRIu32 " instead of %" PRIu32 " of publisher %" PRIu32, number,
          next[publisher], publisher);
    next[publisher]++;
    return publisher;
}

/* ---- pace ---- */

void midge_pace_note(struct midge_pace *pace, uint32_t reader, uint32_t publisher, uint32_t number)
{
    atomic_store_explicit(&pace->got[reader][publisher], number, memory_order_relaxed);
}

void midge_pace_wait(struct midge_pace *pace, const struct midge_scene *scene, uint32_t publisher,
                     uint32_t number)
{
    for (uint32_t i = 0; i < pace->reader_count; i++) {
        uint32_t waits = 0;

        while (atomic_load_explicit(&pace->got[i][publisher], memory_order_relaxed) +
                   pace->window <=
               number) {
            CHECK(scene, ++waits < MIDGE_PATIENCE_S * 10000, "reader %" PRIu32 " stands", i);
            midge_pause_us(50);
        }
    }
}

/* ---- actors: one thread each ---- */

void midge_actors_start(struct midge_rig *rig, struct midge_actor *actors, uint32_t count,
                        void *state, void *(*main_cb)(void *argument))
{
    CHECK(&rig->scene, count <= MIDGE_ACTORS_MAX, "too many actors");
    for (uint32_t i = 0; i < count; i++) {
        actors[i] = (struct midge_actor){
            .rig = rig, .index = i, .shard = i % MIDGE_RIG_SHARDS, .state = state};
        actors[i].random = (rig->scene.seed + 1) * 0x9e3779b97f4a7c15ull + i * 0x1000193ull + 1;
        CHECK(&rig->scene, pthread_create(&actors[i].thread, NULL, main_cb, &actors[i]) == 0,
              "no thread");
    }
}

void midge_actors_join(struct midge_actor *actors, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        (void)pthread_join(actors[i].thread, NULL);
}
