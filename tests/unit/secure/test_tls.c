/*
 * TLS over byte slices: handshake, records however they are cut, the end of a session, and what a
 * broken peer may send.
 *
 * Method: our client and a server made of OpenSSL alone, with buffers between them (tls_rig.h).
 * What is fed goes in as allocations of exactly its length.
 */
#include "tls_rig.h"

#define NAME "midge.test"

static struct midge_certificates certificates;
static struct midge_certificate_files files;

static void make_certificates(void)
{
    const struct midge_certificate_options options = {.names = "DNS:" NAME};

    midge_certificates_init(&certificates);
    files = midge_certificates_make(&certificates, &options, NULL);
}

static void remove_certificates(void)
{
    midge_certificates_deinit(&certificates);
}

TestSuite(tls, .init = make_certificates, .fini = remove_certificates);

struct rig {
    struct midge_tls_context *context;
    struct midge_tls *client;
    struct rig_peer peer;
};

static void open_rig(struct rig *rig, int version)
{
    const struct midge_tls_options options = {.ca_file = certificates.ca_file};

    rig->client = rig_client(&options, NAME, &rig->context);
    rig_peer_init(&rig->peer, &files, version);
}

static void close_rig(struct rig *rig)
{
    rig_peer_deinit(&rig->peer);
    midge_tls_destroy(rig->client);
    midge_tls_context_destroy(rig->context);
}

/* A session that has shaken hands. */
static void connect_rig(struct rig *rig, int version)
{
    open_rig(rig, version);
    cr_assert_eq(rig_shake(rig->client, &rig->peer, 0), MIDGE_AGAIN, "%s",
                 midge_tls_error(rig->client));
}

static uint8_t pattern_at(uint32_t off)
{
    return (uint8_t)((off * 0x9e3779b1u) >> 24);
}

static uint8_t *make_pattern(uint32_t len)
{
    uint8_t *bytes = malloc(len);

    cr_assert_not_null(bytes);
    for (uint32_t i = 0; i < len; i++)
        bytes[i] = pattern_at(i);
    return bytes;
}

/* The server encrypts `len` bytes of the pattern. @return owned */
static uint8_t *server_says(struct rig *rig, uint32_t len, uint32_t *cipher_len_out)
{
    uint8_t *plain = make_pattern(len);

    cr_assert_eq(SSL_write(rig->peer.ssl, plain, (int)len), (int)len);
    free(plain);
    return rig_take(&rig->peer, cipher_len_out);
}

/* --- handshake --- */

Test(tls, both_versions_shake_hands)
{
    static const int versions[] = {TLS1_2_VERSION, TLS1_3_VERSION};

    for (uint32_t i = 0; i < 2; i++) {
        struct rig rig;

        open_rig(&rig, versions[i]);
        cr_expect_not(midge_tls_is_established(rig.client));
        cr_assert_eq(rig_shake(rig.client, &rig.peer, 0), MIDGE_AGAIN, "%s",
                     midge_tls_error(rig.client));
        cr_expect_eq(SSL_version(rig.peer.ssl), versions[i]);
        close_rig(&rig);
    }
}

/* Source: RFC 8996. */
Test(tls, older_versions_are_refused)
{
    static const int versions[] = {TLS1_VERSION, TLS1_1_VERSION};

    for (uint32_t i = 0; i < 2; i++) {
        struct rig rig;

        open_rig(&rig, versions[i]);
        for (uint32_t turn = 0; turn < RIG_TURNS; turn++)
            (void)rig_turn(rig.client, &rig.peer, 0);
        cr_expect_not(midge_tls_is_established(rig.client));
        cr_expect_not(SSL_is_init_finished(rig.peer.ssl));
        close_rig(&rig);
    }
}

