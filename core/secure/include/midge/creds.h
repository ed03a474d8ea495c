/*
 * Credentials files of NATS (.creds): a JWT and the nkey seed that belongs to it, each between a
 * line of dashes with BEGIN and one with END. A seed may also stand alone on a line, without them.
 *
 * Thread: any (lock-free); pure functions.
 * Source: nats-io/jwt v2, creds_utils.go.
 */
#ifndef MIDGE_CREDS_H
#define MIDGE_CREDS_H

#include "midge/compiler.h"
#include "midge/slice.h"
#include "midge/status.h"

/* Bytes of a credentials file; a JWT has some thousands at most. */
#define MIDGE_CREDS_LEN_MAX 65536u

/**
 * Find JWT and seed in the text of a file.
 *
 * @param jwt_out   a view of the text; len 0 if there is none (a file with a seed alone)
 * @param seed_out  a view of the text
 * @return MIDGE_OK; E_CONFIG if there is no seed
 */
MIDGE_MUST_CHECK enum midge_status midge_creds_parse(struct midge_slice text,
                                                     struct midge_slice *jwt_out,
                                                     struct midge_slice *seed_out);

#endif
