/*
 * What the files of the `midge` command share.
 *
 *   main.c      subcommands, --help and --version
 *   flags.c     flags that several subcommands have, and how their values are read
 *   context.c   contexts that the `nats` command has stored
 *   connect.c   from flags to a connection; signals; what went wrong, in words
 *   input.c     payloads from the command line and from standard input
 *   print.c     messages for people, programs and pipes
 *   answer.c    answers to requests
 *   pub.c, sub.c, req.c, reply.c, rtt.c, server.c, service.c
 *               one subcommand each
 *
 * Thread: one; everything happens inside calls of libmidge.
 */
#ifndef MIDGE_CLI_H
#define MIDGE_CLI_H

#include <getopt.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "midge/client.h"

/* Exit statuses: part of the interface, and in the man page. */
enum midge_cli_exit {
    MIDGE_CLI_EXIT_OK = 0,
    MIDGE_CLI_EXIT_ERROR = 1,
    MIDGE_CLI_EXIT_USAGE = 2,
    MIDGE_CLI_EXIT_NO_RESPONDERS = 3,
    MIDGE_CLI_EXIT_TIMEOUT = 4,
    MIDGE_CLI_EXIT_CONNECTION = 5,
};

/* Flags by number; letters where there is a short form. */
enum midge_cli_flag {
    MIDGE_CLI_FLAG_COUNT = 'c',
    MIDGE_CLI_FLAG_HEADER = 'H',
    MIDGE_CLI_FLAG_HELP = 'h',
    MIDGE_CLI_FLAG_QUEUE = 'q',
    MIDGE_CLI_FLAG_SERVER = 's',
    MIDGE_CLI_FLAG_TIMEOUT = 't',
    MIDGE_CLI_FLAG_CONTEXT = 256,
    MIDGE_CLI_FLAG_CREDS,
    MIDGE_CLI_FLAG_DESCRIPTION,
    MIDGE_CLI_FLAG_ECHO,
    MIDGE_CLI_FLAG_ENDPOINT,
    MIDGE_CLI_FLAG_HEADERS_ONLY,
    MIDGE_CLI_FLAG_INBOX_PREFIX,
    MIDGE_CLI_FLAG_INTERVAL,
    MIDGE_CLI_FLAG_JSON,
    MIDGE_CLI_FLAG_LINES,
    MIDGE_CLI_FLAG_NKEY,
    MIDGE_CLI_FLAG_PASSWORD,
    MIDGE_CLI_FLAG_RAW,
    MIDGE_CLI_FLAG_RELEASE,
    MIDGE_CLI_FLAG_REPLIES,
    MIDGE_CLI_FLAG_REPLY,
    MIDGE_CLI_FLAG_SILENCE,
    MIDGE_CLI_FLAG_TLS_CA,
    MIDGE_CLI_FLAG_TLS_CERT,
    MIDGE_CLI_FLAG_TLS_FIRST,
    MIDGE_CLI_FLAG_TLS_KEY,
    MIDGE_CLI_FLAG_TOKEN,
    MIDGE_CLI_FLAG_USER,
    MIDGE_CLI_FLAG_VERSION,
};

struct json_t;

/* What the command line says. Strings are borrowed from argv, or from `context`. */
struct midge_cli {
    const struct midge_cli_command *command; /* NULL = not known yet */
    char **words;                            /* what is not a flag: borrowed from argv */
    int word_count;

    struct midge_options options;
    const char *context_name; /* asked for; NULL = the one that is selected */
    struct json_t *context;   /* owned; NULL = none */
    const char *nkey_file;    /* NULL = none */
    char *nkey_seed;          /* owned; NULL = none */

    struct midge_headers *headers; /* owned; NULL = none */
    const char *queue;
    const char *reply;
    const char *description; /* of a service, as the next two */
    const char *endpoint;
    const char *release;
    uint64_t count; /* 0 = not given */
    uint64_t replies;
    uint64_t interval_ms;
    uint64_t timeout_ms;
    uint64_t silence_ms;
    bool has_timeout;
    bool has_replies;
    bool is_json;
    bool is_raw;
    bool is_headers_only;
    bool is_lines;
    bool is_echo;
    bool is_terminal; /* standard output is one */
    bool is_color;    /* … that shows colours */

    struct midge_client *client; /* owned; NULL before midge_cli_connect() */
    bool is_connected;           /* has been */
    bool has_failed;             /* the server refused something; it has been said */
};

struct midge_cli_command {
    const char *name;
    const char *arguments;            /* for the usage line */
    const char *summary;              /* one line */
    const char *help;                 /* what it does, and an example */
    const enum midge_cli_flag *flags; /* its own, beside those for the connection; ends with 0 */
    const char *needs;                /* what is missing where there are too few words */
    int words_min;
    int words_max;                     /* -1 = any number */
    int (*run)(struct midge_cli *cli); /* returns the exit status */
};

extern const struct midge_cli_command midge_cli_pub;
extern const struct midge_cli_command midge_cli_sub;
extern const struct midge_cli_command midge_cli_req;
extern const struct midge_cli_command midge_cli_reply;
extern const struct midge_cli_command midge_cli_rtt;
extern const struct midge_cli_command midge_cli_server;
extern const struct midge_cli_command midge_cli_service;

/* --- flags.c --- */

/** Find the subcommand: it may stand behind flags. Ends the process with status 2 for one that no
 * subcommand has.
 * @param asked_out  MIDGE_CLI_FLAG_HELP or MIDGE_CLI_FLAG_VERSION if they stand there, else
 * untouched
 * @return its index in argv; argc if there is none */
int midge_cli_skip_flags(int argc, char **argv, int *asked_out);

