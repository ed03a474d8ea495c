/*
 * What the tests of the client library share: real servers, clients of the mode under test, and
 * checks that end the program with the place that failed.
 *
 * A test program has one main thread and a table of cases; each case gets a connected world: a
 * server of the kind under test that all cases share, and helpers to start more of them. The mode
 * says what drives the clients: io_uring, epoll, or a thread-safe client; the cases are the same,
 * so what they assert holds in all of them.
 *
 *     test_client_<group> --server midge|nats-server [--io uring|epoll|threads] [CASE...]
 *
 * Thread: the main one, unless a function says otherwise.
 */
#ifndef MIDGE_RIG_H
#define MIDGE_RIG_H

#include <inttypes.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>

#include "midge/client.h"

/* For one call that must succeed: far beyond what it takes, also under a sanitizer. */
#define RIG_PATIENCE_MS 20000u

/* --- checks --- */

/** Say what is wrong and end the program; servers end with it. Thread: any. */
__attribute__((format(printf, 3, 4))) _Noreturn void midge_rig_fail(const char *file, int line,
                                                                    const char *format, ...);

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition))                                                                          \
            midge_rig_fail(__FILE__, __LINE__, "%s", #condition);                                  \
    } while (0)

/* Two numbers. */
#define CHECK_EQUAL(actual, expected)                                                              \
    midge_rig_check_equal(__FILE__, __LINE__, #actual, (uint64_t)(actual), (uint64_t)(expected))
void midge_rig_check_equal(const char *file, int line, const char *what, uint64_t actual,
                           uint64_t expected);

/* A slice and a text. */
#define CHECK_TEXT(actual, expected)                                                               \
    midge_rig_check_text(__FILE__, __LINE__, #actual, (actual), (expected))
void midge_rig_check_text(const char *file, int line, const char *what, struct midge_slice actual,
                          const char *expected);

/* The outcome of a call. */
#define CHECK_STATUS(call, expected)                                                               \
    midge_rig_check_status(__FILE__, __LINE__, #call, (call), (expected))
void midge_rig_check_status(const char *file, int line, const char *what, enum midge_status actual,
                            enum midge_status expected);

#define MUST(call) CHECK_STATUS(call, MIDGE_OK)

/* Drive the client until the condition holds. */
#define WAIT_UNTIL(client, condition)                                                              \
    for (uint64_t rig_begun_ns = midge_rig_now_ns(); !(condition);)                                \
    midge_rig_wait_more(__FILE__, __LINE__, #condition, (client), rig_begun_ns)
void midge_rig_wait_more(const char *file, int line, const char *what, struct midge_client *client,
                         uint64_t begun_ns);

/** CLOCK_MONOTONIC. Thread: any. */
uint64_t midge_rig_now_ns(void);
/** Thread: any. */
void midge_rig_sleep_ms(uint32_t ms);

/* --- servers --- */

#define RIG_ARGUMENTS_MAX 16u

struct midge_rig_server {
    bool is_midge;
    pid_t pid; /* 0 = not running */
    uint16_t port;
    char url[64];
    char unix_url[128]; /* "" = none */
    char folder[64];    /* its log, socket and configuration */
    const char *arguments[RIG_ARGUMENTS_MAX];
    uint32_t argument_count;
};

struct midge_rig {
    bool is_midge;
    enum midge_io io;
    bool is_thread_safe;
    char folder[64];                /* for files; removed after the program, however that ends */
    struct midge_rig_server server; /* for all cases; none may stop it */
};

/** Make a server of the kind under test and start it on a free port of 127.0.0.1. @param arguments
 * more flags, NULL at the end, or NULL; their text must outlive the server */
void midge_rig_server_start(const struct midge_rig *rig, struct midge_rig_server *server,
                            const char *const *arguments);
/** As midge_rig_server_start(), with a configuration file of this text. */
void midge_rig_server_start_with(const struct midge_rig *rig, struct midge_rig_server *server,
                                 const char *config);
/** Start it again on its port. It ends with the thread that started it: the main one. */
void midge_rig_server_again(struct midge_rig_server *server);
/** SIGKILL. */
void midge_rig_server_kill(struct midge_rig_server *server);
/** Send a signal; SIGSTOP has stopped it when this returns. */
void midge_rig_server_signal(const struct midge_rig_server *server, int signal_number);
/** Kill it and remove its files. */
void midge_rig_server_end(struct midge_rig_server *server);

/** A port of 127.0.0.1 that nobody listens on, for a while. */
uint16_t midge_rig_free_port(void);

/* A server that only says what it is told, on a thread of its own: for each connection it calls
 * `talk`, then closes it. */
struct midge_rig_fake;
struct midge_rig_fake_conn {
    int fd;
    uint32_t number; /* of the connection, from 0 */
    void *context;
};
typedef void (*midge_rig_talk_cb)(struct midge_rig_fake_conn *conn);

struct midge_rig_fake *midge_rig_fake_start(void *context, midge_rig_talk_cb talk_cb);
/** nats://127.0.0.1:<port>; borrowed. */
const char *midge_rig_fake_url(const struct midge_rig_fake *fake);
/** Connections so far. */
uint32_t midge_rig_fake_conns(struct midge_rig_fake *fake);
/** End it; a talk under way must end with its connection. */
void midge_rig_fake_end(struct midge_rig_fake *fake);

/* For talks; thread: the fake's. */
void midge_rig_fake_send(const struct midge_rig_fake_conn *conn, const char *text);
/** Read until the text came, or the peer went. @return true if it came */
bool midge_rig_fake_await(const struct midge_rig_fake_conn *conn, const char *text);
/** The INFO of a plain server, with more members for its object ("" or beginning with a comma). */
void midge_rig_fake_info(const struct midge_rig_fake_conn *conn, const char *members);
/** INFO, CONNECT, PING, PONG. @return false if the peer went */
bool midge_rig_fake_accept(const struct midge_rig_fake_conn *conn, const char *members);

/* --- clients --- */

/* What a client has told. */
struct midge_rig_events {
    uint32_t counts[MIDGE_EVENT_CLOSED + 1];
    enum midge_status statuses[MIDGE_EVENT_CLOSED + 1]; /* of the last one of a kind */
    char texts[MIDGE_EVENT_CLOSED + 1][160];
    enum midge_event_kind order[64];
    uint32_t count;
};
void midge_rig_note_event(void *context, const struct midge_event *event);

/** Options of the mode under test, for the shared server. */
struct midge_options midge_rig_options(const struct midge_rig *rig);
/** Make a client. @param options  NULL = midge_rig_options() */
struct midge_client *midge_rig_create(const struct midge_rig *rig,
                                      const struct midge_options *options);
/** Make a client and connect it. */
struct midge_client *midge_rig_connect(const struct midge_rig *rig,
                                       const struct midge_options *options);
/** Make a client that does not connect. @param words  in what it says of that, or NULL */
void midge_rig_expect_refusal(const struct midge_rig *rig, const struct midge_options *options,
                              enum midge_status status, const char *words);
/** A subscription without call-back that the server knows. */
struct midge_sub *midge_rig_subscribe(struct midge_client *client, const char *subject);
/** … with one. */
struct midge_sub *midge_rig_listen(struct midge_client *client, const char *subject, void *context,
                                   midge_msg_cb message_cb);
/** The next message, which must come. In the thread-safe mode midge_rig_done() must follow. */
const struct midge_msg *midge_rig_next(struct midge_sub *sub);
/** End what a call gave out, where the caller owns it. */
void midge_rig_done(const struct midge_rig *rig, const struct midge_msg *msg);
/** The next message must have this payload. */
void midge_rig_expect(const struct midge_rig *rig, struct midge_sub *sub, const char *payload);
/** Nothing may come: what the server has sent already would be there. */
void midge_rig_expect_nothing(struct midge_sub *sub);
/** Publish text. */
void midge_rig_publish(struct midge_client *client, const char *subject, const char *payload);
/** Wait until the server has worked on everything. */
void midge_rig_flush(struct midge_client *client);
struct midge_client_stats midge_rig_stats(const struct midge_client *client);

/* What a call-back of messages saw. */
struct midge_rig_heard {
    uint32_t count;
    char subject[128];
    char payload[256];
};
void midge_rig_hear(void *context, const struct midge_msg *msg);
/** Answer with the payload of the request. */
void midge_rig_echo(void *context, const struct midge_msg *msg);

/* --- main --- */

typedef void (*midge_rig_case_cb)(struct midge_rig *rig);
struct midge_rig_case {
    const char *name;
    midge_rig_case_cb run_cb;
};
#define RIG_CASE(function)                                                                         \
    {                                                                                              \
        .name = #function, .run_cb = (function)                                                    \
    }

/** Run the cases that the command line names, or all, in a child: whatever ends that, no file is
 * left.
 * @return status of the program */
int midge_rig_main(int argc, char **argv, const struct midge_rig_case *cases, uint32_t case_count);

#endif
