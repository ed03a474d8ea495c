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

/* Bytes of a subject that our client sends: nats-server's max_control_line has to hold two of them.
 */
#define MIDGE_SUBJECT_LEN_MAX 4096u

/** True if a client may publish to it: literal, at most MIDGE_SUBJECT_LEN_MAX bytes, none of them a
 * blank or a control character, which would end it or begin another operation. */
bool midge_subject_is_publishable(struct midge_slice subject);

/** True if a client may subscribe to it: as publishable, but with wildcards where they may stand.
 */
bool midge_subject_is_subscribable(struct midge_slice subject);

/** True if it may name a queue group: 1 to MIDGE_SUBJECT_LEN_MAX bytes without blanks and control
 * characters. */
bool midge_subject_is_queue_name(struct midge_slice name);

#endif
