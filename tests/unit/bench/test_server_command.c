/*
 * Words of a server's command line. Method: command, where the server is to listen, the words
 * joined by '|'; one behaviour per test.
 */
#include "server_command.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct midge_server_place tcp = {.socket = "/run/a b.sock", .port = 4223};
static const struct midge_server_place unix_socket = {
    .socket = "/run/a b.sock", .port = 4223, .is_unix = true};

static void expect_words(const struct midge_server_place *place, const char *text,
                         const char *expected)
{
    struct midge_server_command command;
    char joined[512] = "";
    size_t len = 0;

    cr_assert_eq(midge_server_command_init("a", text, place, &command), MIDGE_OK, "%s", text);
    for (uint32_t i = 0; i < command.count; i++)
        len += (size_t)snprintf(joined + len, sizeof joined - len, "%s%s", i == 0 ? "" : "|",
                                command.words[i]);
    cr_expect_str_eq(joined, expected, "%s, not %s", joined, expected);
    cr_expect_null(command.words[command.count]);
    midge_server_command_deinit(&command);
}

static void expect_refused(const struct midge_server_place *place, const char *text)
{
    struct midge_server_command command = {.count = 42};

    cr_expect_eq(midge_server_command_init(NULL, text, place, &command), MIDGE_E_CONFIG, "%s",
                 text);
    cr_expect_eq(command.count, 42, "a failed call leaves its argument alone");
}

Test(server_command, servers_that_are_known_are_told_where_to_listen)
{
    expect_words(&tcp, "nats-server", "nats-server|-a|127.0.0.1|-p|4223");
    expect_words(&tcp, "/opt/x/midge-server -D", "/opt/x/midge-server|-D|-a|127.0.0.1|-p|4223");
    expect_words(&unix_socket, "midge-server",
                 "midge-server|-a|127.0.0.1|-p|4223|--unix|/run/a b.sock");
}

Test(server_command, env_is_not_the_server)
{
    struct midge_server_command command;

    expect_words(&tcp, "env A=1 B= /opt/nats-server",
                 "env|A=1|B=|/opt/nats-server|-a|127.0.0.1|-p|4223");
    cr_assert_eq(
        midge_server_command_init("a", "/usr/bin/env A=1 /opt/nats-server -D", &tcp, &command),
        MIDGE_OK);
    cr_expect_str_eq(midge_server_command_name(&command), "nats-server");
    midge_server_command_deinit(&command);
    /* There is nothing behind it. */
    cr_assert_eq(midge_server_command_init("a", "env A=1", NULL, &command), MIDGE_OK);
    cr_expect_str_eq(midge_server_command_name(&command), "env");
    midge_server_command_deinit(&command);
}

Test(server_command, command_that_says_it_itself_is_left_alone)
{
    expect_words(&tcp, "nats-server -p {port}", "nats-server|-p|4223");
    expect_words(&tcp, "env A=1 nats-server --port={port}", "env|A=1|nats-server|--port=4223");
    expect_words(&unix_socket, "other {port} {socket}", "other|4223|/run/a b.sock");
    expect_words(&unix_socket, "midge-server --unix {socket}", "midge-server|--unix|/run/a b.sock");
}

Test(server_command, midge_with_a_port_of_its_own_still_gets_a_unix_socket)
{
    expect_words(&unix_socket, "midge-server -p {port}",
                 "midge-server|-p|4223|--unix|/run/a b.sock");
}

Test(server_command, quotes_hold_words_together_and_do_not_hide_places)
{
    expect_words(&tcp, "x 'a b' \"{port} c\" d\\ e '{port}'", "x|a b|4223 c|d e|4223");
}

Test(server_command, variables_of_the_environment_are_put_in)
{
    cr_assert_eq(setenv("MIDGE_TEST_WORD", "a b", 1), 0);
    expect_words(&tcp, "x {port} $MIDGE_TEST_WORD \"$MIDGE_TEST_WORD\"", "x|4223|a|b|a b");
    cr_assert_eq(unsetenv("MIDGE_TEST_WORD"), 0);
    expect_refused(&tcp, "x {port} $MIDGE_TEST_WORD");
}

Test(server_command, what_needs_a_shell_is_refused)
{
    expect_refused(&tcp, "x {port} | tee log");
    expect_refused(&tcp, "x {port} > log");
    expect_refused(&tcp, "x {port} &");
    expect_refused(&tcp, "x {port} $(date)");
    expect_refused(&tcp, "x {port} `date`");
    expect_refused(&tcp, "x {port} {other}");
    expect_refused(&tcp, "A=1 nats-server -p {port}");
}

Test(server_command, what_is_no_command_is_refused)
{
    expect_refused(&tcp, "");
    expect_refused(&tcp, "  ");
    expect_refused(&tcp, "''");
    expect_refused(&tcp, "x 'y {port}");
    expect_refused(&tcp, "x \1 {port}");
}

Test(server_command, unknown_server_without_a_place_is_refused)
{
    expect_refused(&tcp, "other");
    expect_refused(&tcp, "other {socket}");
    expect_refused(&tcp, "midge-server --unix {socket}");
    expect_refused(&tcp, "nice nats-server");
}

Test(server_command, server_without_a_unix_socket_is_refused)
{
    expect_refused(&unix_socket, "nats-server");
    expect_refused(&unix_socket, "nats-server -p {port}");
    expect_refused(&unix_socket, "other {port}");
}

Test(server_command, without_a_place_only_the_command_is_split)
{
    expect_words(NULL, "midge-server -p {port}", "midge-server|-p|");
}
