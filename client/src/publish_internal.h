/*
 * How a message is queued, for publish and request alike: measure, put, end.
 *
 * Thread: as client_internal.h; between midge_loop_enter() and leave().
 */
#ifndef MIDGE_PUBLISH_INTERNAL_H
#define MIDGE_PUBLISH_INTERNAL_H

#include "client_internal.h"

/* A message to queue. All borrowed. */
struct midge_frame_out {
    struct midge_slice subject;
    struct midge_slice reply;
    bool is_reply_checked; /* check it, too: it is the user's */
    bool is_request;       /* its reply will be the client's inbox */
    uint32_t header_len;
    const struct midge_headers *headers;
    const void *payload;
    size_t payload_len;
};

/* Check everything and wait for room, if need be and allowed. @return as midge_client_publish() */
MIDGE_MUST_CHECK enum midge_status midge_publish_measure(struct midge_client *client,
                                                         struct midge_frame_out *frame);
/* Write it. @return MIDGE_OK or E_MEMORY */
MIDGE_MUST_CHECK enum midge_status midge_publish_put(struct midge_client *client,
                                                     const struct midge_frame_out *frame);
/* Hand it over, if it is time. */
void midge_publish_end(struct midge_client *client);

#endif
