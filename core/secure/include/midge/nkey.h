/*
 * Nkeys: Ed25519 keys of NATS in base32, whose first letters say what they are for.
 *
 * A seed is S, a letter for the kind (U for a user), 32 secret bytes and a checksum; a public key
 * the letter, 32 bytes and a checksum. Who has a key signs the nonce of the server's INFO.
 *
 * Thread: any; a key belongs to its caller.
 * Memory: secrets are wiped when they are done with.
 * Source: nats-io/nkeys v0.4 (strkey.go, crc16.go); RFC 4648 (base32, base64url); RFC 8032.
 */
#ifndef MIDGE_NKEY_H
#define MIDGE_NKEY_H

#include "midge/compiler.h"
#include "midge/slice.h"
#include "midge/status.h"

#define MIDGE_NKEY_LEN           32u
#define MIDGE_NKEY_SIGNATURE_LEN 64u

/* Bytes of the texts with their NUL: 35 bytes in base32, 64 bytes in base64. */
#define MIDGE_NKEY_TEXT_CAP      57u
#define MIDGE_NKEY_SIGNATURE_CAP 87u

/* A user's key pair. */
struct midge_nkey {
    uint8_t secret[MIDGE_NKEY_LEN];
    uint8_t public_key[MIDGE_NKEY_LEN];
};

/** Read a user's seed, `SU…`. @return MIDGE_OK; E_CONFIG for anything else; E_MEMORY */
MIDGE_MUST_CHECK enum midge_status midge_nkey_init(struct midge_nkey *nkey,
                                                   struct midge_slice seed);

/** Wipe it. */
void midge_nkey_deinit(struct midge_nkey *nkey);

/** Write the public key as text, `U…`, with a NUL. */
void midge_nkey_public(const struct midge_nkey *nkey, char out[MIDGE_NKEY_TEXT_CAP]);

/** Sign, and write the signature in base64url without padding, with a NUL. @return MIDGE_OK or
 * E_MEMORY */
MIDGE_MUST_CHECK enum midge_status midge_nkey_sign(const struct midge_nkey *nkey,
                                                   struct midge_slice nonce,
                                                   char out[MIDGE_NKEY_SIGNATURE_CAP]);

/** True if the text is a user's public key, and the signature (base64url, with or without padding,
 * or base64) is one of the nonce by its owner. */
bool midge_nkey_verify(struct midge_slice public_text, struct midge_slice nonce,
                       struct midge_slice signature_text);

#endif
