/*
 * The relay over io_uring: multishot recv, and sends in the io_uring_enter that waits; see floor.h.
 *
 * Bytes are copied from the provided buffer into one outbox per side, as a broker must do that
 * rewrites PUB to MSG, and so that each side has at most one send in flight. A send is submitted
 * with CQE_SKIP_SUCCESS: the kernel tries it inline, and a CQE appears only if it failed or was
 * short. That holds only together with MSG_WAITALL and MSG_DONTWAIT; with any other flags the tail
 * of a short send is lost without a word (seen on Linux 6.18).
 */
#include "relay.h"

#include <errno.h>
#include <liburing.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>

#define RING_ENTRIES   64u
#define BUFFER_COUNT   64u /* a power of two */
#define BUFFER_GROUP   1
#define SEND_DATA_FLAG 16u /* user_data of a send; the side is added */

/* This engine relays between two. */
#define PAIR 2u

/* Bytes of one read. A request of the latency runs fits many times over. The buffers are used in
 * turn: if they were larger, they would meet in fewer cache sets. */
#define READ_LEN_DEFAULT 4096u

struct outbox {
    uint8_t *bytes; /* own; lent to the kernel while send_submitted */
    uint32_t len;
    bool send_submitted; /* set with the SQE, cleared when the CQ of that enter is drained */
};

struct relay {
    struct io_uring ring;
    struct io_uring_buf_ring *buffer_ring; /* own; mapped */
    uint8_t *buffers;                      /* own; lent to the kernel buffer by buffer */
    struct midge_floor *floor;             /* borrowed */
    uint32_t read_len;
    struct outbox outbox[PAIR]; /* what goes to that side; room for all buffers in one turn */
    bool recv_armed[PAIR];
};

static void give_buffer(struct relay *relay, uint32_t buffer_index)
{
    io_uring_buf_ring_add(relay->buffer_ring,
                          relay->buffers + (size_t)buffer_index * relay->read_len, relay->read_len,
                          (unsigned short)buffer_index, io_uring_buf_ring_mask(BUFFER_COUNT), 0);
    io_uring_buf_ring_advance(relay->buffer_ring, 1);
}

/* The ring has room: at most two recv and two send SQEs in a turn. */
static struct io_uring_sqe *get_sqe(struct relay *relay)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&relay->ring);

    MIDGE_ASSERT(sqe != NULL);
    return sqe;
}

static void queue_recv(struct relay *relay, uint32_t side)
{
    struct io_uring_sqe *sqe = get_sqe(relay);

    MIDGE_ASSERT(!relay->recv_armed[side]);
    io_uring_prep_recv_multishot(sqe, relay->floor->fd[side], NULL, 0, 0);
    sqe->flags |= IOSQE_BUFFER_SELECT;
    sqe->buf_group = BUFFER_GROUP;
    io_uring_sqe_set_data64(sqe, side);
    relay->recv_armed[side] = true;
}

static void queue_send(struct relay *relay, uint32_t side)
{
    struct outbox *outbox = &relay->outbox[side];
    struct io_uring_sqe *sqe = get_sqe(relay);

    MIDGE_ASSERT(!outbox->send_submitted);
    io_uring_prep_send(sqe, relay->floor->fd[side], outbox->bytes, outbox->len,
                       MSG_NOSIGNAL | MSG_WAITALL | MSG_DONTWAIT);
    sqe->flags |= IOSQE_CQE_SKIP_SUCCESS;
    io_uring_sqe_set_data64(sqe, SEND_DATA_FLAG | side);
    outbox->send_submitted = true;
}

/* A send that failed or was short: the rest goes out before anything else is queued for that side.
 */
static enum midge_status settle_send(struct relay *relay, const struct io_uring_cqe *cqe)
{
    const uint32_t side = (uint32_t)cqe->user_data & ~SEND_DATA_FLAG;
    struct outbox *outbox = &relay->outbox[side];
    const uint32_t sent = cqe->res > 0 ? (uint32_t)cqe->res : 0;

    MIDGE_ASSERT(outbox->send_submitted);
    MIDGE_ASSERT(sent <= outbox->len);
    if (cqe->res == -EPIPE || cqe->res == -ECONNRESET)
        return MIDGE_E_EOF;
    if (cqe->res < 0 && cqe->res != -EAGAIN) {
        errno = -cqe->res;
        return MIDGE_E_SYSTEM;
    }
    return midge_floor_send(relay->floor->fd[side], outbox->bytes + sent, outbox->len - sent);
}

static enum midge_status take_recv(struct relay *relay, const struct io_uring_cqe *cqe)
{
    const uint32_t side = (uint32_t)cqe->user_data;
    struct outbox *outbox = &relay->outbox[1 - side];

    if ((cqe->flags & IORING_CQE_F_MORE) == 0)
        relay->recv_armed[side] = false;
    if (cqe->res == -ENOBUFS || cqe->res == -EAGAIN || cqe->res == -EINTR)
        return MIDGE_OK;
    if (cqe->res == 0 || cqe->res == -ECONNRESET)
        return MIDGE_E_EOF;
    if (cqe->res < 0) {
        errno = -cqe->res;
        return MIDGE_E_SYSTEM;
    }
    const uint32_t buffer_index = cqe->flags >> IORING_CQE_BUFFER_SHIFT;
    const uint32_t len = (uint32_t)cqe->res;

    MIDGE_ASSERT(outbox->len + len <= BUFFER_COUNT * relay->read_len);
    if (side == FLOOR_FIRST)
        midge_floor_delay(relay->floor);
    memcpy(outbox->bytes + outbox->len, relay->buffers + (size_t)buffer_index * relay->read_len,
           len);
    outbox->len += len;
    give_buffer(relay, buffer_index);
    return MIDGE_OK;
}

