/*
 * Nkeys. Method: seeds, public keys and signatures made with nats-io/nkeys v0.4.16 (FromRawSeed,
 * Sign) from secrets that are written beside them; the secrets of RFC 8032, section 7.1, are among
 * them. Every text is an allocation of exactly its length.
 */
#include "midge/nkey.h"

#include <criterion/criterion.h>
#include <stdlib.h>

#define L MIDGE_SLICE_LITERAL

/* Nonces that each key signs. */
static const char *const nonces[] = {"", "PXoWU7zWAMt75FY", "r"};

#define NONCE_COUNT (sizeof(nonces) / sizeof(nonces[0]))

struct vector {
    const char *secret; /* what it is */
    const char *seed;
    const char *public_key;
    const char *signatures[NONCE_COUNT];
};

static const struct vector vectors[] = {
    {"32 bytes of 0",
     "SUAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAEQ",
     "UA5WUJ54Z23KILLCUOUNAKTPBVZWKMQVO4O6EQ5GHLAERIMLLHNCTYM5",
     {"j4lbPK_iyVBgOdDipmOCVoAEZ0_o0jd4UJLkDWqvSD5PxgFocF8x8QFZYTjOIao1fA0yoGT0I9w-5Ko6v1P4Aw",
      "hzPuOFPcBzNl6h137pOqrtd9EzdrVOvOPDKiSwLY47RMhV1ZfG4bXK4eO1GcpvImKDorwCZi2cr4Q1AHW7uZCA",
      "oAkWH46P_m6KC9V1eeHCmefFVJNa2ZyEU3w-SlE4Xr1GG02euWmtPlVTsqpID5tACqQflxB9x4kxHutIazoqDA"}},
    {"bytes 0 to 31",
     "SUAAAAICAMCAKBQHBAEQUCYMBUHA6EARCIJRIFIWC4MBSGQ3DQOR4H776Y",
     "UAB2CB576PHBBPQ5ODORRZ2LYCMWPZGWGCN2KDK7DXOIMZASKUY3RLKK",
     {"nKU1eVMGVNXD33cInvRe2mE-L-32cOlr7axGOVBOWEXvS5XVeTB3Iz3RaBeyUy6cVSWHKnOkrXS3WTaangXBAg",
      "bnxg5G8aOV2LQdSE_lcM9clxm_fbTTZxsqQ1EpTNgJXmH6z5ezesd49kXfuNhoAqw_DmEtsGcNsJdug9wMuRDQ",
      "OpXuMeQkdxzIW6mxXfBCz1FWxoM9_DjAV5dMiaYUN_0UuIKlSacaUiAqRRQYv4u_A8BOqtSO2OLyL0aSOoNgAQ"}},
    {"32 bytes of 255",
     "SUAP777777777777777777777777777777777777777777777777775UUA",
     "UB3KCWJAISTOJ5IREZN4U45GATMQWBJJ2HPWAK7DBIM2SJLWMDI7LRYD",
     {"7gCsbkSmpDvDpwHBN7RnRz4ypL7UfTKT_mGG_phox9JUAk9l_6VSSHvb00qszR6CwaIKGR0YPbtkw1I8zNicDw",
      "LVOQy4ykvDo90wexp5cvbcg4fKCp3sjDtIGBaoirT-GWYKfrmd3NoWvjUwx54P8eEDNxixdfceOWzme89dwuDQ",
      "NgJt-mKxOYX9q-fWmrvYOgyc9hGJdlMXsmzSX2AB1oHPiJ4RGFwM3oPr4RV15V5qsV-uEV2xkhFwvxVA3MNqCA"}},
    {"RFC 8032, TEST 1",
     "SUAJ2YNRTXX72WTAXKCEV5ES5QWMIRCJYVUXWMTJDFYDXLADDSXH6YALCA",
     "UDLVVGABQKYQVN6VJP7NHSLEA45A5YLS6PNKMIZFV4BBU2HXA5IRUVAL",
     {"5VZDAMNgrHKQhuLMgG6CioSHfx645dl02HPgZSJJAVVfuIIVkKM7rMYeOXAc-bRr0lv18FlbviRlUUFDjnoQCw",
      "yMW_dmyq0kcPX3pDXIg8BCs5YWPoGV62_rYbvc2XI8Q3UNF4d2sFXMV5f4N-tr0VTxdIyWXq5GO_oCldgPc_Bw",
      "G3mrxBWjTv5ZFbTBtT0kNecxs8ktC6RA3inKspmfqIW9DrPHHf2N9vvs-MDvQD6JAt7I4qvQCrmwSx3wJ5KWCQ"}},
    {"RFC 8032, TEST 2",
     "SUAEZTIITMUP7FW2TW3MGRXMCFHA6W4KGGPTLK5GETNIZ5XNJ64KN63OVI",
     "UA6UAF6D5BBYSWUSW4FKOTI3P26JZGBMZ4XMJFUMYDGVL4JK6RTAYUDN",
     {"MM_MRgo-UbVaw-fa-I273i9mx2sbjm_kJFaPIi0llAVjNgucUnhAtrfXhKWhP6ODZhoNsnNKteZurO3RUK9mAw",
      "lwNN95gsdTVusHELQHlsHHJC-KQuRES8pju_G6zjUgkqUNGudJyTgujZHxmlBwGpphgZESWdguxkKztBuqZyAA",
      "kqAJqfDUyrhyDoILX2QlQKKye1QWUD-Ps3YiI-vbadoIWsHkPhWZbkWPNhPQ8R2MOHsurrQwKu6wDSkWErsMAA"}},
};

