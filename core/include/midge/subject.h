/*
 * Rules for subjects: tokens between dots, `*` and `>` as whole tokens.
 *
 * Thread: any (lock-free); pure functions.
 * Source: nats-server v2.15.2, server/sublist.go:375 (Insert), IsValidLiteralSubject, matchLiteral.
 */
#ifndef MIDGE_SUBJECT_H
#define MIDGE_SUBJECT_H

#include "midge/compiler.h"
#include "midge/slice.h"

/** True if the subject may be subscribed to: no empty token, `>` only as the last token. Any byte
 * is allowed inside a token; `a*` and `a>` are literal characters. */
bool midge_subject_is_valid(struct midge_slice subject);

/** True if a message on the subject can match anything: not empty, no empty token. */
bool midge_subject_is_routable(struct midge_slice subject);

/** True if the subject is routable and no token is exactly `*` or `>`. */
bool midge_subject_is_literal(struct midge_slice subject);

/** True if a valid subject has a token that is exactly `*` or `>`. */
bool midge_subject_has_wildcard(struct midge_slice subject);

/** True if the valid pattern matches the routable subject, token by token. The subject is literal
 * even where a token of it is `*` or `>`. Neither may be empty; what else is not valid or not
 * routable gives some answer. Cost: linear, no recursion. */
bool midge_subject_matches(struct midge_slice pattern, struct midge_slice subject);

#endif
