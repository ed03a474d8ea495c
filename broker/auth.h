/*
 * Credentials: the single user or the token of the configuration.
 *
 * Thread: constant after init.
 * Source: nats-server v2.15.2, server/auth.go:654 and comparePasswords.
 */
#ifndef MIDGE_AUTH_H
#define MIDGE_AUTH_H

#include <stdbool.h>

#include "config.h"
#include "midge/info.h"

/** True if the credentials of this CONNECT are good, or none are needed. Takes the same time
 * wherever a wrong secret differs. */
bool midge_auth_check(const struct midge_config *config, const struct midge_connect *connect);

#endif