#define VECTOR_COUNT (sizeof(vectors) / sizeof(vectors[0]))

/* Bytes 0 to 31, as in the second vector, as other kinds of keys. */
#define SEED_ACCOUNT  "SAAAAAICAMCAKBQHBAEQUCYMBUHA6EARCIJRIFIWC4MBSGQ3DQOR4HYMHI"
#define SEED_OPERATOR "SOAAAAICAMCAKBQHBAEQUCYMBUHA6EARCIJRIFIWC4MBSGQ3DQOR4H2AJA"
#define SEED_SERVER   "SNAAAAICAMCAKBQHBAEQUCYMBUHA6EARCIJRIFIWC4MBSGQ3DQOR4H2D5U"
#define SEED_CLUSTER  "SCAAAAICAMCAKBQHBAEQUCYMBUHA6EARCIJRIFIWC4MBSGQ3DQOR4HYO7Q"
#define SEED_CURVE    "SXAAAAICAMCAKBQHBAEQUCYMBUHA6EARCIJRIFIWC4MBSGQ3DQOR4H74KM"
#define KEY_PRIVATE   "PAAACAQDAQCQMBYIBEFAWDANBYHRAEISCMKBKFQXDAMRUGY4DUPB7QT2"
#define KEY_ACCOUNT   "AAB2CB576PHBBPQ5ODORRZ2LYCMWPZGWGCN2KDK7DXOIMZASKUY3QPZV"

static enum midge_status init(struct midge_nkey *nkey, struct midge_slice seed)
{
    uint8_t *copy = malloc(seed.len > 0 ? seed.len : 1);
    enum midge_status status;

    cr_assert_not_null(copy);
    memcpy(copy, seed.base, seed.len);
    status = midge_nkey_init(nkey, midge_slice_make(copy, seed.len));
    free(copy);
    return status;
}

static void expect_no_seed(struct midge_slice seed)
{
    struct midge_nkey nkey;

    cr_expect_eq(init(&nkey, seed), MIDGE_E_CONFIG, "%.*s", (int)seed.len, (const char *)seed.base);
}

static bool verify(const char *public_key, const char *nonce, const char *signature)
{
    return midge_nkey_verify(midge_slice_text(public_key), midge_slice_text(nonce),
                             midge_slice_text(signature));
}

