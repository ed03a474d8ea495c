/* Checks, clients and main of the client library's tests. */
#include "rig.h"

#include <ftw.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* For all cases of a program, under a sanitizer on a busy machine. */
#define PROGRAM_MAX_S 240u

/* What runs, for the message of a failure. Written by main before a case begins. style: the one
 * global of the rig, so that a check needs no argument. */
static const char *current_case = "none";

/* --- checks --- */

void midge_rig_fail(const char *file, int line, const char *format, ...)
{
    va_list arguments;

    (void)fprintf(stderr, "fail: %s: %s:%d: ", current_case, file, line);
    va_start(arguments, format);
    (void)vfprintf(stderr, format, arguments);
    va_end(arguments);
    (void)fprintf(stderr, "\n");
    (void)fflush(NULL);
    _exit(EXIT_FAILURE);
}

void midge_rig_check_equal(const char *file, int line, const char *what, uint64_t actual,
                           uint64_t expected)
{
    if (actual != expected)
        midge_rig_fail(file, line, "%s is %" PRIu64 ", not %" PRIu64, what, actual, expected);
}

void midge_rig_check_text(const char *file, int line, const char *what, struct midge_slice actual,
                          const char *expected)
{
    if (!midge_slice_equal(actual, midge_slice_text(expected)))
        midge_rig_fail(file, line, "%s is \"%.*s\", not \"%s\"", what, MIDGE_SLICE_PRINT(actual),
                       expected);
}

void midge_rig_check_status(const char *file, int line, const char *what, enum midge_status actual,
                            enum midge_status expected)
{
    if (actual != expected)
        midge_rig_fail(file, line, "%s: %s, not %s", what, midge_status_name(actual),
                       midge_status_name(expected));
}