/** Read the flags of a subcommand. Ends the process where it cannot: status 0 for --help, 2 for
 * what cannot be. @param cli  zeroed; filled */
void midge_cli_parse(struct midge_cli *cli, const struct midge_cli_command *command, int argc,
                     char **argv);

/** The page that --help shows. */
void midge_cli_show_help(FILE *file, const struct midge_cli_command *command);

/** Say what is wrong with the command line, and how to find help; ends with status 2. */
void midge_cli_usage(const struct midge_cli *cli, const char *format, ...) __attribute__((noreturn))
__attribute__((format(printf, 2, 3)));

/** Milliseconds of `250ms`, `2s`, `1.5m`, `1h`, or of seconds as a bare number. @return false if it
 * is none of these, or over 1,000 hours */
bool midge_cli_parse_duration(const char *text, uint64_t *ms_out);

/** True if somebody has said who connects. */
bool midge_cli_knows_who(const struct midge_cli *cli);

/* --- context.c --- */

/** Take what the context of the `nats` command says that nobody has said yet. Ends with status 2
 * for one that is asked for, or selected and in use, and cannot be read. */
void midge_cli_apply_context(struct midge_cli *cli);

/* --- connect.c --- */

/** Connect, and have SIGINT and SIGTERM end waits. Ends the process with a reason if it cannot. */
void midge_cli_connect(struct midge_cli *cli);

/** True once SIGINT or SIGTERM came. */
bool midge_cli_is_stopped(void);

/** Unsubscribe, deliver what is on its way, send what is queued, and close; within 2 s.
 * @return the exit status for it */
int midge_cli_drain(struct midge_cli *cli);

/** Send what is queued, close, and free everything of `cli`.
 * @param status  what the command comes to. @return the exit status of the process */
int midge_cli_end(struct midge_cli *cli, int status);

/** Say what failed, with the words of the library, on standard error.
 * @return the exit status for it */
int midge_cli_fail(const struct midge_cli *cli, const char *what, enum midge_status status);

/** Say something on standard error, with the command's name before it. */
void midge_cli_say(const char *format, ...) __attribute__((format(printf, 1, 2)));

/** Tell somebody at a terminal that it is waiting. @param more  text behind the subject */
void midge_cli_hint(const char *subject, const char *more);

/** Have the server send no more than --count messages, where it is given and the server can count
 * so far; the caller counts, too. */
enum midge_status midge_cli_limit(const struct midge_cli *cli, struct midge_sub *sub);

/** Wait until the instant, or until something happens on the connection, whichever is first.
 * @param until_ns  of midge_cli_now_ns(); UINT64_MAX = no end
 * @return as midge_client_wait() */
enum midge_status midge_cli_wait_until(struct midge_cli *cli, uint64_t until_ns);
uint64_t midge_cli_now_ns(void);

/* --- input.c --- */

/* A payload: an argument, or what standard input has. */
struct midge_cli_payload {
    const void *bytes;
    size_t len;
    char *owned; /* NULL = borrowed */
};

/** The payload that a word gives. NULL: standard input where it is no terminal, else nothing; `-`:
 * standard input. To be called before midge_cli_connect(), since nobody looks after the connection
 * meanwhile. Ends the process where it cannot be read. End it with free(payload.owned). */
struct midge_cli_payload midge_cli_read_payload(const char *word);

/* Standard input, line by line. Zero it first; end it with free(lines.bytes). */
struct midge_cli_lines {
    char *bytes; /* owned */
    size_t cap;
    size_t start;  /* of what has not been taken */
    size_t looked; /* no newline from start to here */
    size_t end;    /* of what has been read */
    bool is_over;  /* nothing follows */
};

/** The next line, without its newline. Before it waits for one, what is queued is sent; while it
 * waits, the connection is looked after.
 * @param line_out  borrowed until the next call
 * @return MIDGE_OK; MIDGE_AGAIN after the last one, or if interrupted; else why there is no
 * connection any more. Ends the process where standard input cannot be read. */
enum midge_status midge_cli_next_line(const struct midge_cli *cli, struct midge_cli_lines *lines,
                                      struct midge_slice *line_out);

/* --- print.c --- */

/** Print one message: as JSON, raw, or for people. @param number  from 1; 0 = do not show it */
void midge_cli_print_msg(const struct midge_cli *cli, const struct midge_msg *msg, uint64_t number);

/** Print a text that is somebody else's. A terminal gets no control characters with it. */
void midge_cli_print_text(FILE *file, bool is_terminal, struct midge_slice text);

/** Set a text in a JSON object: under `name`, or, if it is no UTF-8, in base64 under `name`_base64.
 */
void midge_cli_set_text(struct json_t *object, const char *name, const char *text);

/** Print a JSON object as one line, and free it. Ends the process if it cannot be.
 * @param object  owned, and ended; NULL where there was no memory for it */
void midge_cli_print_json(struct json_t *object);

/** Write out what was printed. Ends the process if nobody reads it any more. */
void midge_cli_flush(void);

/* --- answer.c --- */

struct midge_cli_answering {
    struct midge_cli *cli;
    struct midge_cli_payload payload; /* where it is not --echo */
    uint64_t request_count;
};

/** Find out what the answer is: --echo, or a word. Ends the process where it cannot be. To be
 * called before midge_cli_connect(). @param index  of the word. @param answering_out  end it with
 * free(answering_out->payload.owned) */
void midge_cli_begin_answering(struct midge_cli *cli, int index,
                               struct midge_cli_answering *answering_out);

/** Print a request and answer it. @param context  struct midge_cli_answering */
void midge_cli_answer(void *context, const struct midge_msg *request);

/** Answer until --count of them came, or it is interrupted; then drain. @return the exit status */
int midge_cli_end_answering(struct midge_cli_answering *answering);

#endif