Test(nkey, keys_and_signatures_are_those_of_nkeys)
{
    for (size_t i = 0; i < VECTOR_COUNT; i++) {
        const struct vector *vector = &vectors[i];
        struct midge_nkey nkey;
        char public_key[MIDGE_NKEY_TEXT_CAP];

        cr_assert_eq(init(&nkey, midge_slice_text(vector->seed)), MIDGE_OK, "%s", vector->secret);
        midge_nkey_public(&nkey, public_key);
        cr_expect_str_eq(public_key, vector->public_key, "%s", vector->secret);
        for (size_t nonce = 0; nonce < NONCE_COUNT; nonce++) {
            char signature[MIDGE_NKEY_SIGNATURE_CAP];

            cr_assert_eq(midge_nkey_sign(&nkey, midge_slice_text(nonces[nonce]), signature),
                         MIDGE_OK);
            cr_expect_str_eq(signature, vector->signatures[nonce], "%s", vector->secret);
            cr_expect(verify(public_key, nonces[nonce], signature));
        }
        midge_nkey_deinit(&nkey);
    }
}

Test(nkey, the_key_pair_of_rfc_8032)
{
    static const uint8_t public_key[MIDGE_NKEY_LEN] = {
        0xd7, 0x5a, 0x98, 0x01, 0x82, 0xb1, 0x0a, 0xb7, 0xd5, 0x4b, 0xfe,
        0xd3, 0xc9, 0x64, 0x07, 0x3a, 0x0e, 0xe1, 0x72, 0xf3, 0xda, 0xa6,
        0x23, 0x25, 0xaf, 0x02, 0x1a, 0x68, 0xf7, 0x07, 0x51, 0x1a};
    struct midge_nkey nkey;

    cr_assert_eq(init(&nkey, midge_slice_text(vectors[3].seed)), MIDGE_OK);
    cr_expect_arr_eq(nkey.public_key, public_key, MIDGE_NKEY_LEN);
    midge_nkey_deinit(&nkey);
}

Test(nkey, a_key_is_wiped)
{
    static const struct midge_nkey zero = {.secret = {0}};
    struct midge_nkey nkey;

    cr_assert_eq(init(&nkey, midge_slice_text(vectors[1].seed)), MIDGE_OK);
    cr_assert_neq(memcmp(&nkey, &zero, sizeof(nkey)), 0);
    midge_nkey_deinit(&nkey);
    cr_expect_arr_eq(&nkey, &zero, sizeof(nkey));
}

Test(nkey, only_the_seed_of_a_user_is_taken)
{
    expect_no_seed(L(SEED_ACCOUNT));
    expect_no_seed(L(SEED_OPERATOR));
    expect_no_seed(L(SEED_SERVER));
    expect_no_seed(L(SEED_CLUSTER));
    expect_no_seed(L(SEED_CURVE));
    expect_no_seed(L(KEY_PRIVATE));
    expect_no_seed(midge_slice_text(vectors[1].public_key));
}

Test(nkey, a_seed_has_one_length)
{
    const struct midge_slice seed = midge_slice_text(vectors[1].seed);
    char longer[128];

    for (uint32_t len = 0; len < seed.len; len++)
        expect_no_seed(midge_slice_make(seed.base, len));
    memset(longer, 'A', sizeof(longer));
    memcpy(longer, seed.base, seed.len);
    for (uint32_t len = seed.len + 1; len < sizeof(longer); len++)
        expect_no_seed(midge_slice_make(longer, len));
    expect_no_seed(L("SU"));
    expect_no_seed(L("SUAIO3FHUX5PNV2LQIIP7TZ3N4L7TX3W53MQGEIVYFIGA635OZCKEYHFLMX"));
}

/* The checksum finds every changed character; blanks, small letters and padding are none. */
Test(nkey, a_changed_seed_is_refused)
{
    static const char others[] = "AZ27az018 =\n\xff";
    char seed[MIDGE_NKEY_TEXT_CAP + 2];

    for (uint32_t i = 0; vectors[1].seed[i] != '\0'; i++) {
        for (size_t other = 0; other < sizeof(others); other++) {
            memcpy(seed, vectors[1].seed, strlen(vectors[1].seed) + 1);
            if (seed[i] == others[other])
                continue;
            seed[i] = others[other];
            expect_no_seed(midge_slice_make(seed, (uint32_t)strlen(vectors[1].seed)));
        }
    }
}