Test(tls, the_client_speaks_first_and_then_waits)
{
    struct midge_slice plain;
    struct rig rig;

    open_rig(&rig, 0);
    cr_expect_eq(midge_tls_output(rig.client).len, 0, "nothing happens before the first read");
    cr_expect_eq(midge_tls_read(rig.client, &plain), MIDGE_AGAIN);
    cr_expect_gt(midge_tls_output(rig.client).len, 0);
    cr_expect_eq(midge_tls_read(rig.client, &plain), MIDGE_AGAIN);
    cr_expect_eq(midge_tls_feed(rig.client, midge_slice_make(NULL, 0)), MIDGE_OK);
    cr_expect_eq(midge_tls_read(rig.client, &plain), MIDGE_AGAIN);
    close_rig(&rig);
}

Test(tls, a_handshake_may_come_byte_by_byte)
{
    static const int versions[] = {TLS1_2_VERSION, TLS1_3_VERSION};

    for (uint32_t i = 0; i < 2; i++) {
        struct rig rig;

        open_rig(&rig, versions[i]);
        cr_expect_eq(rig_shake(rig.client, &rig.peer, 1), MIDGE_AGAIN, "%s",
                     midge_tls_error(rig.client));
        close_rig(&rig);
    }
}

Test(tls, a_handshake_may_be_cut_anywhere)
{
    /* The server's first flight has some 900 bytes; every step size cuts it at other places. */
    for (uint32_t step = 2; step < 1000; step += 1 + step / 8) {
        struct rig rig;

        open_rig(&rig, step % 2 == 0 ? TLS1_2_VERSION : TLS1_3_VERSION);
        cr_expect_eq(rig_shake(rig.client, &rig.peer, step), MIDGE_AGAIN, "%u: %s", step,
                     midge_tls_error(rig.client));
        close_rig(&rig);
    }
}

Test(tls, nothing_is_written_before_the_handshake_has_ended)
{
    struct midge_slice plain;
    uint32_t hello_len;
    struct rig rig;

    open_rig(&rig, 0);
    cr_expect_eq(midge_tls_write(rig.client, MIDGE_SLICE_LITERAL("secret")), MIDGE_AGAIN);
    cr_expect_eq(midge_tls_output(rig.client).len, 0);
    cr_expect_eq(midge_tls_read(rig.client, &plain), MIDGE_AGAIN);
    hello_len = midge_tls_output(rig.client).len;
    cr_expect_eq(midge_tls_write(rig.client, MIDGE_SLICE_LITERAL("secret")), MIDGE_AGAIN);
    cr_expect_eq(midge_tls_output(rig.client).len, hello_len);
    close_rig(&rig);
}

Test(tls, output_is_taken_in_any_pieces)
{
    struct midge_slice plain;
    struct rig rig;

    open_rig(&rig, 0);
    cr_assert_eq(midge_tls_read(rig.client, &plain), MIDGE_AGAIN);
    while (midge_tls_output(rig.client).len > 0) {
        const struct midge_slice output = midge_tls_output(rig.client);

        cr_assert_eq(BIO_write(rig.peer.in, output.base, 1), 1);
        midge_tls_consume(rig.client, 0);
        midge_tls_consume(rig.client, 1);
        cr_assert_eq(midge_tls_output(rig.client).len, output.len - 1);
    }
    cr_expect_eq(rig_shake(rig.client, &rig.peer, 0), MIDGE_AGAIN);
    close_rig(&rig);
}

/* --- records --- */

static void expect_received(struct rig *rig, uint32_t len, uint32_t step)
{
    uint32_t cipher_len;
    uint8_t *cipher = server_says(rig, len, &cipher_len);
    struct rig_plain plain = {.bytes = malloc(len), .cap = len};

    cr_assert_not_null(plain.bytes);
    cr_expect_eq(rig_feed(rig->client, cipher, cipher_len, step, &plain), MIDGE_AGAIN);
    cr_assert_eq(plain.len, len, "step %u", step);
    for (uint32_t i = 0; i < len; i++)
        cr_assert_eq(plain.bytes[i], pattern_at(i), "byte %u of %u", i, len);
    free(plain.bytes);
    free(cipher);
}

