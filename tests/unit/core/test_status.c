/* The table of outcomes against the texts that nats-server 2.15.2 sends. Method: the texts stand
 * here again, as recorded; and the relations that every user of the table relies on. */
#include "midge/status_peer.h"

#include <criterion/criterion.h>
#include <string.h>

static const enum midge_status all[] = {
#define STATUS_VALUE(name, value, closes, text) MIDGE_##name,
    MIDGE_STATUS_TABLE(STATUS_VALUE)
#undef STATUS_VALUE
};

#define ALL_COUNT (sizeof(all) / sizeof(all[0]))

static void expect_text(enum midge_status status, const char *text, bool closes)
{
    cr_expect_str_eq(midge_status_text(status), text);
    cr_expect_eq(midge_status_closes(status), closes, "%s", text);
}

Test(status, texts_are_those_of_nats_server)
{
    expect_text(MIDGE_E_PARSE, "Unknown Protocol Operation", true);
    expect_text(MIDGE_E_CONTROL_LINE, "maximum control line exceeded", true);
    expect_text(MIDGE_E_PAYLOAD, "Maximum Payload Violation", true);
    expect_text(MIDGE_E_SUBJECT, "Invalid Subject", false);
    expect_text(MIDGE_E_PUB_SUBJECT, "Invalid Publish Subject", false);
    expect_text(MIDGE_E_AUTH, "Authorization Violation", true);
    expect_text(MIDGE_E_AUTH_TIMEOUT, "Authentication Timeout", true);
    expect_text(MIDGE_E_PROTOCOL, "invalid client protocol", true);
    expect_text(MIDGE_E_NEEDS_HEADERS, "no responders requires headers support", true);
    expect_text(MIDGE_E_MAX_CONNECTIONS, "maximum connections exceeded", true);
    expect_text(MIDGE_E_MAX_SUBS, "maximum subscriptions exceeded", false);
    expect_text(MIDGE_E_STALE, "Stale Connection", true);
}

Test(status, what_nats_server_closes_silently_has_no_text)
{
    expect_text(MIDGE_E_ARGS, "", true);
    expect_text(MIDGE_E_HEADERS, "", true);
    expect_text(MIDGE_E_PEER_ERR, "", true);
    expect_text(MIDGE_E_SLOW_PENDING, "", true);
    expect_text(MIDGE_E_SLOW_DEADLINE, "", true);
}

Test(status, flow_is_positive_and_never_closes)
{
    cr_expect_eq(MIDGE_OK, 0);
    cr_expect_gt((int)MIDGE_AGAIN, 0);
    cr_expect_gt((int)MIDGE_FULL, 0);
    for (size_t i = 0; i < ALL_COUNT; i++) {
        if ((int)all[i] >= 0)
            expect_text(all[i], "", false);
    }
}

Test(status, values_and_names_are_unique)
{
    for (size_t i = 0; i < ALL_COUNT; i++) {
        cr_expect_gt(strlen(midge_status_name(all[i])), 1);
        for (size_t k = i + 1; k < ALL_COUNT; k++) {
            cr_expect_neq((int)all[i], (int)all[k]);
            cr_expect_str_neq(midge_status_name(all[i]), midge_status_name(all[k]));
        }
    }
    cr_expect_str_eq(midge_status_name(MIDGE_E_PARSE), "E_PARSE");
}
