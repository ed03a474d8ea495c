/* Nkeys. See midge/nkey.h. */
#include "midge/nkey.h"

#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>

/* The kinds in the first five bits of a key. Source: nkeys strkey.go. */
#define PREFIX_SEED (18u << 3) /* S */
#define PREFIX_USER (20u << 3) /* U */

#define CRC_LEN      2u
#define SEED_RAW_LEN (2u + MIDGE_NKEY_LEN + CRC_LEN)
#define KEY_RAW_LEN  (1u + MIDGE_NKEY_LEN + CRC_LEN)
#define RAW_LEN_MAX  SEED_RAW_LEN

/* --- texts --- */

static const char base32_digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
static const char base64_digits[] =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/* CRC-16/XMODEM: polynomial 0x1021, from 0. */
static uint16_t checksum(const uint8_t *bytes, uint32_t len)
{
    uint16_t crc = 0;

    for (uint32_t i = 0; i < len; i++) {
        crc = (uint16_t)(crc ^ (uint16_t)(bytes[i] << 8));
        for (uint32_t bit = 0; bit < 8; bit++)
            crc = (uint16_t)((crc & 0x8000) != 0 ? (crc << 1) ^ 0x1021 : crc << 1);
    }
    return crc;
}

static uint32_t base32_value(uint8_t byte)
{
    if (byte >= 'A' && byte <= 'Z')
        return byte - (uint32_t)'A';
    return byte >= '2' && byte <= '7' ? byte - (uint32_t)'2' + 26 : 32;
}

/* Decode exactly `len` bytes. */
static bool base32_decode(struct midge_slice text, uint8_t *out, uint32_t len)
{
    uint32_t bits = 0;
    uint32_t bit_count = 0;
    uint32_t done = 0;

    if (text.len != (8 * len + 4) / 5)
        return false;
    for (uint32_t i = 0; i < text.len; i++) {
        const uint32_t value = base32_value(text.base[i]);
        if (value > 31)
            return false;
        bits = bits << 5 | value;
        bit_count += 5;
        if (bit_count >= 8) {
            bit_count -= 8;
            out[done++] = (uint8_t)(bits >> bit_count);
        }
    }
    /* What is left over must be 0, or two texts would mean the same key. */
    return done == len && (bits & ((1u << bit_count) - 1)) == 0;
}

static void base32_encode(const uint8_t *bytes, uint32_t len, char *out)
{
    uint32_t bits = 0;
    uint32_t bit_count = 0;

    for (uint32_t i = 0; i < len; i++) {
        bits = bits << 8 | bytes[i];
        bit_count += 8;
        while (bit_count >= 5) {
            bit_count -= 5;
            *out++ = base32_digits[(bits >> bit_count) & 31];
        }
    }
    if (bit_count > 0)
        *out++ = base32_digits[(bits << (5 - bit_count)) & 31];
    *out = '\0';
}

static void base64_encode(const uint8_t *bytes, uint32_t len, char *out)
{
    uint32_t bits = 0;
    uint32_t bit_count = 0;

    for (uint32_t i = 0; i < len; i++) {
        bits = bits << 8 | bytes[i];
        bit_count += 8;
        while (bit_count >= 6) {
            bit_count -= 6;
            *out++ = base64_digits[(bits >> bit_count) & 63];
        }
    }
    if (bit_count > 0)
        *out++ = base64_digits[(bits << (6 - bit_count)) & 63];
    *out = '\0';
}

static uint32_t base64_value(uint8_t byte)
{
    if (byte == '+')
        byte = '-';
    else if (byte == '/')
        byte = '_';
    for (uint32_t i = 0; i < 64; i++) {
        if ((uint8_t)base64_digits[i] == byte)
            return i;
    }
    return 64;
}

static bool base64_decode(struct midge_slice text, uint8_t *out, uint32_t len)
{
    uint32_t bits = 0;
    uint32_t bit_count = 0;
    uint32_t done = 0;

    while (text.len > 0 && text.base[text.len - 1] == '=')
        text.len--;
    if (text.len != (8 * len + 5) / 6)
        return false;
    for (uint32_t i = 0; i < text.len; i++) {
        const uint32_t value = base64_value(text.base[i]);
        if (value > 63)
            return false;
        bits = bits << 6 | value;
        bit_count += 6;
        if (bit_count >= 8) {
            bit_count -= 8;
            out[done++] = (uint8_t)(bits >> bit_count);
        }
    }
    /* As in base32. */
    return done == len && (bits & ((1u << bit_count) - 1)) == 0;
}

