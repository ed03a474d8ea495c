/*
 * Writes the frames that the broker sends, into room that the caller has measured.
 *
 * Every length function is exact, so that the caller can reserve before it takes a lock.
 *
 * Thread: any (lock-free); pure functions.
 * Source: nats-server v2.15.2, server/client.go msgHeader, sendErr; docs.nats.io client protocol.
 */
#ifndef MIDGE_ENCODE_H
#define MIDGE_ENCODE_H

#include "midge/compiler.h"
#include "midge/slice.h"

/* One delivery as the subscriber shall see it. All borrowed. */
struct midge_frame {
    struct midge_slice subject;
    struct midge_slice sid;
    struct midge_slice reply;       /* len 0 = none */
    struct midge_slice header_text; /* digits of the header size; len 0 = MSG instead of HMSG */
    struct midge_slice size_text;   /* digits of the total size */
};

/** Bytes of the control line of the frame, CRLF included. */
uint32_t midge_encode_frame_len(const struct midge_frame *frame);

/** Write `MSG …CRLF` or `HMSG …CRLF`; exactly midge_encode_frame_len() bytes. Returns the end. */
uint8_t *midge_encode_frame(uint8_t *out, const struct midge_frame *frame);

/* Room for a 32-bit number in decimal. */
#define MIDGE_DECIMAL_LEN_MAX 10u

/** Write a number in decimal, no leading zeros. Returns the digits written, 1..10. */
uint32_t midge_encode_decimal(uint8_t out[MIDGE_DECIMAL_LEN_MAX], uint32_t number);

/** Bytes of the 503 frame for a request on `subject`. */
uint32_t midge_encode_no_responders_len(struct midge_slice reply, struct midge_slice sid,
                                        struct midge_slice subject);

/** Write `HMSG <reply> <sid> N N` with NATS/1.0 503 and Nats-Subject. Returns the end. */
uint8_t *midge_encode_no_responders(uint8_t *out, struct midge_slice reply, struct midge_slice sid,
                                    struct midge_slice subject);

#endif
