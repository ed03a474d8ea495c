/* What is measured; see subject.h. */
#include "subject.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "floor.h"
#include "interrupt.h"
#include "place.h"
#include "process.h"
#include "server.h"
#include "server_command.h"

bool midge_subject_can_be_relayed(const struct midge_run_options *run)
{
    switch (run->scenario) {
    case MIDGE_RUN_RTT:
    case MIDGE_RUN_LOAD:
        return run->requesters == 1 && run->responders == 1;
    case MIDGE_RUN_PUB:
    case MIDGE_RUN_FANOUT:
        return run->publishers == 1 && run->subscribers > 0 &&
               run->subscribers < MIDGE_FLOOR_SIDES_MAX;
    case MIDGE_RUN_WORKERS:
    case MIDGE_RUN_SLOW:
    case MIDGE_RUN_CONNS:
    case MIDGE_RUN_SUBS:
    case MIDGE_RUN_SCENARIOS:
        break;
    }
    return false;
}

static bool has_floor(const struct midge_bench_options *options)
{
    return !options->is_without_floor && midge_subject_can_be_relayed(&options->run);
}

/* The relay over io_uring has two sides. */
static bool has_uring_floor(const struct midge_bench_options *options)
{
    return has_floor(options) && (options->run.publishers == 0 || options->run.subscribers == 1);
}

bool midge_subjects_have(const struct midge_bench_options *options, const char *key)
{
    if (strcmp(key, "b") == 0 || strcmp(key, "c") == 0)
        return options->servers[key[0] - 'a'] != NULL;
    if (strcmp(key, "a-again") == 0)
        return options->command == MIDGE_COMMAND_COMPARE;
    if (strcmp(key, "floor") == 0)
        return has_floor(options);
    return strcmp(key, "floor-io_uring") == 0 && has_uring_floor(options);
}

/* The server's name; with its variables and arguments if others have it as well. */
static void label_of(const char *command, bool is_alone, char *out, size_t cap)
{
    struct midge_server_command words;
    size_t len = 0;

    if (midge_server_command_init(NULL, command, NULL, &words) != MIDGE_OK) {
        (void)snprintf(out, cap, "%.70s", command); /* it will not start, and says why then */
        return;
    }
    /* Without env itself. */
    const uint32_t first = is_alone ? words.program : words.program > 0 ? 1 : 0;
    const uint32_t end = is_alone ? words.program + 1 : words.count;

    for (uint32_t i = first; i < end && len < cap; i++)
        len += (size_t)snprintf(out + len, cap - len, "%s%s", len == 0 ? "" : " ",
                                i == words.program ? midge_server_command_name(&words)
                                                   : words.words[i]);
    midge_server_command_deinit(&words);
}

static struct midge_subject *add(struct midge_subject *subjects, uint32_t *count,
                                 enum midge_subject_kind kind, const char *key, const char *command)
{
    struct midge_subject *subject = &subjects[(*count)++];

    MIDGE_ASSERT(*count <= MIDGE_SUBJECTS_MAX);
    *subject = (struct midge_subject){.kind = kind, .key = key, .command = command};
    return subject;
}

/* Servers whose programs have one name are told apart by their drivers, or else by their arguments.
 */
static void tell_apart(struct midge_subject *subjects, uint32_t count)
{
    char labels[MIDGE_OPTIONS_SERVERS_MAX][sizeof subjects->label];

    for (uint32_t i = 0; i < count; i++)
        label_of(subjects[i].command, true, labels[i], sizeof labels[i]);
    for (uint32_t i = 0; i < count; i++) {
        bool is_same = false;
        bool has_own_driver = false;

        for (uint32_t j = 0; j < count; j++) {
            is_same = is_same || (i != j && strcmp(labels[i], labels[j]) == 0);
            has_own_driver = has_own_driver || subjects[j].driver != subjects[i].driver;
        }
        if (has_own_driver)
            (void)snprintf(subjects[i].label, sizeof subjects[i].label, "%.40s through %.30s",
                           labels[i], subjects[i].driver->version_cb());
        else if (is_same)
            label_of(subjects[i].command, false, subjects[i].label, sizeof subjects[i].label);
        else
            memcpy(subjects[i].label, labels[i], sizeof subjects[i].label);
    }
}

void midge_subjects_make(const struct midge_bench_options *options,
                         struct midge_subject *subjects_out, uint32_t *count_out)
{
    static const char *const keys[MIDGE_OPTIONS_SERVERS_MAX] = {"a", "b", "c"};
    struct midge_subject *subject = NULL;
    char first[64] = "";
    uint32_t count = 0;

