/* The `midge` command: finds the subcommand. See midge(1). */
#include <stdlib.h>
#include <string.h>

#include "cli.h"

static const struct midge_cli_command *const commands[] = {&midge_cli_pub, &midge_cli_sub,
                                                           &midge_cli_req, &midge_cli_reply,
                                                           &midge_cli_rtt, &midge_cli_server};

#define COMMAND_COUNT (sizeof(commands) / sizeof(commands[0]))

static void show_commands(FILE *file)
{
    (void)fputs("usage: midge COMMAND [ARGUMENT...]\n\n"
                "Publish, subscribe and make requests on a NATS server or a midge-server.\n\n",
                file);
    for (size_t i = 0; i < COMMAND_COUNT; i++)
        (void)fprintf(file, "  %-8s %s\n", commands[i]->name, commands[i]->summary);
    (void)fputs("\n  midge COMMAND --help   flags and an example\n"
                "  midge --version\n\n"
                "The server is --server, $NATS_URL, what the selected context of the `nats` "
                "command says,\nor nats://127.0.0.1:4222. In two terminals:\n\n"
                "  midge reply 'greet.*' --echo\n"
                "  midge req greet.joe hi\n",
                file);
}

static const struct midge_cli_command *find_command(const char *name)
{
    for (size_t i = 0; i < COMMAND_COUNT; i++) {
        if (strcmp(commands[i]->name, name) == 0)
            return commands[i];
    }
    return NULL;
}

/* `midge help [COMMAND]`. */
static int help(const char *name)
{
    const struct midge_cli_command *command = name != NULL ? find_command(name) : NULL;

    if (command != NULL)
        midge_cli_show_help(stdout, command);
    else
        show_commands(stdout);
    return MIDGE_CLI_EXIT_OK;
}

int main(int argc, char **argv)
{
    const struct midge_cli_command *command;
    struct midge_cli cli = {0};

    if (argc < 2) {
        show_commands(stderr);
        return MIDGE_CLI_EXIT_USAGE;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 ||
        strcmp(argv[1], "help") == 0)
        return help(argc > 2 ? argv[2] : NULL);
    if (strcmp(argv[1], "--version") == 0) {
        (void)puts("midge v" MIDGE_VERSION);
        return MIDGE_CLI_EXIT_OK;
    }
    command = find_command(argv[1]);
    if (command == NULL) {
        (void)fprintf(stderr, "midge: there is no command '%s'; `midge --help` lists them\n",
                      argv[1]);
        return MIDGE_CLI_EXIT_USAGE;
    }
    midge_cli_parse(&cli, command, argc - 1, argv + 1);
    return midge_cli_end(&cli, command->run(&cli));
}
