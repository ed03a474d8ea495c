/*
 * The files that with_secrets.py makes, for tests of TLS and of credentials.
 *
 * Thread: the main one.
 */
#ifndef MIDGE_SECRETS_H
#define MIDGE_SECRETS_H

/* The path of one of them, such as "ca.pem". Text that lives as long as the struct. */
struct midge_secret {
    char path[256];
};
struct midge_secret midge_secret_path(const char *name);

/* What stands in one of them, a line at most. */
struct midge_secret_text {
    char text[8192];
};
struct midge_secret_text midge_secret_read(const char *name);

/** Make NAME.creds of the account that servers with operator.conf know; it expires that soon. */
void midge_secret_make_creds(const char *name, unsigned seconds);

#endif