Test(tls, plaintext_of_every_size_arrives)
{
    /* A record holds 16384 bytes. */
    static const uint32_t lens[] = {1, 2, 1000, 16383, 16384, 16385, 32768, 1u << 20};
    static const int versions[] = {TLS1_2_VERSION, TLS1_3_VERSION};

    for (uint32_t version = 0; version < 2; version++) {
        struct rig rig;

        connect_rig(&rig, versions[version]);
        for (uint32_t i = 0; i < sizeof(lens) / sizeof(lens[0]); i++)
            expect_received(&rig, lens[i], 0);
        close_rig(&rig);
    }
}

Test(tls, a_record_may_be_cut_at_every_place)
{
    struct rig rig;

    connect_rig(&rig, 0);
    expect_received(&rig, 100, 1);
    for (uint32_t cut = 1; cut < 140; cut++)
        expect_received(&rig, 100, cut);
    expect_received(&rig, 40000, 1449);
    close_rig(&rig);
}

Test(tls, several_records_may_come_at_once)
{
    struct rig_plain plain = {.bytes = (uint8_t[16]){0}, .cap = 16};
    uint32_t cipher_len;
    uint8_t *cipher;
    struct rig rig;

    connect_rig(&rig, 0);
    for (uint32_t i = 0; i < 5; i++)
        cr_assert_eq(SSL_write(rig.peer.ssl, "abc", 3), 3);
    cipher = rig_take(&rig.peer, &cipher_len);
    cr_expect_eq(rig_feed(rig.client, cipher, cipher_len, 0, &plain), MIDGE_AGAIN);
    cr_expect_eq(plain.len, 15);
    cr_expect_arr_eq(plain.bytes, "abcabcabcabcabc", 15);
    free(cipher);
    close_rig(&rig);
}

Test(tls, what_is_written_reaches_the_peer)
{
    static const uint32_t lens[] = {1, 16384, 16385, 300000};
    struct rig rig;

    connect_rig(&rig, 0);
    cr_expect_eq(midge_tls_write(rig.client, midge_slice_make(NULL, 0)), MIDGE_OK);
    cr_expect_eq(midge_tls_output(rig.client).len, 0, "no empty record");
    for (uint32_t i = 0; i < sizeof(lens) / sizeof(lens[0]); i++) {
        uint8_t *sent = make_pattern(lens[i]);
        uint8_t *got = malloc(lens[i]);
        uint32_t got_len = 0;
        int res;

        cr_assert_not_null(got);
        cr_assert_eq(midge_tls_write(rig.client, midge_slice_make(sent, lens[i])), MIDGE_OK);
        cr_expect_gt(midge_tls_output(rig.client).len, lens[i]);
        rig_to_peer(rig.client, &rig.peer);
        while ((res = SSL_read(rig.peer.ssl, got + got_len, (int)(lens[i] - got_len))) > 0) {
            got_len += (uint32_t)res;
            if (got_len == lens[i])
                break;
        }
        cr_assert_eq(got_len, lens[i]);
        cr_expect_arr_eq(got, sent, lens[i]);
        free(got);
        free(sent);
    }
    close_rig(&rig);
}

/* The peer may ask for new keys at any time; our answer goes out with the rest. */
Test(tls, keys_may_change)
{
    uint8_t got[8];
    uint32_t cipher_len;
    uint8_t *cipher;
    struct rig rig;

    connect_rig(&rig, TLS1_3_VERSION);
    cr_assert_eq(SSL_key_update(rig.peer.ssl, SSL_KEY_UPDATE_REQUESTED), 1);
    cr_assert_eq(SSL_do_handshake(rig.peer.ssl), 1);
    cipher = rig_take(&rig.peer, &cipher_len);
    cr_assert_gt(cipher_len, 0);
    cr_expect_eq(rig_feed(rig.client, cipher, cipher_len, 0, NULL), MIDGE_AGAIN);
    free(cipher);
    expect_received(&rig, 1000, 0);
    cr_assert_eq(midge_tls_write(rig.client, MIDGE_SLICE_LITERAL("PING\r\n")), MIDGE_OK);
    rig_to_peer(rig.client, &rig.peer);
    cr_assert_eq(SSL_read(rig.peer.ssl, got, sizeof(got)), 6);
    cr_expect_arr_eq(got, "PING\r\n", 6);
    close_rig(&rig);
}

