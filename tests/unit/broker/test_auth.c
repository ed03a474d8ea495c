/* Credentials: who gets in. Method: every combination that could be mistaken for the right one. */
#include "auth.h"

#include <criterion/criterion.h>

static bool check(const char *user, const char *pass, const char *token, const char *given_user,
                  const char *given_pass, const char *given_token)
{
    /* The structs take mutable strings; nothing here writes to them. */
    const struct midge_config config = {.user = (char *)(uintptr_t)user,
                                        .pass = (char *)(uintptr_t)pass,
                                        .token = (char *)(uintptr_t)token};
    const struct midge_connect connect = {.user = (char *)(uintptr_t)given_user,
                                          .pass = (char *)(uintptr_t)given_pass,
                                          .auth_token = (char *)(uintptr_t)given_token};

    return midge_auth_check(&config, &connect);
}

Test(auth, nothing_configured_lets_everybody_in)
{
    cr_assert(check(NULL, NULL, NULL, NULL, NULL, NULL));
    cr_assert(check(NULL, NULL, NULL, "x", "y", "z"));
}

Test(auth, user_and_password_must_both_fit)
{
    cr_assert(check("ann", "secret", NULL, "ann", "secret", NULL));
    cr_assert_not(check("ann", "secret", NULL, "ann", "secre", NULL));
    cr_assert_not(check("ann", "secret", NULL, "ann", "secretx", NULL));
    cr_assert_not(check("ann", "secret", NULL, "ann", "", NULL));
    cr_assert_not(check("ann", "secret", NULL, "ann", NULL, NULL));
    cr_assert_not(check("ann", "secret", NULL, "bob", "secret", NULL));
    cr_assert_not(check("ann", "secret", NULL, NULL, "secret", NULL));
    cr_assert_not(check("ann", "secret", NULL, NULL, NULL, "secret"));
    cr_assert_not(check("ann", "secret", NULL, "secret", "ann", NULL));
}

Test(auth, a_token_is_taken_as_token_only)
{
    cr_assert(check(NULL, NULL, "tok", NULL, NULL, "tok"));
    cr_assert_not(check(NULL, NULL, "tok", "tok", NULL, NULL));
    cr_assert_not(check(NULL, NULL, "tok", NULL, "tok", NULL));
    cr_assert_not(check(NULL, NULL, "tok", NULL, NULL, "to"));
    cr_assert_not(check(NULL, NULL, "tok", NULL, NULL, "tokk"));
    cr_assert_not(check(NULL, NULL, "tok", NULL, NULL, NULL));
}