/* Decode a key of `len` bytes and its checksum. */
static bool decode_key(struct midge_slice text, uint8_t *out, uint32_t len)
{
    if (!base32_decode(text, out, len))
        return false;
    len -= CRC_LEN;
    return checksum(out, len) == (uint16_t)(out[len] | out[len + 1] << 8);
}

/* --- keys --- */

static enum midge_status derive_public(struct midge_nkey *nkey)
{
    size_t len = MIDGE_NKEY_LEN;
    EVP_PKEY *key =
        EVP_PKEY_new_raw_private_key(EVP_PKEY_ED25519, NULL, nkey->secret, MIDGE_NKEY_LEN);
    const bool is_done = key != NULL && EVP_PKEY_get_raw_public_key(key, nkey->public_key, &len);

    EVP_PKEY_free(key);
    ERR_clear_error();
    return is_done ? MIDGE_OK : MIDGE_E_MEMORY;
}

enum midge_status midge_nkey_init(struct midge_nkey *nkey, struct midge_slice seed)
{
    uint8_t raw[RAW_LEN_MAX];
    enum midge_status status = MIDGE_E_CONFIG;

    /* The kind's five bits lie across the first two bytes. */
    if (decode_key(seed, raw, SEED_RAW_LEN) && (raw[0] & 0xf8) == PREFIX_SEED &&
        ((raw[0] & 0x07) << 5 | (raw[1] & 0xf8) >> 3) == PREFIX_USER) {
        memcpy(nkey->secret, raw + 2, MIDGE_NKEY_LEN);
        status = derive_public(nkey);
        if (status != MIDGE_OK)
            midge_nkey_deinit(nkey);
    }
    OPENSSL_cleanse(raw, sizeof(raw));
    return status;
}

void midge_nkey_deinit(struct midge_nkey *nkey)
{
    OPENSSL_cleanse(nkey, sizeof(*nkey));
}

void midge_nkey_public(const struct midge_nkey *nkey, char out[MIDGE_NKEY_TEXT_CAP])
{
    uint8_t raw[KEY_RAW_LEN];
    uint16_t crc;

    raw[0] = PREFIX_USER;
    memcpy(raw + 1, nkey->public_key, MIDGE_NKEY_LEN);
    crc = checksum(raw, 1 + MIDGE_NKEY_LEN);
    raw[1 + MIDGE_NKEY_LEN] = (uint8_t)crc;
    raw[2 + MIDGE_NKEY_LEN] = (uint8_t)(crc >> 8);
    base32_encode(raw, KEY_RAW_LEN, out);
}

enum midge_status midge_nkey_sign(const struct midge_nkey *nkey, struct midge_slice nonce,
                                  char out[MIDGE_NKEY_SIGNATURE_CAP])
{
    uint8_t signature[MIDGE_NKEY_SIGNATURE_LEN];
    size_t len = sizeof(signature);
    EVP_PKEY *key =
        EVP_PKEY_new_raw_private_key(EVP_PKEY_ED25519, NULL, nkey->secret, MIDGE_NKEY_LEN);
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    const bool is_done = key != NULL && context != NULL &&
                         EVP_DigestSignInit(context, NULL, NULL, NULL, key) == 1 &&
                         EVP_DigestSign(context, signature, &len, nonce.base, nonce.len) == 1;

    EVP_MD_CTX_free(context);
    EVP_PKEY_free(key);
    ERR_clear_error();
    if (!is_done)
        return MIDGE_E_MEMORY;
    base64_encode(signature, MIDGE_NKEY_SIGNATURE_LEN, out);
    return MIDGE_OK;
}

bool midge_nkey_verify(struct midge_slice public_text, struct midge_slice nonce,
                       struct midge_slice signature_text)
{
    uint8_t raw[KEY_RAW_LEN];
    uint8_t signature[MIDGE_NKEY_SIGNATURE_LEN];
    EVP_PKEY *key;
    EVP_MD_CTX *context;
    bool is_valid;

    if (!decode_key(public_text, raw, KEY_RAW_LEN) || raw[0] != PREFIX_USER ||
        !base64_decode(signature_text, signature, sizeof(signature)))
        return false;
    key = EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, NULL, raw + 1, MIDGE_NKEY_LEN);
    context = EVP_MD_CTX_new();
    is_valid = key != NULL && context != NULL &&
               EVP_DigestVerifyInit(context, NULL, NULL, NULL, key) == 1 &&
               EVP_DigestVerify(context, signature, sizeof(signature), nonce.base, nonce.len) == 1;
    EVP_MD_CTX_free(context);
    EVP_PKEY_free(key);
    ERR_clear_error();
    return is_valid;
}
