/* Flags: one table for all subcommands, which names them, reads them and describes them. */
#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"

/* No wait of ours is longer: 1,000 hours. */
#define DURATION_MS_MAX 3600000000.0

#define FLAG_COUNT_MAX 40u

struct flag {
    enum midge_cli_flag flag;
    const char *name;
    const char *value; /* what it takes, for the help page; NULL = nothing */
    const char *help;
    const char *environment; /* has it where the command line does not; NULL = nothing */
};

static const struct flag flags[] = {
    {MIDGE_CLI_FLAG_SERVER, "server", "URL",
     "where: nats://, tls:// or unix:///path; several by commas", NULL},
    {MIDGE_CLI_FLAG_CONTEXT, "context", "NAME", "a context of the `nats` command", "NATS_CONTEXT"},
    {MIDGE_CLI_FLAG_USER, "user", "NAME", "name, or a token if there is no password", "NATS_USER"},
    {MIDGE_CLI_FLAG_PASSWORD, "password", "WORD", "password", "NATS_PASSWORD"},
    {MIDGE_CLI_FLAG_TOKEN, "token", "WORD", "token", "NATS_TOKEN"},
    {MIDGE_CLI_FLAG_CREDS, "creds", "FILE", "credentials: a JWT and its seed", "NATS_CREDS"},
    {MIDGE_CLI_FLAG_NKEY, "nkey", "FILE", "a file that holds an nkey seed", "NATS_NKEY"},
    {MIDGE_CLI_FLAG_TLS_CA, "tlsca", "FILE", "certificates that are trusted, PEM", "NATS_CA"},
    {MIDGE_CLI_FLAG_TLS_CERT, "tlscert", "FILE", "the client's certificate, PEM", "NATS_CERT"},
    {MIDGE_CLI_FLAG_TLS_KEY, "tlskey", "FILE", "its key, PEM", "NATS_KEY"},
    {MIDGE_CLI_FLAG_TLS_FIRST, "tlsfirst", NULL, "TLS begins before the server's INFO", NULL},
    {MIDGE_CLI_FLAG_INBOX_PREFIX, "inbox-prefix", "SUBJECT", "where replies come to, not _INBOX",
     NULL},
    {MIDGE_CLI_FLAG_HELP, "help", NULL, "this page", NULL},
    {MIDGE_CLI_FLAG_VERSION, "version", NULL, "the release of this command", NULL},
    {MIDGE_CLI_FLAG_COUNT, "count", "N", "how many", NULL},
    {MIDGE_CLI_FLAG_INTERVAL, "interval", "TIME", "from one message to the next", NULL},
    {MIDGE_CLI_FLAG_HEADER, "header", "NAME:VALUE", "a header; may be given again", NULL},
    {MIDGE_CLI_FLAG_REPLY, "reply", "SUBJECT", "where answers are to be sent", NULL},
    {MIDGE_CLI_FLAG_LINES, "lines", NULL, "each line of standard input is a message", NULL},
    {MIDGE_CLI_FLAG_QUEUE, "queue", "NAME", "queue group: one of its members gets each message",
     NULL},
    {MIDGE_CLI_FLAG_TIMEOUT, "timeout", "TIME", "how long to wait, such as 500ms or 2s", NULL},
    {MIDGE_CLI_FLAG_REPLIES, "replies", "N", "wait for so many; 0 = for all until the time is over",
     NULL},
    {MIDGE_CLI_FLAG_SILENCE, "silence", "TIME", "stop when so long no further reply came", NULL},
    {MIDGE_CLI_FLAG_ECHO, "echo", NULL, "answer with the request itself", NULL},
    {MIDGE_CLI_FLAG_RELEASE, "release", "VERSION", "of the service, such as 1.0.0", NULL},
    {MIDGE_CLI_FLAG_DESCRIPTION, "description", "TEXT", "of the service", NULL},
    {MIDGE_CLI_FLAG_ENDPOINT, "endpoint", "NAME", "what SUBJECT is called, not default", NULL},
    {MIDGE_CLI_FLAG_RAW, "raw", NULL, "payloads alone, each as a line", NULL},
    {MIDGE_CLI_FLAG_HEADERS_ONLY, "headers-only", NULL, "do not show payloads", NULL},
    {MIDGE_CLI_FLAG_JSON, "json", NULL, "one JSON object a line", NULL},
};