/* A server that asks for a new handshake over and over would keep its client busy. */
Test(tls, a_session_is_never_negotiated_anew)
{
    struct midge_slice plain;
    uint32_t cipher_len;
    uint8_t *cipher;
    struct rig rig;

    connect_rig(&rig, TLS1_2_VERSION);
    cr_assert_eq(SSL_renegotiate(rig.peer.ssl), 1);
    cr_assert_eq(SSL_do_handshake(rig.peer.ssl), 1); /* sends the request alone */
    cipher = rig_take(&rig.peer, &cipher_len);
    cr_assert_gt(cipher_len, 0);
    cr_expect_eq(rig_feed(rig.client, cipher, cipher_len, 0, NULL), MIDGE_AGAIN);
    cr_expect(midge_tls_is_established(rig.client));
    rig_to_peer(rig.client, &rig.peer);
    cr_expect_leq(SSL_read(rig.peer.ssl, (uint8_t[8]){0}, 8), 0);
    cr_expect_eq(ERR_GET_REASON(ERR_peek_last_error()), SSL_R_NO_RENEGOTIATION);
    cr_expect_eq(midge_tls_read(rig.client, &plain), MIDGE_AGAIN);
    free(cipher);
    close_rig(&rig);
}

/* --- the end --- */

Test(tls, the_peer_may_end_the_session_behind_its_last_bytes)
{
    struct rig_plain plain = {.bytes = (uint8_t[8]){0}, .cap = 8};
    struct midge_slice more;
    uint32_t cipher_len;
    uint8_t *cipher;
    struct rig rig;

    connect_rig(&rig, 0);
    cr_assert_eq(SSL_write(rig.peer.ssl, "last", 4), 4);
    cr_assert_eq(SSL_shutdown(rig.peer.ssl), 0);
    cipher = rig_take(&rig.peer, &cipher_len);
    cr_expect_eq(rig_feed(rig.client, cipher, cipher_len, 0, &plain), MIDGE_E_EOF);
    cr_expect_eq(plain.len, 4);
    cr_expect_eq(midge_tls_read(rig.client, &more), MIDGE_E_EOF, "it stays at its end");
    cr_expect_str_empty(midge_tls_error(rig.client));
    free(cipher);
    close_rig(&rig);
}

Test(tls, a_shutdown_reaches_the_peer)
{
    uint8_t byte;
    int res;
    struct rig rig;

    connect_rig(&rig, 0);
    midge_tls_shutdown(rig.client);
    rig_to_peer(rig.client, &rig.peer);
    res = SSL_read(rig.peer.ssl, &byte, 1);
    cr_expect_eq(SSL_get_error(rig.peer.ssl, res), SSL_ERROR_ZERO_RETURN);
    close_rig(&rig);
}

Test(tls, a_shutdown_before_the_handshake_says_nothing)
{
    struct rig rig;

    open_rig(&rig, 0);
    midge_tls_shutdown(rig.client);
    cr_expect_eq(midge_tls_output(rig.client).len, 0);
    close_rig(&rig);
}

/* --- a broken peer --- */

