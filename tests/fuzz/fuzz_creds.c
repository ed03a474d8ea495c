/*
 * Credentials files, and the keys in them: no crash, views of the text, and a key that signs what
 * it verifies.
 *
 * Input: the text of a file; the signature of its first bytes must be good, and any other bad.
 */
#include "midge/creds.h"
#include "midge/nkey.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool within(struct midge_slice part, const uint8_t *base, uint32_t len)
{
    return part.base >= base && part.base + part.len <= base + len;
}

/* A line of the text, without blanks at its ends. */
static void check_line(struct midge_slice line, const uint8_t *base, uint32_t len)
{
    MIDGE_ASSERT(line.len > 0 && within(line, base, len));
    MIDGE_ASSERT(memchr(line.base, '\n', line.len) == NULL);
    MIDGE_ASSERT(strchr(" \t\r", line.base[0]) == NULL || line.base[0] == '\0');
    MIDGE_ASSERT(strchr(" \t\r", line.base[line.len - 1]) == NULL ||
                 line.base[line.len - 1] == '\0');
}

static void check_key(const struct midge_nkey *nkey, struct midge_slice nonce)
{
    char public_key[MIDGE_NKEY_TEXT_CAP];
    char signature[MIDGE_NKEY_SIGNATURE_CAP];
    const struct midge_slice other = MIDGE_SLICE_LITERAL("no nonce of a server is this long, not "
                                                         "by far, and none has these words in it");

    midge_nkey_public(nkey, public_key);
    MIDGE_ASSERT(strlen(public_key) == MIDGE_NKEY_TEXT_CAP - 1 && public_key[0] == 'U');
    MIDGE_ASSERT(midge_nkey_sign(nkey, nonce, signature) == MIDGE_OK);
    MIDGE_ASSERT(strlen(signature) == MIDGE_NKEY_SIGNATURE_CAP - 1);
    MIDGE_ASSERT(
        midge_nkey_verify(midge_slice_text(public_key), nonce, midge_slice_text(signature)));
    MIDGE_ASSERT(
        !midge_nkey_verify(midge_slice_text(public_key), other, midge_slice_text(signature)));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint32_t len = (uint32_t)size;
    struct midge_slice jwt;
    struct midge_slice seed;
    struct midge_nkey nkey;

    if (size > MIDGE_CREDS_LEN_MAX)
        return 0;
    /* The text stands for every kind of key's, too. */
    MIDGE_ASSERT(!midge_nkey_verify(midge_slice_make(data, len), midge_slice_make(data, len),
                                    midge_slice_make(data, len)));
    if (midge_creds_parse(midge_slice_make(data, len), &jwt, &seed) != MIDGE_OK)
        return 0;
    check_line(seed, data, len);
    if (jwt.len > 0)
        check_line(jwt, data, len);
    if (midge_nkey_init(&nkey, seed) == MIDGE_OK) {
        MIDGE_ASSERT(seed.base[0] == 'S' && seed.base[1] == 'U');
        check_key(&nkey, midge_slice_make(data, len < 32 ? len : 32));
        midge_nkey_deinit(&nkey);
    }
    return 0;
}
