/* Credentials of a connection; see auth.h. */
#include "auth.h"

#include <stdint.h>
#include <string.h>

/* Every byte of the given secret is looked at; only its length shows in the time taken. */
static bool secrets_equal(const char *given, const char *wanted)
{
    const size_t given_len = given != NULL ? strlen(given) : 0;
    const size_t wanted_len = strlen(wanted);
    unsigned difference = given_len != wanted_len;

    for (size_t i = 0; i < given_len; i++) {
        const unsigned char wanted_byte = (unsigned char)(i < wanted_len ? wanted[i] : 0);

        difference |= (unsigned)((unsigned char)given[i] ^ wanted_byte);
    }
    return difference == 0;
}

bool midge_auth_check(const struct midge_config *config, const struct midge_connect *connect)
{
    bool good;

    if (config->token != NULL)
        return secrets_equal(connect->auth_token, config->token);
    if (config->user == NULL)
        return true;
    good = secrets_equal(connect->user, config->user);
    /* Both are compared always: a wrong user takes as long as a wrong password. */
    return secrets_equal(connect->pass, config->pass != NULL ? config->pass : "") && good;
}