    for (uint32_t i = 0; i < MIDGE_OPTIONS_SERVERS_MAX; i++) {
        if (options->servers[i] == NULL)
            continue;
        subject = add(subjects_out, &count, MIDGE_SUBJECT_COMMAND, keys[i], options->servers[i]);
        subject->driver = options->drivers[i] != NULL ? options->drivers[i] : options->run.driver;
    }
    tell_apart(subjects_out, count);
    for (uint32_t i = 0; i < count; i++)
        midge_server_version(subjects_out[i].command, subjects_out[i].version,
                             sizeof subjects_out[i].version);
    if (options->url != NULL) {
        subject = add(subjects_out, &count, MIDGE_SUBJECT_URL, "a", options->url);
        subject->driver = options->run.driver;
        (void)snprintf(subject->label, sizeof subject->label, "%.79s", options->url);
    }
    if (options->command == MIDGE_COMMAND_COMPARE) {
        subject = add(subjects_out, &count, MIDGE_SUBJECT_COMMAND, "a-again", options->servers[0]);
        subject->driver = subjects_out[0].driver;
        memcpy(first, subjects_out[0].label, sizeof first - 1);
        (void)snprintf(subject->label, sizeof subject->label, "%s (A/A)", first);
        memcpy(subject->version, subjects_out[0].version, sizeof subject->version);
    }
    if (has_floor(options)) {
        subject = add(subjects_out, &count, MIDGE_SUBJECT_RELAY_EPOLL, "floor", NULL);
        (void)snprintf(subject->label, sizeof subject->label, "bare relay, epoll");
    }
    if (has_uring_floor(options)) {
        subject = add(subjects_out, &count, MIDGE_SUBJECT_RELAY_URING, "floor-io_uring", NULL);
        (void)snprintf(subject->label, sizeof subject->label, "bare relay, io_uring");
    }
    *count_out = count;
}

/* In the relay's process. Does not return. */
static void relay(const struct midge_bench_options *options, bool is_uring,
                  const struct midge_endpoint *endpoint)
{
    const struct midge_floor_options floor = {
        .endpoint = *endpoint,
        .side_count = options->run.publishers > 0 ? 1 + options->run.subscribers : 0,
        .is_uring = is_uring,
    };

    (void)signal(SIGTERM, SIG_DFL); /* by which it is stopped */
    if (CPU_COUNT(&options->server_cpus) > 0 &&
        sched_setaffinity(0, sizeof options->server_cpus, &options->server_cpus) != 0) {
        (void)fprintf(stderr, "midge-bench: relay: CPU affinity: %s\n", strerror(errno));
        _exit(EXIT_FAILURE);
    }
    const enum midge_status status = midge_floor_run(&floor);

    if (status != MIDGE_OK)
        (void)fprintf(stderr, "midge-bench: relay: %s\n", strerror(errno));
    _exit(status == MIDGE_OK ? EXIT_SUCCESS : EXIT_FAILURE);
}

static enum midge_status start_relay(const struct midge_bench_options *options, bool is_uring,
                                     const char *directory, struct midge_server *server_out)
{
    struct midge_endpoint endpoint;
    uint32_t port = 0;

    *server_out = (struct midge_server){.name = "relay"};
    if (options->is_unix || (options->url != NULL && strncmp(options->url, "unix:", 5) == 0))
        (void)snprintf(server_out->url, sizeof server_out->url, "unix://%s/relay.sock", directory);
    else if (midge_server_free_port(&port) == MIDGE_OK)
        (void)snprintf(server_out->url, sizeof server_out->url, "nats://127.0.0.1:%u", port);
    if (midge_endpoint_parse(server_out->url, &endpoint) != MIDGE_OK) {
        (void)fprintf(stderr, "midge-bench: no place for the relay to listen at\n");
        return MIDGE_E_SYSTEM;
    }
    (void)fflush(NULL);
    if (midge_process_fork(&server_out->pid) != MIDGE_OK) {
        (void)fprintf(stderr, "midge-bench: fork: %s\n", strerror(errno));
        return MIDGE_E_SYSTEM;
    }
    if (server_out->pid == 0)
        relay(options, is_uring, &endpoint);
    return MIDGE_OK;
}

static enum midge_status start_command(const struct midge_subject *subject,
                                       const struct midge_bench_options *options,
                                       const char *directory, struct midge_server *server_out)
{
    const struct midge_server_options server = {
        .command = subject->command,
        .directory = directory,
        .name = subject->key,
        .cpus = CPU_COUNT(&options->server_cpus) == 0 ? NULL : &options->server_cpus,
        .is_unix = options->is_unix,
        .is_silent = options->run.is_relay,
    };

    return midge_server_start(&server, server_out);
}