static const enum midge_cli_flag connection_flags[] = {
    MIDGE_CLI_FLAG_SERVER,   MIDGE_CLI_FLAG_CONTEXT,   MIDGE_CLI_FLAG_USER,
    MIDGE_CLI_FLAG_PASSWORD, MIDGE_CLI_FLAG_TOKEN,     MIDGE_CLI_FLAG_CREDS,
    MIDGE_CLI_FLAG_NKEY,     MIDGE_CLI_FLAG_TLS_CA,    MIDGE_CLI_FLAG_TLS_CERT,
    MIDGE_CLI_FLAG_TLS_KEY,  MIDGE_CLI_FLAG_TLS_FIRST, MIDGE_CLI_FLAG_INBOX_PREFIX,
    MIDGE_CLI_FLAG_HELP,     (enum midge_cli_flag)0,
};

static const struct flag *find_flag(int flag)
{
    for (size_t i = 0; i < sizeof(flags) / sizeof(flags[0]); i++) {
        if ((int)flags[i].flag == flag)
            return &flags[i];
    }
    return NULL;
}

/* --- help --- */

static void show_flags(FILE *file, const enum midge_cli_flag *wanted)
{
    for (; *wanted != 0; wanted++) {
        const struct flag *flag = find_flag((int)*wanted);
        char left[64];
        char letter[8] = "    ";

        if (isalpha((int)flag->flag))
            (void)snprintf(letter, sizeof(letter), "-%c, ", (int)flag->flag);
        (void)snprintf(left, sizeof(left), "%s--%s%s%s", letter, flag->name,
                       flag->value != NULL ? " " : "", flag->value != NULL ? flag->value : "");
        (void)fprintf(file, "  %-26s %s%s%s%s\n", left, flag->help,
                      flag->environment != NULL ? " ($" : "",
                      flag->environment != NULL ? flag->environment : "",
                      flag->environment != NULL ? ")" : "");
    }
}

void midge_cli_show_help(FILE *file, const struct midge_cli_command *command)
{
    (void)fprintf(file, "usage: midge %s %s\n\n%s\n", command->name, command->arguments,
                  command->help);
    if (*command->flags != 0) {
        (void)fputc('\n', file);
        show_flags(file, command->flags);
    }
    (void)fputs("\nConnection:\n", file);
    show_flags(file, connection_flags);
}

void midge_cli_usage(const struct midge_cli *cli, const char *format, ...)
{
    const struct midge_cli_command *command = cli->command;
    va_list arguments;

    (void)fprintf(stderr, "midge%s%s: ", command != NULL ? " " : "",
                  command != NULL ? command->name : "");
    va_start(arguments, format);
    (void)vfprintf(stderr, format, arguments);
    va_end(arguments);
    if (command != NULL)
        (void)fprintf(stderr,
                      "\nusage: midge %s %s\n`midge %s --help` has the flags and an example\n",
                      command->name, command->arguments, command->name);
    else
        (void)fputs("\nusage: midge COMMAND [ARGUMENT...]\n`midge --help` lists the commands\n",
                    stderr);
    exit(MIDGE_CLI_EXIT_USAGE);
}

/* --- values --- */

bool midge_cli_parse_duration(const char *text, uint64_t *ms_out)
{
    static const struct {
        const char *name;
        double ms;
    } units[] = {{"", 1000}, {"ms", 1}, {"s", 1000}, {"m", 60000}, {"h", 3600000}};
    char *end;
    double value;

    if (!isdigit((unsigned char)*text) && *text != '.')
        return false;
    errno = 0;
    value = strtod(text, &end);
    if (end == text || errno != 0 || !isfinite(value))
        return false;
    for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++) {
        if (strcmp(end, units[i].name) != 0)
            continue;
        if (value * units[i].ms > DURATION_MS_MAX)
            return false;
        /* What is not 0 is a millisecond at least. */
        *ms_out = (uint64_t)ceil(value * units[i].ms);
        return true;
    }
    return false;
}

