/* The `midge` command: finds the subcommand. See midge(1). */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli.h"

static const struct midge_cli_command *const commands[] = {
    &midge_cli_pub, &midge_cli_sub,     &midge_cli_req,   &midge_cli_reply,
    &midge_cli_rtt, &midge_cli_service, &midge_cli_server};

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

static const struct midge_cli_command *need_command(const char *name)
{
    const struct midge_cli_command *command = find_command(name);

    if (command != NULL)
        return command;
    (void)fprintf(stderr, "midge: there is no command '%s'; `midge --help` lists them\n", name);
    exit(MIDGE_CLI_EXIT_USAGE);
}

/* `midge help [COMMAND]`. */
static int help(const char *name)
{
    if (name != NULL)
        midge_cli_show_help(stdout, need_command(name));
    else
        show_commands(stdout);
    midge_cli_flush();
    return MIDGE_CLI_EXIT_OK;
}

/* Flags that stand before the command are read with those behind it. */
static void move_to_front(char **argv, int index)
{
    char *word = argv[index];

    memmove(argv + 2, argv + 1, (size_t)(index - 1) * sizeof(*argv));
    argv[1] = word;
}

/* A standard descriptor that is closed would go to what is opened next, and output to the server.
 * Each is opened the wrong way round instead, so that its use fails as that of a closed one. */
static void occupy_standard_descriptors(void)
{
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++) {
        if (fcntl(fd, F_GETFD) < 0 && errno == EBADF &&
            open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY) != fd)
            _exit(MIDGE_CLI_EXIT_ERROR);
    }
}

int main(int argc, char **argv)
{
    const struct midge_cli_command *command;
    struct midge_cli cli = {0};
    int asked = 0;
    int index;

    occupy_standard_descriptors();
    index = midge_cli_skip_flags(argc, argv, &asked);
    if (asked == MIDGE_CLI_FLAG_VERSION) {
        (void)puts("midge v" MIDGE_VERSION);
        midge_cli_flush();
        return MIDGE_CLI_EXIT_OK;
    }
    if (asked == MIDGE_CLI_FLAG_HELP)
        return help(argv[index]);
    if (index == argc) {
        show_commands(stderr);
        return MIDGE_CLI_EXIT_USAGE;
    }
    if (strcmp(argv[index], "help") == 0)
        return help(argv[index + 1]);
    command = need_command(argv[index]);
    move_to_front(argv, index);
    midge_cli_parse(&cli, command, argc - 1, argv + 1);
    return midge_cli_end(&cli, command->run(&cli));
}
