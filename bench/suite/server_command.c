/* Words of a server's command line; see server_command.h. */
#include "server_command.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <wordexp.h>

/* wordexp() takes no braces outside quotes. So {port} and {socket} go through it as one byte each
 * that no shell knows; the answer to `'{port}'` is then the same as to `{port}`. */
#define PORT_MARK   '\1'
#define SOCKET_MARK '\2'

/* Words that are added at most. */
#define ADDED_MAX 6u

struct work {
    const char *name;
    const struct midge_server_place *place;
    bool has_port; /* the command says where it goes */
    bool has_socket;
};

static enum midge_status refuse(const char *name, const char *why)
{
    if (name != NULL)
        (void)fprintf(stderr, "midge-bench: %s: %s\n", name, why);
    return MIDGE_E_CONFIG;
}

/* Copy, with marks for {port} and {socket}. @return own; NULL without memory */
static char *mark(struct work *work, const char *text)
{
    static const char port[] = "{port}";
    static const char socket[] = "{socket}";
    char *marked = (char *)malloc(strlen(text) + 1);
    size_t len = 0;

    while (marked != NULL && *text != '\0') {
        if (strncmp(text, port, sizeof port - 1) == 0) {
            marked[len++] = PORT_MARK;
            text += sizeof port - 1;
            work->has_port = true;
        } else if (strncmp(text, socket, sizeof socket - 1) == 0) {
            marked[len++] = SOCKET_MARK;
            text += sizeof socket - 1;
            work->has_socket = true;
        } else {
            marked[len++] = *text++;
        }
    }
    if (marked != NULL)
        marked[len] = '\0';
    return marked;
}

/* A word with port and socket in the place of their marks. @return own; NULL without memory */
static char *fill(const struct work *work, const char *word)
{
    char *filled = NULL;
    size_t len = 0;
    FILE *file = open_memstream(&filled, &len);

    if (file == NULL)
        return NULL;
    for (; *word != '\0'; word++) {
        if (*word != PORT_MARK && *word != SOCKET_MARK)
            (void)fputc(*word, file);
        else if (work->place != NULL && *word == PORT_MARK)
            (void)fprintf(file, "%u", work->place->port);
        else if (work->place != NULL)
            (void)fputs(work->place->socket, file);
    }
    if (fclose(file) != 0) {
        free(filled);
        return NULL;
    }
    return filled;
}

static const char *base_of(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash == NULL ? path : slash + 1;
}

static enum midge_status add(struct midge_server_command *command, char *word)
{
    if (word == NULL)
        return MIDGE_E_MEMORY;
    command->words[command->count++] = word;
    return MIDGE_OK;
}

const char *midge_server_command_name(const struct midge_server_command *command)
{
    return base_of(command->words[command->program]);
}

static bool is_called(const struct midge_server_command *command, const char *name)
{
    return strcmp(midge_server_command_name(command), name) == 0;
}

/* Behind env and its variables, if there is something. */
static uint32_t find_program(const struct midge_server_command *command)
{
    uint32_t program = 0;

    if (strcmp(base_of(command->words[0]), "env") != 0)
        return 0;
    do {
        program++;
    } while (program < command->count && strchr(command->words[program], '=') != NULL);
    return program < command->count ? program : 0;
}

/* What a server that we know needs to listen there. */
static enum midge_status add_place(const struct work *work, struct midge_server_command *command)
{
    static const char *const tcp[] = {"-a", "127.0.0.1", "-p", "\1"};
    static const char *const unix_socket[] = {"--unix", "\2"};
    const bool is_midge = is_called(command, "midge-server");
    const bool is_known = is_midge || is_called(command, "nats-server");
    enum midge_status status = MIDGE_OK;

    if (work->place->is_unix && !work->has_socket && !is_midge)
        return refuse(work->name, is_known ? "nats-server has no Unix socket"
                                           : "its command does not say where the path of its Unix "
                                             "socket belongs: write {socket} there");
    if (!work->place->is_unix && !work->has_port && (work->has_socket || !is_known))
        return refuse(work->name, "its command does not say where its port belongs: write {port} "
                                  "there");
    if (is_known && !work->has_port && !work->has_socket) {
        for (size_t i = 0; status == MIDGE_OK && i < sizeof tcp / sizeof tcp[0]; i++)
            status = add(command, fill(work, tcp[i]));
    }
    if (work->place->is_unix && !work->has_socket) {
        for (size_t i = 0; status == MIDGE_OK && i < 2; i++)
            status = add(command, fill(work, unix_socket[i]));
    }
    return status;
}

static enum midge_status explain(const char *name, int error)
{
    switch (error) {
    case WRDE_BADCHAR:
        return refuse(name, "its command has one of | & ; < > ( ) { } or a line break outside "
                            "quotes, and no shell runs it");
    case WRDE_BADVAL:
        return refuse(name, "its command has a variable that is not set");
    case WRDE_CMDSUB:
        return refuse(name, "its command has a command inside, and no shell runs it");
    case WRDE_SYNTAX:
        return refuse(name, "its command has a quote or a bracket that does not end");
    case WRDE_NOSPACE:
        return MIDGE_E_MEMORY;
    default:
        return refuse(name, "its command cannot be split into words");
    }
}

static enum midge_status take_words(const struct work *work, const wordexp_t *split,
                                    struct midge_server_command *command)
{
    enum midge_status status = MIDGE_OK;

    if (split->we_wordc == 0 || split->we_wordv[0][0] == '\0')
        return refuse(work->name, "its command is empty");
    if (strchr(split->we_wordv[0], '=') != NULL)
        return refuse(work->name, "its command begins with a variable, and no shell runs it: write "
                                  "env before it");
    command->words = (char **)calloc(split->we_wordc + ADDED_MAX + 1, sizeof command->words[0]);
    if (command->words == NULL)
        return MIDGE_E_MEMORY;
    for (size_t i = 0; status == MIDGE_OK && i < split->we_wordc; i++)
        status = add(command, fill(work, split->we_wordv[i]));
    if (status == MIDGE_OK)
        command->program = find_program(command);
    if (status == MIDGE_OK && work->place != NULL)
        status = add_place(work, command);
    return status;
}

enum midge_status midge_server_command_init(const char *name, const char *text,
                                            const struct midge_server_place *place,
                                            struct midge_server_command *command_out)
{
    struct midge_server_command command = {.count = 0};
    struct work work = {.name = name, .place = place};
    enum midge_status status = MIDGE_OK;
    wordexp_t split;

    if (strpbrk(text, "\1\2") != NULL)
        return refuse(name, "its command has a control character");
    char *marked = mark(&work, text);

    if (marked == NULL)
        return MIDGE_E_MEMORY;
    const int error = wordexp(marked, &split, WRDE_NOCMD | WRDE_UNDEF);

    free(marked);
    if (error == WRDE_NOSPACE)
        wordfree(&split); /* of which a part may be there */
    if (error != 0)
        return explain(name, error);
    status = take_words(&work, &split, &command);
    wordfree(&split);
    if (status == MIDGE_OK)
        *command_out = command;
    else
        midge_server_command_deinit(&command);
    return status;
}

void midge_server_command_deinit(struct midge_server_command *command)
{
    for (uint32_t i = 0; i < command->count; i++)
        free(command->words[i]);
    free(command->words);
    *command = (struct midge_server_command){.count = 0};
}