static uint64_t read_duration(const struct midge_cli *cli, const char *name, const char *text)
{
    uint64_t ms;

    if (!midge_cli_parse_duration(text, &ms))
        midge_cli_usage(cli, "--%s takes a time such as 500ms, 2s or 1m, not '%s'", name, text);
    return ms;
}

static uint64_t read_number(const struct midge_cli *cli, const char *name, const char *text,
                            uint64_t min)
{
    char *end;
    unsigned long long value;

    errno = 0;
    value = strtoull(text, &end, 10);
    if (!isdigit((unsigned char)*text) || *end != '\0' || errno != 0 || value < min)
        midge_cli_usage(cli, "--%s takes a number from %llu on, not '%s'", name,
                        (unsigned long long)min, text);
    return value;
}

static void add_header(struct midge_cli *cli, const char *text)
{
    const char *colon = strchr(text, ':');
    enum midge_status status;
    char *name;

    if (colon == NULL)
        midge_cli_usage(cli, "--header takes NAME:VALUE, not '%s'", text);
    if (cli->headers == NULL)
        cli->headers = midge_headers_create();
    name = strndup(text, (size_t)(colon - text));
    if (cli->headers == NULL || name == NULL)
        exit(midge_cli_fail(cli, "headers", MIDGE_E_MEMORY));
    for (colon++; *colon == ' '; colon++)
        continue;
    status = midge_headers_add(cli->headers, name, colon);
    free(name);
    if (status == MIDGE_E_HEADERS)
        midge_cli_usage(
            cli, "'%s' cannot be a header: a name has no blanks, and a value no line breaks", text);
    if (status != MIDGE_OK)
        exit(midge_cli_fail(cli, "headers", status));
}

/* Take the seed of the file --nkey: its first line that begins with S. */
static void read_nkey(struct midge_cli *cli)
{
    char line[256];
    FILE *file = fopen(cli->nkey_file, "re");

    if (file == NULL)
        midge_cli_usage(cli, "the nkey file %s: %s", cli->nkey_file, strerror(errno));
    while (cli->nkey_seed == NULL && fgets(line, sizeof(line), file) != NULL) {
        line[strcspn(line, " \t\r\n")] = '\0';
        if (line[0] == 'S')
            cli->nkey_seed = strdup(line);
    }
    explicit_bzero(line, sizeof(line));
    (void)fclose(file);
    if (cli->nkey_seed == NULL)
        midge_cli_usage(cli, "the nkey file %s holds no seed: a line that begins with S",
                        cli->nkey_file);
    cli->options.nkey_seed = cli->nkey_seed;
}

/* --- reading --- */

/* Where the text of a flag for the connection goes. @return NULL if it has none */
static const char **text_of(struct midge_cli *cli, int flag)
{
    struct midge_options *options = &cli->options;
    const struct {
        enum midge_cli_flag flag;
        const char **text;
    } texts[] = {
        {MIDGE_CLI_FLAG_SERVER, &options->url},
        {MIDGE_CLI_FLAG_CONTEXT, &cli->context_name},
        {MIDGE_CLI_FLAG_USER, &options->user},
        {MIDGE_CLI_FLAG_PASSWORD, &options->password},
        {MIDGE_CLI_FLAG_TOKEN, &options->token},
        {MIDGE_CLI_FLAG_CREDS, &options->credentials_file},
        {MIDGE_CLI_FLAG_NKEY, &cli->nkey_file},
        {MIDGE_CLI_FLAG_TLS_CA, &options->tls_ca_file},
        {MIDGE_CLI_FLAG_TLS_CERT, &options->tls_cert_file},
        {MIDGE_CLI_FLAG_TLS_KEY, &options->tls_key_file},
        {MIDGE_CLI_FLAG_INBOX_PREFIX, &options->inbox_prefix},
    };

    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        if ((int)texts[i].flag == flag)
            return texts[i].text;
    }
    return NULL;
}

