/*
 * Writes the frames that broker and client send, into room that the caller has measured.
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

/* Room for a 64-bit number in decimal. */
#define MIDGE_DECIMAL64_LEN_MAX 20u

/** Write a number in decimal, no leading zeros. Returns the digits written, 1..20. */
uint32_t midge_encode_decimal64(uint8_t out[MIDGE_DECIMAL64_LEN_MAX], uint64_t number);

/** Bytes of the control line of a client's message, CRLF included. @param reply  len 0 = none
 * @param header_len  0 = PUB instead of HPUB. @param total_len  bytes of headers and payload */
uint32_t midge_encode_pub_len(struct midge_slice subject, struct midge_slice reply,
                              uint32_t header_len, uint32_t total_len);

/** Write `PUB …CRLF` or `HPUB …CRLF`; exactly midge_encode_pub_len() bytes. Returns the end. */
uint8_t *midge_encode_pub(uint8_t *out, struct midge_slice subject, struct midge_slice reply,
                          uint32_t header_len, uint32_t total_len);

/** Bytes of `SUB …CRLF`. @param queue  len 0 = none */
uint32_t midge_encode_sub_len(struct midge_slice subject, struct midge_slice queue, uint64_t sid);

/** Write it; returns the end. */
uint8_t *midge_encode_sub(uint8_t *out, struct midge_slice subject, struct midge_slice queue,
                          uint64_t sid);

/** Bytes of `UNSUB …CRLF`. @param max  messages after which it ends; 0 = now */
uint32_t midge_encode_unsub_len(uint64_t sid, uint64_t max);

/** Write it; returns the end. */
uint8_t *midge_encode_unsub(uint8_t *out, uint64_t sid, uint64_t max);

#endif
