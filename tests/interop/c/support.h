/*
 * What the scenarios and the roles of a pair (pair.c) share: checks that end the program, a
 * connection, synchronous subscriptions.
 *
 * Thread: main, but for set_flag().
 */
#ifndef MIDGE_SUPPORT_H
#define MIDGE_SUPPORT_H

#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <nats/nats.h>

#define WAIT_MS         60000
#define QUIET_MS        200
#define PAYLOAD_LEN_MAX (1024 * 1024)

/* The scenario that runs, for the failure line. Written by main between scenarios. */
static const char *scenario_name = "connect";

__attribute__((format(printf, 2, 3))) static inline void check(bool condition, const char *format,
                                                               ...)
{
    va_list arguments;

    if (condition)
        return;
    va_start(arguments, format);
    fprintf(stderr, "fail %s: ", scenario_name);
    vfprintf(stderr, format, arguments);
    fprintf(stderr, "\n");
    va_end(arguments);
    exit(1);
}

static inline void check_status(natsStatus status, natsStatus wanted, const char *what)
{
    check(status == wanted, "%s: %s, wanted %s", what, natsStatus_GetText(status),
          natsStatus_GetText(wanted));
}

static inline void sleep_ms(long ms)
{
    const struct timespec duration = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};

    nanosleep(&duration, NULL);
}

static inline void wait_for_flag(const atomic_bool *flag, const char *what)
{
    for (int i = 0; i < WAIT_MS / 10 && !atomic_load(flag); i++)
        sleep_ms(10);
    check(atomic_load(flag), "%s: nothing in %d ms", what, WAIT_MS);
}

static inline void set_flag(natsConnection *connection, void *flag)
{
    (void)connection;
    atomic_store((atomic_bool *)flag, true);
}

/* What a connection tells about itself. */
struct events {
    atomic_bool lost;
    atomic_bool back;
    atomic_bool closed;
};

static inline natsConnection *open_connection(struct events *events)
{
    natsOptions *options = NULL;
    natsConnection *connection = NULL;

    check_status(natsOptions_Create(&options), NATS_OK, "options");
    check_status(natsOptions_SetURL(options, getenv("NATS_URL")), NATS_OK, "NATS_URL");
    check_status(natsOptions_SetReconnectWait(options, 100), NATS_OK, "reconnect wait");
    check_status(natsOptions_SetMaxReconnect(options, 100), NATS_OK, "reconnect limit");
    check_status(natsOptions_SetDisconnectedCB(options, set_flag, &events->lost), NATS_OK,
                 "options");
    check_status(natsOptions_SetReconnectedCB(options, set_flag, &events->back), NATS_OK,
                 "options");
    check_status(natsOptions_SetClosedCB(options, set_flag, &events->closed), NATS_OK, "options");
    check_status(natsConnection_Connect(&connection, options), NATS_OK, "connect");
    natsOptions_Destroy(options);
    return connection;
}

static inline void flush(natsConnection *connection)
{
    check_status(natsConnection_FlushTimeout(connection, WAIT_MS), NATS_OK, "flush");
}

static inline natsSubscription *subscribe(natsConnection *connection, const char *subject)
{
    natsSubscription *sub = NULL;

    check_status(natsConnection_SubscribeSync(&sub, connection, subject), NATS_OK, subject);
    return sub;
}

static inline natsSubscription *join(natsConnection *connection, const char *subject,
                                     const char *group)
{
    natsSubscription *sub = NULL;

    check_status(natsConnection_QueueSubscribeSync(&sub, connection, subject, group), NATS_OK,
                 subject);
    return sub;
}

static inline void publish(natsConnection *connection, const char *subject, const char *payload)
{
    check_status(natsConnection_PublishString(connection, subject, payload), NATS_OK, subject);
}

static inline natsMsg *next_message(natsSubscription *sub)
{
    natsMsg *message = NULL;

    check_status(natsSubscription_NextMsg(&message, sub, WAIT_MS), NATS_OK, "next message");
    return message;
}

static inline void check_no_responders(natsConnection *connection, const char *subject)
{
    natsMsg *reply = NULL;

    check_status(natsConnection_RequestString(&reply, connection, subject, "", WAIT_MS),
                 NATS_NO_RESPONDERS, subject);
}

static inline void check_payload(natsMsg *message, const char *wanted)
{
    check(strcmp(natsMsg_GetData(message), wanted) == 0, "payload '%s', wanted '%s'",
          natsMsg_GetData(message), wanted);
}

static inline void check_header(natsMsg *message, const char *name, int count, ...)
{
    const char **values = NULL;
    int values_count = 0;
    va_list wanted;

    check_status(natsMsgHeader_Values(message, name, &values, &values_count), NATS_OK, name);
    check(values_count == count, "header %s: %d values, wanted %d", name, values_count, count);
    va_start(wanted, count);
    for (int i = 0; i < count; i++) {
        const char *value = va_arg(wanted, const char *);

        check(strcmp(values[i], value) == 0, "header %s: '%s', wanted '%s'", name, values[i],
              value);
    }
    va_end(wanted);
    free(values);
}

#endif