static void set_flag(struct midge_cli *cli, int flag, const char *value)
{
    const char **text = text_of(cli, flag);

    if (text != NULL) {
        *text = value;
    } else if (flag == MIDGE_CLI_FLAG_TLS_FIRST) {
        cli->options.tls = MIDGE_TLS_FIRST;
    } else if (flag == MIDGE_CLI_FLAG_COUNT) {
        cli->count = read_number(cli, "count", value, 1);
    } else if (flag == MIDGE_CLI_FLAG_REPLIES) {
        cli->replies = read_number(cli, "replies", value, 0);
        cli->has_replies = true;
    } else if (flag == MIDGE_CLI_FLAG_INTERVAL) {
        cli->interval_ms = read_duration(cli, "interval", value);
    } else if (flag == MIDGE_CLI_FLAG_TIMEOUT) {
        cli->timeout_ms = read_duration(cli, "timeout", value);
        cli->has_timeout = true;
    } else if (flag == MIDGE_CLI_FLAG_SILENCE) {
        cli->silence_ms = read_duration(cli, "silence", value);
    } else if (flag == MIDGE_CLI_FLAG_HEADER) {
        add_header(cli, value);
    } else if (flag == MIDGE_CLI_FLAG_QUEUE) {
        cli->queue = value;
    } else if (flag == MIDGE_CLI_FLAG_REPLY) {
        cli->reply = value;
    } else if (flag == MIDGE_CLI_FLAG_RELEASE) {
        cli->release = value;
    } else if (flag == MIDGE_CLI_FLAG_DESCRIPTION) {
        cli->description = value;
    } else if (flag == MIDGE_CLI_FLAG_ENDPOINT) {
        cli->endpoint = value;
    } else if (flag == MIDGE_CLI_FLAG_JSON) {
        cli->is_json = true;
    } else if (flag == MIDGE_CLI_FLAG_RAW) {
        cli->is_raw = true;
    } else if (flag == MIDGE_CLI_FLAG_HEADERS_ONLY) {
        cli->is_headers_only = true;
    } else if (flag == MIDGE_CLI_FLAG_LINES) {
        cli->is_lines = true;
    } else if (flag == MIDGE_CLI_FLAG_ECHO) {
        cli->is_echo = true;
    }
}

/* What getopt_long() needs to know. */
struct getopt_flags {
    char letters[2 * FLAG_COUNT_MAX + 2];
    struct option longs[FLAG_COUNT_MAX + 1];
    size_t letters_len;
    size_t long_count;
};

static void add_flag(struct getopt_flags *known, const struct flag *flag)
{
    const int takes = flag->value != NULL ? required_argument : no_argument;

    known->longs[known->long_count++] = (struct option){flag->name, takes, NULL, (int)flag->flag};
    if (!isalpha((int)flag->flag))
        return;
    known->letters[known->letters_len++] = (char)flag->flag;
    if (takes == required_argument)
        known->letters[known->letters_len++] = ':';
}

static void add_flags(struct getopt_flags *known, const enum midge_cli_flag *wanted)
{
    for (; *wanted != 0; wanted++)
        add_flag(known, find_flag((int)*wanted));
}

/* Say what getopt_long() did not like. @param word  the one it has come to */
static void refuse(const struct midge_cli *cli, int answer, const char *word)
{
    const struct flag *flag = find_flag(optopt);

    if (answer == ':' && flag != NULL)
        midge_cli_usage(cli, "--%s needs a value: %s", flag->name, flag->value);
    if (flag != NULL && flag->value == NULL)
        midge_cli_usage(cli, "--%s takes no value", flag->name);
    if (optopt != 0)
        midge_cli_usage(cli, "there is no flag -%c (a word that begins with - goes behind --)",
                        optopt);
    midge_cli_usage(cli, "there is no flag %s (a word that begins with - goes behind --)", word);
}

/* Whether the environment may say it: not who connects if that is known, but a user's password. */
static bool may_be_outside(const struct midge_cli *cli, enum midge_cli_flag flag, bool knows_who)
{
    if (flag == MIDGE_CLI_FLAG_PASSWORD)
        return cli->options.user != NULL;
    return !knows_who || (flag != MIDGE_CLI_FLAG_USER && flag != MIDGE_CLI_FLAG_TOKEN &&
                          flag != MIDGE_CLI_FLAG_CREDS && flag != MIDGE_CLI_FLAG_NKEY);
}