/* Sends are settled before new bytes are taken, so that no byte overtakes the rest of a short send.
 */
static enum midge_status drain(struct relay *relay)
{
    struct io_uring_cqe *cqe = NULL;
    enum midge_status status = MIDGE_OK;
    unsigned head = 0;
    unsigned count = 0;

    io_uring_for_each_cqe(&relay->ring, head, cqe)
    {
        if (status == MIDGE_OK && (cqe->user_data & SEND_DATA_FLAG) != 0)
            status = settle_send(relay, cqe);
        count++;
    }
    for (uint32_t i = 0; i < PAIR; i++) {
        if (relay->outbox[i].send_submitted)
            relay->outbox[i].len = 0;
        relay->outbox[i].send_submitted = false;
    }
    /* The count bounds the second pass: what arrives meanwhile was not looked through for sends. */
    for (unsigned i = 0; i < count && status == MIDGE_OK; i++) {
        cqe = &relay->ring.cq.cqes[(*relay->ring.cq.khead + i) & *relay->ring.cq.kring_mask];
        if ((cqe->user_data & SEND_DATA_FLAG) == 0)
            status = take_recv(relay, cqe);
    }
    io_uring_cq_advance(&relay->ring, count);
    return status;
}

static void queue_all(struct relay *relay)
{
    for (uint32_t i = 0; i < PAIR; i++) {
        if (!relay->recv_armed[i])
            queue_recv(relay, i);
        if (relay->outbox[i].len > 0)
            queue_send(relay, i);
    }
}

static enum midge_status run(struct relay *relay)
{
    enum midge_status status = MIDGE_OK;

    while (status == MIDGE_OK) {
        int res = 0;

        queue_all(relay);
        /* Interrupted before anything was submitted: the outboxes stay lent, so submit once more.
         */
        do {
            res = io_uring_submit_and_wait(&relay->ring, 1);
        } while (res == -EINTR && io_uring_sq_ready(&relay->ring) > 0);
        if (res < 0 && res != -EINTR) {
            errno = -res;
            return MIDGE_E_SYSTEM;
        }
        if (res >= 0)
            midge_floor_stall(relay->floor);
        status = drain(relay);
    }
    return status;
}

/* A peer closed: what was taken in the same turn still goes out. */
static enum midge_status flush(struct relay *relay)
{
    enum midge_status worst = MIDGE_OK;

    for (uint32_t i = 0; i < PAIR; i++) {
        const struct outbox *outbox = &relay->outbox[i];
        const enum midge_status status =
            midge_floor_send(relay->floor->fd[i], outbox->bytes, outbox->len);

        if (status != MIDGE_OK && status != MIDGE_E_EOF)
            worst = status;
    }
    return worst;
}

static enum midge_status map_memory(struct relay *relay)
{
    struct io_uring_buf_reg registration = {.ring_entries = BUFFER_COUNT, .bgid = BUFFER_GROUP};
    const size_t ring_len = BUFFER_COUNT * sizeof(struct io_uring_buf);
    void *mapped = mmap(NULL, ring_len, PROT_READ | PROT_WRITE, MAP_ANONYMOUS | MAP_PRIVATE, -1, 0);

    if (mapped == MAP_FAILED)
        return MIDGE_E_SYSTEM;
    relay->buffer_ring = (struct io_uring_buf_ring *)mapped;
    relay->buffers = (uint8_t *)malloc((size_t)BUFFER_COUNT * relay->read_len);
    relay->outbox[0].bytes = (uint8_t *)malloc((size_t)BUFFER_COUNT * relay->read_len);
    relay->outbox[1].bytes = (uint8_t *)malloc((size_t)BUFFER_COUNT * relay->read_len);
    if (relay->buffers == NULL || relay->outbox[0].bytes == NULL || relay->outbox[1].bytes == NULL)
        return MIDGE_E_MEMORY;
    registration.ring_addr = (uint64_t)(uintptr_t)relay->buffer_ring;
    const int res = io_uring_register_buf_ring(&relay->ring, &registration, 0);

    if (res < 0) {
        errno = -res;
        return MIDGE_E_SYSTEM;
    }
    io_uring_buf_ring_init(relay->buffer_ring);
    for (uint32_t i = 0; i < BUFFER_COUNT; i++)
        give_buffer(relay, i);
    return MIDGE_OK;
}

static void unmap_memory(struct relay *relay)
{
    free(relay->outbox[1].bytes);
    free(relay->outbox[0].bytes);
    free(relay->buffers);
    if (relay->buffer_ring != NULL)
        (void)munmap(relay->buffer_ring, BUFFER_COUNT * sizeof(struct io_uring_buf));
}

enum midge_status midge_floor_run_uring(struct midge_floor *floor)
{
    struct relay relay = {
        .floor = floor,
        .read_len = floor->read_len == 0 ? READ_LEN_DEFAULT : floor->read_len,
    };
    const int res = io_uring_queue_init(RING_ENTRIES, &relay.ring,
                                        IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
                                            IORING_SETUP_SUBMIT_ALL | IORING_SETUP_CLAMP);

    if (res < 0) {
        errno = -res;
        return MIDGE_E_SYSTEM;
    }
    (void)io_uring_register_ring_fd(&relay.ring); /* saves 30 ns a call; works without */
    enum midge_status status = map_memory(&relay);

    if (status == MIDGE_OK)
        status = run(&relay);
    if (status == MIDGE_E_EOF)
        status = flush(&relay);
    const int error = errno;

    io_uring_queue_exit(&relay.ring);
    unmap_memory(&relay);
    errno = error;
    return status;
}