static void expect_failed(struct rig *rig, const uint8_t *bytes, uint32_t len, const char *how)
{
    struct rig_plain plain = {.bytes = malloc(1u << 16), .cap = 1u << 16};

    cr_assert_not_null(plain.bytes);
    cr_expect_eq(rig_feed(rig->client, bytes, len, 0, &plain), MIDGE_E_TLS, "%s", how);
    cr_expect_not(strlen(midge_tls_error(rig->client)) == 0, "%s", how);
    cr_expect_null(strstr(midge_tls_error(rig->client), "certificate:"), "%s: %s", how,
                   midge_tls_error(rig->client));
    cr_expect_eq(midge_tls_write(rig->client, MIDGE_SLICE_LITERAL("x")), MIDGE_E_TLS);
    cr_expect_eq(ERR_peek_error(), 0, "nothing is left in the thread's queue");
    free(plain.bytes);
}

Test(tls, what_is_no_tls_is_refused)
{
    const struct midge_slice texts[] = {
        MIDGE_SLICE_LITERAL("INFO {\"server_id\":\"N\"}\r\n"),
        MIDGE_SLICE_LITERAL("HTTP/1.1 400 Bad Request\r\n\r\n"),
        MIDGE_SLICE_LITERAL("\x16\x03\x03\xff\xff too long a record"),
        MIDGE_SLICE_LITERAL("\x17\x03\x03\x00\x04 data before the handshake"),
        MIDGE_SLICE_LITERAL("\x15\x03\x03\x00\x02\x02\x28"), /* a fatal alert */
    };

    for (uint32_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        struct rig rig;

        open_rig(&rig, 0);
        expect_failed(&rig, texts[i].base, texts[i].len, (const char *)texts[i].base);
        close_rig(&rig);
    }
}

/* One bit, anywhere in a record: length, type, version or ciphertext. */
Test(tls, a_changed_record_is_refused)
{
    uint32_t cipher_len = 1;

    for (uint32_t off = 0; off < cipher_len; off += 3) {
        struct rig rig;
        uint8_t *cipher;

        connect_rig(&rig, off % 2 == 0 ? TLS1_2_VERSION : TLS1_3_VERSION);
        cipher = server_says(&rig, 20, &cipher_len);
        cipher[off] ^= 0x10;
        /* A length that is larger now wants more bytes. */
        if (off == 3 || off == 4)
            cr_expect_neq(rig_feed(rig.client, cipher, cipher_len, 0, NULL), MIDGE_OK);
        else
            expect_failed(&rig, cipher, cipher_len, "changed");
        free(cipher);
        close_rig(&rig);
    }
}

Test(tls, a_repeated_record_is_refused)
{
    struct rig_plain plain = {.bytes = (uint8_t[64]){0}, .cap = 64};
    uint32_t cipher_len;
    uint8_t *cipher;
    struct rig rig;

    connect_rig(&rig, 0);
    cipher = server_says(&rig, 20, &cipher_len);
    cr_expect_eq(rig_feed(rig.client, cipher, cipher_len, 0, &plain), MIDGE_AGAIN);
    expect_failed(&rig, cipher, cipher_len, "repeated");
    free(cipher);
    close_rig(&rig);
}

/* The certificate is not what went wrong, though nobody checked it. */
Test(tls, an_unchecked_certificate_is_not_blamed)
{
    const struct midge_tls_options options = {.insecure = true};
    struct rig rig;

    rig.client = rig_client(&options, "other.test", &rig.context);
    rig_peer_init(&rig.peer, &files, 0);
    cr_assert_eq(rig_shake(rig.client, &rig.peer, 0), MIDGE_AGAIN);
    expect_failed(&rig, (const uint8_t *)"garbage, not a record", 21, "garbage");
    close_rig(&rig);
}

/* What is fed is read and given back, so that a session does not grow with its age. */
Test(tls, a_session_holds_no_more_than_one_feed)
{
    struct rig rig;

    connect_rig(&rig, 0);
    for (uint32_t i = 0; i < 2000; i++)
        expect_received(&rig, 16384, 0);
    cr_expect_eq(midge_tls_output(rig.client).len, 0);
    close_rig(&rig);
}