Test(nkey, a_signature_is_of_one_key_and_one_nonce)
{
    cr_expect(verify(vectors[1].public_key, nonces[1], vectors[1].signatures[1]));
    cr_expect_not(verify(vectors[2].public_key, nonces[1], vectors[1].signatures[1]));
    cr_expect_not(verify(vectors[1].public_key, nonces[2], vectors[1].signatures[1]));
    cr_expect_not(verify(vectors[1].public_key, "", vectors[1].signatures[1]));
    cr_expect_not(verify(vectors[1].public_key, "PXoWU7zWAMt75FX", vectors[1].signatures[1]));
}

Test(nkey, a_changed_signature_is_refused)
{
    char signature[MIDGE_NKEY_SIGNATURE_CAP];
    const uint32_t len = MIDGE_NKEY_SIGNATURE_CAP - 1;

    for (uint32_t i = 0; i < len; i++) {
        memcpy(signature, vectors[1].signatures[1], sizeof(signature));
        signature[i] = signature[i] == 'A' ? 'B' : 'A';
        /* The last character has four bits that mean nothing, and must be 0. */
        cr_expect_not(verify(vectors[1].public_key, nonces[1], signature), "at %u", i);
    }
    for (uint32_t cut = 0; cut < len; cut++)
        cr_expect_not(midge_nkey_verify(midge_slice_text(vectors[1].public_key),
                                        midge_slice_text(nonces[1]),
                                        midge_slice_make(vectors[1].signatures[1], cut)));
}

/* As nats-server, which tries one after the other. Source: nats-server v2.15.2, server/auth.go. */
Test(nkey, a_signature_may_be_in_either_base64)
{
    for (size_t i = 0; i < VECTOR_COUNT; i++) {
        char padded[MIDGE_NKEY_SIGNATURE_CAP + 2];

        memcpy(padded, vectors[i].signatures[1], MIDGE_NKEY_SIGNATURE_CAP - 1);
        memcpy(padded + MIDGE_NKEY_SIGNATURE_CAP - 1, "==", 3);
        cr_expect(verify(vectors[i].public_key, nonces[1], padded));
        for (char *at = padded; *at != '\0'; at++) {
            if (*at == '-')
                *at = '+';
            else if (*at == '_')
                *at = '/';
        }
        cr_expect(verify(vectors[i].public_key, nonces[1], padded));
    }
}

Test(nkey, only_the_public_key_of_a_user_verifies)
{
    const char *signature = vectors[1].signatures[1];
    char key[MIDGE_NKEY_TEXT_CAP];

    cr_expect_not(verify(KEY_ACCOUNT, nonces[1], signature));
    cr_expect_not(verify(vectors[1].seed, nonces[1], signature));
    cr_expect_not(verify("", nonces[1], signature));
    for (uint32_t len = 0; len < MIDGE_NKEY_TEXT_CAP - 1; len++)
        cr_expect_not(midge_nkey_verify(midge_slice_make(vectors[1].public_key, len),
                                        midge_slice_text(nonces[1]), midge_slice_text(signature)));
    for (uint32_t i = 0; i < MIDGE_NKEY_TEXT_CAP - 1; i++) {
        memcpy(key, vectors[1].public_key, sizeof(key));
        key[i] = key[i] == 'A' ? 'B' : 'A';
        cr_expect_not(verify(key, nonces[1], signature), "at %u", i);
    }
}

/* A server chooses the nonce; there is no length that it must have. */
Test(nkey, a_nonce_has_any_length)
{
    static uint8_t nonce[100000];
    char public_key[MIDGE_NKEY_TEXT_CAP];
    char signature[MIDGE_NKEY_SIGNATURE_CAP];
    struct midge_nkey nkey;

    memset(nonce, 'n', sizeof(nonce));
    cr_assert_eq(init(&nkey, midge_slice_text(vectors[1].seed)), MIDGE_OK);
    midge_nkey_public(&nkey, public_key);
    cr_assert_eq(midge_nkey_sign(&nkey, midge_slice_make(nonce, sizeof(nonce)), signature),
                 MIDGE_OK);
    cr_expect(midge_nkey_verify(midge_slice_text(public_key),
                                midge_slice_make(nonce, sizeof(nonce)),
                                midge_slice_text(signature)));
    midge_nkey_deinit(&nkey);
}