/* Take from the environment what has not been said yet. */
static void read_environment(struct midge_cli *cli)
{
    const bool knows_who = midge_cli_knows_who(cli);

    for (size_t i = 0; i < sizeof(flags) / sizeof(flags[0]); i++) {
        const struct flag *flag = &flags[i];
        const char *value = flag->environment != NULL ? getenv(flag->environment) : NULL;
        const char **text = text_of(cli, (int)flag->flag);

        if (value != NULL && *value != '\0' && *text == NULL &&
            may_be_outside(cli, flag->flag, knows_who))
            *text = value;
    }
}

/* Ask all who may know how to connect. A context that was asked for goes before the environment,
 * and that before the selected one. */
static void read_connection(struct midge_cli *cli)
{
    struct midge_options *options = &cli->options;
    const char *context = getenv("NATS_CONTEXT");

    if (cli->context_name == NULL && context != NULL && *context != '\0')
        cli->context_name = context;
    if (cli->context_name != NULL)
        midge_cli_apply_context(cli);
    read_environment(cli);
    if (cli->context_name == NULL)
        midge_cli_apply_context(cli);
    if (cli->nkey_file != NULL)
        read_nkey(cli);
    if (options->password != NULL && options->user == NULL)
        midge_cli_usage(cli, "--password needs --user");
    /* As the `nats` command has it. */
    if (options->user != NULL && options->password == NULL && options->token == NULL) {
        options->token = options->user;
        options->user = NULL;
    }
}

bool midge_cli_knows_who(const struct midge_cli *cli)
{
    return cli->options.user != NULL || cli->options.token != NULL || cli->nkey_file != NULL ||
           cli->options.credentials_file != NULL;
}

int midge_cli_skip_flags(int argc, char **argv, int *asked_out)
{
    const struct midge_cli nothing = {0};
    struct getopt_flags known = {.letters = "+:", .letters_len = 2};
    int flag;

    for (size_t i = 0; i < sizeof(flags) / sizeof(flags[0]); i++)
        add_flag(&known, &flags[i]);
    opterr = 0;
    while ((flag = getopt_long(argc, argv, known.letters, known.longs, NULL)) != -1) {
        if (flag == ':' || flag == '?')
            refuse(&nothing, flag, argv[optind - 1]);
        if (flag == MIDGE_CLI_FLAG_HELP || flag == MIDGE_CLI_FLAG_VERSION)
            *asked_out = flag;
    }
    return optind;
}

void midge_cli_parse(struct midge_cli *cli, const struct midge_cli_command *command, int argc,
                     char **argv)
{
    struct getopt_flags known = {.letters = ":", .letters_len = 1};
    int flag;

    cli->command = command;
    midge_options_init(&cli->options);
    add_flags(&known, connection_flags);
    add_flags(&known, command->flags);
    optind = 0; /* from the start, with other letters */
    while ((flag = getopt_long(argc, argv, known.letters, known.longs, NULL)) != -1) {
        if (flag == ':' || flag == '?')
            refuse(cli, flag, argv[optind - 1]);
        if (flag == MIDGE_CLI_FLAG_HELP) {
            midge_cli_show_help(stdout, command);
            midge_cli_flush();
            exit(MIDGE_CLI_EXIT_OK);
        }
        set_flag(cli, flag, optarg);
    }
    cli->words = argv + optind;
    cli->word_count = argc - optind;
    if (cli->word_count < command->words_min)
        midge_cli_usage(cli, "%s is missing", command->needs);
    if (command->words_max >= 0 && cli->word_count > command->words_max)
        midge_cli_usage(cli, "'%s' is one word too many; quote a payload that has blanks",
                        cli->words[command->words_max]);
    if (cli->is_raw && (cli->is_json || cli->is_headers_only))
        midge_cli_usage(cli, "--raw is for payloads alone, so it excludes --%s",
                        cli->is_json ? "json" : "headers-only");
    read_connection(cli);
}
