/* Credentials files, good and bad. Method: each text is an allocation of exactly its length. The
 * good ones are laid out as nsc writes them (nats-io/jwt v2.8.2, creds_utils.go:
 * FormatUserConfig). */
#include "midge/creds.h"

#include <criterion/criterion.h>
#include <stdlib.h>

#define L MIDGE_SLICE_LITERAL

#define JWT  "eyJ0eXAiOiJKV1QiLCJhbGciOiJlZDI1NTE5LW5rZXkifQ.eyJzdWIiOiJVQSJ9.c2ln-_"
#define SEED "SUAAAAICAMCAKBQHBAEQUCYMBUHA6EARCIJRIFIWC4MBSGQ3DQOR4H776Y"

static void expect_creds(struct midge_slice text, const char *jwt, const char *seed)
{
    uint8_t *copy = malloc(text.len > 0 ? text.len : 1);
    struct midge_slice jwt_out = L("untouched");
    struct midge_slice seed_out = L("untouched");
    enum midge_status status;

    cr_assert_not_null(copy);
    memcpy(copy, text.base, text.len);
    status = midge_creds_parse(midge_slice_make(copy, text.len), &jwt_out, &seed_out);
    if (seed == NULL) {
        cr_expect_eq(status, MIDGE_E_CONFIG, "%.*s", (int)text.len, (const char *)text.base);
        cr_expect(midge_slice_equal(jwt_out, L("untouched")));
        cr_expect(midge_slice_equal(seed_out, L("untouched")));
    } else {
        cr_expect_eq(status, MIDGE_OK, "%.*s", (int)text.len, (const char *)text.base);
        cr_expect(midge_slice_equal(jwt_out, midge_slice_text(jwt)), "%.*s", (int)jwt_out.len,
                  (const char *)jwt_out.base);
        cr_expect(midge_slice_equal(seed_out, midge_slice_text(seed)), "%.*s", (int)seed_out.len,
                  (const char *)seed_out.base);
    }
    free(copy);
}

static void expect_none(struct midge_slice text)
{
    expect_creds(text, NULL, NULL);
}

Test(creds, a_file_of_nsc)
{
    expect_creds(L("-----BEGIN NATS USER JWT-----\n" JWT "\n------END NATS USER JWT------\n\n"
                   "************************* IMPORTANT *************************\n"
                   "NKEY Seed printed below can be used to sign and prove identity.\n"
                   "NKEYs are sensitive and should be treated as secrets.\n\n"
                   "-----BEGIN USER NKEY SEED-----\n" SEED "\n------END USER NKEY SEED------\n\n"
                   "*************************************************************\n"),
                 JWT, SEED);
}

Test(creds, lines_may_end_with_cr_lf_and_hold_blanks)
{
    expect_creds(L("\r\n-----BEGIN NATS USER JWT-----\r\n  " JWT " \t\r\n"
                   "------END NATS USER JWT------\r\n-----BEGIN USER NKEY SEED-----\r\n\r\n\t" SEED
                   "\r\n------END USER NKEY SEED------"),
                 JWT, SEED);
}

Test(creds, a_seed_may_come_alone)
{
    expect_creds(L("-----BEGIN USER NKEY SEED-----\n" SEED "\n------END USER NKEY SEED------\n"),
                 "", SEED);
    expect_creds(L(SEED), "", SEED);
    expect_creds(L("# made for a test\n\n  " SEED "\n"), "", SEED);
}

/* What stands in the border of a seed is taken for one; whoever reads it says what is wrong. */
Test(creds, the_seed_between_its_borders_is_not_judged)
{
    expect_creds(L("-----BEGIN USER NKEY SEED-----\nsu-not-a-seed\n"), "", "su-not-a-seed");
}

Test(creds, the_first_of_each_counts)
{
    expect_creds(L("-----BEGIN NATS USER JWT-----\na.b.c\nd.e.f\n------END NATS USER JWT------\n"
                   "-----BEGIN NATS USER JWT-----\ng.h.i\n------END NATS USER JWT------\n"
                   "-----BEGIN USER NKEY SEED-----\n" SEED "\nSUB\n"),
                 "a.b.c", SEED);
}

/* A word that begins like a seed is none. */
Test(creds, a_remark_is_no_seed)
{
    expect_none(L("SECRET: do not share\n"));
    expect_none(L("SUBSCRIBERS\n-----BEGIN NATS USER JWT-----\n" JWT "\n"));
    expect_creds(L("SECRETS\n" SEED "\n"), "", SEED);
}

Test(creds, without_a_seed_it_is_none)
{
    expect_none(L(""));
    expect_none(L("\n"));
    expect_none(L("\r\n \t\r\n"));
    expect_none(L("---"));
    expect_none(L("-----BEGIN NATS USER JWT-----\n" JWT "\n------END NATS USER JWT------\n"));
    expect_none(L("-----BEGIN USER NKEY SEED-----\n------END USER NKEY SEED------\n"));
    expect_none(L("-----BEGIN USER NKEY SEED-----"));
    expect_none(L("\0\0\0"));
}

Test(creds, a_seed_behind_an_end_of_its_border_is_not_one)
{
    expect_none(L("------END USER NKEY SEED------\nwhatever\n"));
}

Test(creds, a_file_cut_anywhere_gives_no_part_of_a_jwt_with_a_seed)
{
    const struct midge_slice whole =
        L("-----BEGIN NATS USER JWT-----\n" JWT "\n------END NATS USER JWT------\n"
          "-----BEGIN USER NKEY SEED-----\n" SEED "\n------END USER NKEY SEED------\n");

    for (uint32_t len = 0; len <= whole.len; len++) {
        struct midge_slice jwt;
        struct midge_slice seed;

        if (midge_creds_parse(midge_slice_make(whole.base, len), &jwt, &seed) == MIDGE_OK)
            cr_expect(midge_slice_equal(jwt, L(JWT)), "cut at %u", len);
    }
}