uint64_t midge_rig_now_ns(void)
{
    struct timespec now;

    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

void midge_rig_sleep_ms(uint32_t ms)
{
    const struct timespec span = {.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000};

    (void)nanosleep(&span, NULL);
}

void midge_rig_wait_more(const char *file, int line, const char *what, struct midge_client *client,
                         uint64_t begun_ns)
{
    const enum midge_status status = midge_client_wait(client, 50);

    if (midge_rig_now_ns() - begun_ns > RIG_PATIENCE_MS * 1000000ull)
        midge_rig_fail(file, line, "never came true: %s (%s; %s)", what, midge_status_name(status),
                       midge_client_error(client));
    if (status == MIDGE_E_CLOSED)
        midge_rig_sleep_ms(1); /* the condition may be another thread's or the server's */
}

/* --- clients --- */

void midge_rig_note_event(void *context, const struct midge_event *event)
{
    struct midge_rig_events *events = context;

    events->counts[event->kind]++;
    events->statuses[event->kind] = event->status;
    (void)snprintf(events->texts[event->kind], sizeof(events->texts[0]), "%s", event->text);
    if (events->count < sizeof(events->order) / sizeof(events->order[0]))
        events->order[events->count++] = event->kind;
}

struct midge_options midge_rig_options(const struct midge_rig *rig)
{
    struct midge_options options;

    midge_options_init(&options);
    options.url = rig->server.url;
    options.io = rig->io;
    options.thread_safe = rig->is_thread_safe;
    options.connect_timeout_ms = RIG_PATIENCE_MS;
    /* Destroying a client takes none of it, unless something is wrong. */
    options.drain_timeout_ms = RIG_PATIENCE_MS;
    return options;
}

struct midge_client *midge_rig_create(const struct midge_rig *rig,
                                      const struct midge_options *options)
{
    const struct midge_options defaults = midge_rig_options(rig);
    struct midge_client *client;
    char why[160];

    if (midge_client_create(options == NULL ? &defaults : options, &client, why) != MIDGE_OK)
        midge_rig_fail(__FILE__, __LINE__, "no client: %s", why);
    return client;
}

struct midge_client *midge_rig_connect(const struct midge_rig *rig,
                                       const struct midge_options *options)
{
    struct midge_client *client = midge_rig_create(rig, options);
    const enum midge_status status = midge_client_connect(client, RIG_PATIENCE_MS);

    if (status != MIDGE_OK)
        midge_rig_fail(__FILE__, __LINE__, "no connection: %s; %s", midge_status_name(status),
                       midge_client_error(client));
    return client;
}

void midge_rig_expect_refusal(const struct midge_rig *rig, const struct midge_options *options,
                              enum midge_status status, const char *words)
{
    struct midge_client *client = midge_rig_create(rig, options);
    const char *error;

    CHECK_STATUS(midge_client_connect(client, RIG_PATIENCE_MS), status);
    CHECK_EQUAL(midge_client_state(client), MIDGE_CLIENT_IDLE);
    error = midge_client_error(client);
    if (words != NULL && strstr(error, words) == NULL)
        midge_rig_fail(__FILE__, __LINE__, "\"%s\" does not say \"%s\"", error, words);
    midge_client_destroy(client);
}

struct midge_sub *midge_rig_listen(struct midge_client *client, const char *subject, void *context,
                                   midge_msg_cb message_cb)
{
    struct midge_sub *sub;

    MUST(midge_client_subscribe(client, subject, NULL, &sub, context, message_cb));
    midge_rig_flush(client);
    return sub;
}

struct midge_sub *midge_rig_subscribe(struct midge_client *client, const char *subject)
{
    return midge_rig_listen(client, subject, NULL, NULL);
}

const struct midge_msg *midge_rig_next(struct midge_sub *sub)
{
    const struct midge_msg *msg;

    MUST(midge_sub_next(sub, RIG_PATIENCE_MS, &msg));
    return msg;
}

void midge_rig_done(const struct midge_rig *rig, const struct midge_msg *msg)
{
    if (rig->is_thread_safe)
        midge_msg_release(msg);
}

void midge_rig_expect(const struct midge_rig *rig, struct midge_sub *sub, const char *payload)
{
    const struct midge_msg *msg = midge_rig_next(sub);

    CHECK_TEXT(msg->payload, payload);
    midge_rig_done(rig, msg);
}

void midge_rig_expect_nothing(struct midge_sub *sub)
{
    const struct midge_msg *msg;

    CHECK_STATUS(midge_sub_next(sub, 0, &msg), MIDGE_E_TIMEOUT);
}

void midge_rig_publish(struct midge_client *client, const char *subject, const char *payload)
{
    MUST(midge_client_publish(client, subject, payload, strlen(payload)));
}

void midge_rig_flush(struct midge_client *client)
{
    MUST(midge_client_flush(client, RIG_PATIENCE_MS, NULL));
}

struct midge_client_stats midge_rig_stats(const struct midge_client *client)
{
    struct midge_client_stats stats;

    midge_client_read_stats(client, &stats);
    return stats;
}

void midge_rig_hear(void *context, const struct midge_msg *msg)
{
    struct midge_rig_heard *heard = context;

    heard->count++;
    (void)snprintf(heard->subject, sizeof(heard->subject), "%.*s", MIDGE_SLICE_PRINT(msg->subject));
    (void)snprintf(heard->payload, sizeof(heard->payload), "%.*s", MIDGE_SLICE_PRINT(msg->payload));
}

void midge_rig_echo(void *context, const struct midge_msg *msg)
{
    (void)context;
    MUST(midge_msg_respond(msg, msg->payload.base, msg->payload.len));
}

/* --- main --- */

static _Noreturn void usage(void)
{
    (void)fprintf(stderr, "usage: --server midge|nats-server [--io uring|epoll|threads] "
                          "[CASE...]\n");
    exit(2);
}

/* Read the flags. @return how many words they are */
static int read_flags(struct midge_rig *rig, int argc, char **argv)
{
    bool has_server = false;
    int index = 1;

    for (; index + 1 < argc && argv[index][0] == '-'; index += 2) {
        const char *value = argv[index + 1];
        if (strcmp(argv[index], "--server") == 0) {
            rig->is_midge = strcmp(value, "midge") == 0;
            has_server = true;
        } else if (strcmp(argv[index], "--io") == 0) {
            rig->is_thread_safe = strcmp(value, "threads") == 0;
            rig->io = strcmp(value, "uring") == 0   ? MIDGE_IO_URING
                      : strcmp(value, "epoll") == 0 ? MIDGE_IO_EPOLL
                                                    : MIDGE_IO_AUTO;
        } else {
            usage();
        }
    }
    if (!has_server)
        usage();
    return index;
}

static bool is_named(const char *name, int count, char **names)
{
    for (int i = 0; i < count; i++) {
        if (strcmp(names[i], name) == 0)
            return true;
    }
    return count == 0;
}

static void run_cases(struct midge_rig *rig, const struct midge_rig_case *cases,
                      uint32_t case_count, int name_count, char **names)
{
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    (void)alarm(PROGRAM_MAX_S);
    (void)unsetenv("NATS_URL");
    midge_rig_server_start(rig, &rig->server, NULL);
    for (uint32_t i = 0; i < case_count; i++) {
        if (!is_named(cases[i].name, name_count, names))
            continue;
        current_case = cases[i].name;
        cases[i].run_cb(rig);
        printf("ok %s\n", cases[i].name);
        (void)fflush(stdout);
    }
    current_case = "the end";
    midge_rig_server_end(&rig->server);
}

static int remove_one(const char *path, const struct stat *status, int kind, struct FTW *place)
{
    (void)status;
    (void)kind;
    (void)place;
    return remove(path);
}

int midge_rig_main(int argc, char **argv, const struct midge_rig_case *cases, uint32_t case_count)
{
    struct midge_rig rig = {.folder = "/tmp/midge-client-test.XXXXXX"};
    const int first = read_flags(&rig, argc, argv);
    pid_t child;
    int status;

    CHECK(mkdtemp(rig.folder) != NULL);
    child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        run_cases(&rig, cases, case_count, argc - first, argv + first);
        return EXIT_SUCCESS;
    }
    CHECK(waitpid(child, &status, 0) == child);
    (void)nftw(rig.folder, remove_one, 8, FTW_DEPTH | FTW_PHYS);
    if (WIFEXITED(status))
        return WEXITSTATUS(status);
    (void)fprintf(stderr, "fail: ended by signal %d\n", WTERMSIG(status));
    return EXIT_FAILURE;
}