static enum midge_status start(const struct midge_subject *subject,
                               const struct midge_bench_options *options, const char *directory,
                               struct midge_server *server_out)
{
    switch (subject->kind) {
    case MIDGE_SUBJECT_COMMAND:
        return start_command(subject, options, directory, server_out);
    case MIDGE_SUBJECT_URL:
        *server_out = (struct midge_server){.name = "server"};
        (void)snprintf(server_out->url, sizeof server_out->url, "%s", subject->command);
        return MIDGE_OK;
    case MIDGE_SUBJECT_RELAY_EPOLL:
        return start_relay(options, false, directory, server_out);
    case MIDGE_SUBJECT_RELAY_URING:
        return start_relay(options, true, directory, server_out);
    }
    return MIDGE_E_CONFIG;
}

/* Say what was measured, and where. */
static void describe(const struct midge_subject *subject, const struct midge_bench_options *options,
                     json_t *result)
{
    json_object_set_new(result, "key", json_string(subject->key));
    json_object_set_new(result, "label", json_string(subject->label));
    json_object_set_new(result, "place", json_string(midge_place_name(options->place)));
    json_object_set_new(result, "command",
                        subject->command == NULL ? json_null() : json_string(subject->command));
}

/* The result of a run that could not be made. */
static json_t *not_made(const struct midge_run_options *run, const char *why)
{
    return json_pack("{s:s, s:{s:i}, s:n, s:n, s:n, s:n, s:n, s:{}, s:s}", "scenario",
                     midge_run_scenario_name(run->scenario), "parameters", "rate", (int)run->rate,
                     "latency", "service", "server", "load", "foreign", "scenario_figures",
                     "failed", midge_interrupt_signal() != 0 ? "interrupted" : why);
}

/* A server that ended by itself, as midge_server_is_alive() has told, spoils the run. */
static void note_end(json_t *result)
{
    const char *why = json_string_value(json_object_get(result, "failed"));

    json_object_set_new(result, "failed",
                        why == NULL ? json_string("the server ended during the run")
                                    : json_sprintf("the server ended during the run (%s)", why));
}

static enum midge_status run_on(const struct midge_subject *subject,
                                const struct midge_bench_options *options,
                                const struct midge_run_options *run_options,
                                struct midge_server *server, json_t **result_out)
{
    struct midge_run_options run = *run_options;

    run.url = server->url;
    run.is_relay = options->run.is_relay || subject->kind == MIDGE_SUBJECT_RELAY_EPOLL ||
                   subject->kind == MIDGE_SUBJECT_RELAY_URING;
    run.driver = run.is_relay ? &midge_driver_raw : subject->driver;
    run.far_driver = run.is_relay && run.far_driver != NULL ? &midge_driver_raw : run.far_driver;
    if (subject->kind != MIDGE_SUBJECT_URL)
        run.server_pid = server->pid;
    run.load_cpus = CPU_COUNT(&options->load_cpus) == 0 ? NULL : &options->load_cpus;
    run.all_cpus = &options->all_cpus;
    run.has_progress = !options->is_quiet;
    const enum midge_status status = midge_run(&run, result_out);

    /* A relay ends with its connections. */
    if (status == MIDGE_OK && subject->kind == MIDGE_SUBJECT_COMMAND && !run.is_relay &&
        !midge_server_is_alive(server))
        note_end(*result_out);
    return status;
}

enum midge_status midge_subject_run(const struct midge_subject *subject,
                                    const struct midge_bench_options *options,
                                    const struct midge_run_options *run_options,
                                    const char *directory, json_t **result_out)
{
    struct midge_server server = {.pid = 0};

    *result_out = NULL;
    if (start(subject, options, directory, &server) != MIDGE_OK)
        *result_out = not_made(run_options, MIDGE_SUBJECT_NOT_STARTED);
    else if (midge_interrupt_signal() != 0 ||
             run_on(subject, options, run_options, &server, result_out) != MIDGE_OK)
        *result_out = not_made(run_options, "could not be made");
    midge_server_stop(&server);
    if (*result_out == NULL)
        return MIDGE_E_MEMORY;
    describe(subject, options, *result_out);
    return MIDGE_OK;
}

json_t *midge_subject_json(const struct midge_subject *subject)
{
    return json_pack("{s:s, s:s, s:s?, s:s?}", "key", subject->key, "label", subject->label,
                     "command", subject->command, "version",
                     subject->version[0] == '\0' ? NULL : subject->version);
}
