/*
 * One request, patched in place, and the process that answers requests.
 *
 * A request is `PUB svc <inbox>.<n> <size>` and a payload that begins with the number of the
 * request. Widths never change, so every request is as long as the next. The responder publishes
 * the same payload to the reply subject; what it finds in one read it answers in one send.
 *
 * Thread: shard (one process owns it).
 */
#ifndef MIDGE_REQUEST_H
#define MIDGE_REQUEST_H

#include <stdbool.h>
#include <stdint.h>

#include "midge/compiler.h"
#include "midge/status.h"
#include "wire.h"

/* As long as the inbox of the client libraries: "_INBOX.", 22 characters, a dot, and 8 for the
 * request. */
#define MIDGE_REQUEST_INBOX_LEN 30u

/* Connections that one process may have inboxes for. */
#define MIDGE_REQUEST_INBOXES_MAX 1000u

struct midge_request {
    uint8_t *frame; /* own; one PUB */
    uint32_t frame_len;
    uint32_t reply_len;
    uint32_t payload_len;
    uint8_t *reply;   /* borrow, in frame: the reply subject */
    uint8_t *payload; /* borrow, in frame */
};

/**
 * Make the frame of request 0.
 *
 * @param inbox_index  0..MIDGE_REQUEST_INBOXES_MAX - 1; each has reply subjects of its own
 * @param size         bytes of payload, MIDGE_WIRE_NUMBER_LEN..MIDGE_WIRE_PAYLOAD_MAX
 * @return MIDGE_OK; E_MEMORY
 */
MIDGE_MUST_CHECK enum midge_status midge_request_init(struct midge_request *request,
                                                      uint32_t inbox_index, uint32_t size);

/** Free the frame. Also on a zeroed struct. */
void midge_request_deinit(struct midge_request *request);

/** Write the number into payload and, unless `is_inbox_fixed`, reply subject. */
void midge_request_set_number(struct midge_request *request, uint64_t number, bool is_inbox_fixed);

/**
 * Compare a frame byte for byte with the reply that the request as it stands asks for.
 *
 * @param number  of the request, for the complaint
 * @return MIDGE_OK; E_PARSE: it is not the one; the reason is on standard error
 */
MIDGE_MUST_CHECK enum midge_status midge_request_check(const struct midge_request *request,
                                                       const struct midge_wire_frame *frame,
                                                       uint64_t number);

/** Subscribe to the replies of an inbox, whatever their number. As midge_wire_subscribe. */
MIDGE_MUST_CHECK enum midge_status midge_request_subscribe(struct midge_wire *wire,
                                                           uint32_t inbox_index);

/**
 * Answer requests until the connection ends.
 *
 * A quiet time is no error: the requester decides what is lost.
 *
 * @return E_EOF: the connection closed; E_MEMORY, E_PARSE, E_READ, E_WRITE
 */
MIDGE_MUST_CHECK enum midge_status midge_request_respond(struct midge_wire *wire);

/** Say on standard error what is wrong with a request. @return status */
enum midge_status midge_request_complain(enum midge_status status, const char *what,
                                         uint64_t number);

#endif
