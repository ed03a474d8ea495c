/*
 * Making and ending a client, its options and its state.
 *
 * Options are copied: the struct, and its strings, each an allocation that the client frees.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "client_internal.h"
#include "midge/subject.h"

#define WHY_CAP        160u
#define URL_DEFAULT    "nats://127.0.0.1:4222"
#define PREFIX_DEFAULT "_INBOX"
#define PREFIX_LEN_MAX 256u
#define TURNS_AT_END   1000u

/* --- options --- */

void midge_options_init_sized(struct midge_options *options, uint32_t size)
{
    const struct midge_options defaults = {
        .size = size,
        .connect_timeout_ms = 2000,
        .reconnect_max = 60,
        .reconnect_wait_ms = 100,
        .reconnect_wait_max_ms = 5000,
        .reconnect_jitter_ms = 100,
        .ping_interval_ms = MIDGE_PING_INTERVAL_MS_DEFAULT,
        .pings_max = MIDGE_PING_MAX_DEFAULT,
        .drain_timeout_ms = 500,
        .send_bytes_max = 8ull * 1024 * 1024,
        .offline_bytes_max = 8ull * 1024 * 1024,
        .send_wait_ms = 5000,
        .sub_msgs_max = 65536,
        .sub_bytes_max = 64ull * 1024 * 1024,
        .message_bytes_max = 64ull * 1024 * 1024,
    };

    memcpy(options, &defaults, size < sizeof(defaults) ? size : sizeof(defaults));
}

/* Fields of a later release are not there yet: it was built with an older header. */
static void read_options(struct midge_options *out, const struct midge_options *given)
{
    midge_options_init_sized(out, (uint32_t)sizeof(*out));
    if (given != NULL)
        memcpy(out, given, given->size < sizeof(*out) ? given->size : sizeof(*out));
    out->size = (uint32_t)sizeof(*out);
    if (out->url == NULL)
        out->url = getenv("NATS_URL");
    if (out->url == NULL || out->url[0] == '\0')
        out->url = URL_DEFAULT;
    if (out->inbox_prefix == NULL)
        out->inbox_prefix = PREFIX_DEFAULT;
}

/* All strings of the options, to copy and free them in one place. */
#define STRING_COUNT 12u

static void list_strings(struct midge_options *options, const char **list[STRING_COUNT])
{
    list[0] = &options->url;
    list[1] = &options->name;
    list[2] = &options->user;
    list[3] = &options->password;
    list[4] = &options->token;
    list[5] = &options->nkey_seed;
    list[6] = &options->credentials_file;
    list[7] = &options->tls_ca_file;
    list[8] = &options->tls_cert_file;
    list[9] = &options->tls_key_file;
    list[10] = &options->tls_host_name;
    list[11] = &options->inbox_prefix;
}

static enum midge_status own_strings(struct midge_client *client)
{
    const char **list[STRING_COUNT];
    bool is_short = false;

    list_strings(&client->options, list);
    for (uint32_t i = 0; i < STRING_COUNT; i++) {
        client->strings[i] = *list[i] == NULL ? NULL : strdup(*list[i]);
        is_short |= *list[i] != NULL && client->strings[i] == NULL;
        *list[i] = client->strings[i];
    }
    return is_short ? MIDGE_E_MEMORY : MIDGE_OK;
}

static void free_strings(struct midge_client *client)
{
    for (uint32_t i = 0; i < STRING_COUNT; i++) {
        if (client->strings[i] == NULL)
            continue;
        explicit_bzero(client->strings[i], strlen(client->strings[i]));
        free(client->strings[i]);
    }
}

/* @return NULL, or what is wrong with them */
static const char *check_options(const struct midge_options *options)
{
    const int kinds = (options->user != NULL || options->password != NULL) +
                      (options->token != NULL) + (options->nkey_seed != NULL) +
                      (options->credentials_file != NULL);

    if (kinds > 1)
        return "more than one of user, token, nkey and credentials file is set";
    if (options->thread_safe && options->loop != NULL)
        return "a thread-safe client needs a loop of its own";
    if (options->thread_safe && options->io == MIDGE_IO_URING)
        return "a thread-safe client uses epoll, not io_uring";
    if (options->loop != NULL && options->loop->is_thread_safe)
        return "the loop is that of a thread-safe client";
    if (strlen(options->inbox_prefix) > PREFIX_LEN_MAX ||
        !midge_subject_is_publishable(midge_slice_text(options->inbox_prefix)))
        return "the inbox prefix is no subject of 1 to 256 bytes";
    if (options->connect_timeout_ms == 0)
        return "connect_timeout_ms is 0";
    if ((options->tls_cert_file == NULL) != (options->tls_key_file == NULL))
        return "of certificate and key one is missing";
    if (options->tls_host_name != NULL && options->tls_host_name[0] == '\0')
        return "tls_host_name is empty";
    return NULL;
}

/* --- making --- */

static void fire_attempt(struct midge_client_timer *timer)
{
    midge_session_fire_attempt(
        (struct midge_client *)((char *)timer - offsetof(struct midge_client, attempt_timer)));
}

static void fire_ping(struct midge_client_timer *timer)
{
    midge_session_fire_ping(
        (struct midge_client *)((char *)timer - offsetof(struct midge_client, ping_timer)));
}

static void fire_drain(struct midge_client_timer *timer)
{
    midge_drain_fire(
        (struct midge_client *)((char *)timer - offsetof(struct midge_client, drain_timer)));
}

static enum midge_status make_inbox(struct midge_client *client)
{
    uint8_t seed[MIDGE_NUID_SEED_LEN];
    const size_t prefix_len = strlen(client->options.inbox_prefix);

    if (getrandom(seed, sizeof(seed), 0) != (ssize_t)sizeof(seed))
        return MIDGE_E_SYSTEM;
    midge_nuid_init(&client->nuid, seed);
    client->inbox = malloc(prefix_len + MIDGE_NUID_LEN + 3);
    if (client->inbox == NULL)
        return MIDGE_E_MEMORY;
    memcpy(client->inbox, client->options.inbox_prefix, prefix_len);
    client->inbox[prefix_len] = '.';
    midge_nuid_next(&client->nuid, client->inbox + prefix_len + 1);
    client->inbox_len = (uint32_t)prefix_len + MIDGE_NUID_LEN + 2;
    client->inbox[client->inbox_len - 1] = '.';
    client->inbox[client->inbox_len] = '\0';
    return MIDGE_OK;
}

/* So that clients do not all go to the same server first. */
static void shuffle_servers(struct midge_client *client)
{
    for (uint32_t i = client->servers.count; i > 1; i--) {
        struct midge_server **servers = client->servers.servers;
        struct midge_server *last = servers[i - 1];
        uint32_t chosen = 0;

        if (getrandom(&chosen, sizeof(chosen), 0) != (ssize_t)sizeof(chosen))
            return; /* not urgent enough for an error */
        chosen %= i;
        servers[i - 1] = servers[chosen];
        servers[chosen] = last;
    }
}

/* The client joins its loop. */
static enum midge_status join_loop(struct midge_client *client)
{
    const struct midge_options *options = &client->options;
    struct midge_loop *loop = options->loop;
    enum midge_status status;

    if (loop == NULL) {
        status = midge_loop_create(options->io, options->spin_us, &loop);
        if (status != MIDGE_OK)
            return status;
        loop->is_thread_safe = options->thread_safe;
        client->owns_loop = true;
    }
    status = midge_loop_reserve_timers(loop, MIDGE_TIMERS_OF_A_CLIENT);
    if (status != MIDGE_OK) {
        if (client->owns_loop)
            midge_loop_destroy(loop);
        return status;
    }
    client->loop = loop;
    client->next = loop->clients;
    loop->clients = client;
    loop->client_count++;
    return MIDGE_OK;
}

static void free_client(struct midge_client *client)
{
    midge_request_free_all(client);
    midge_sub_free_all(client);
    midge_out_deinit(&client->sending);
    midge_out_deinit(&client->pending);
    midge_server_list_deinit(&client->servers);
    midge_server_facts_deinit(&client->facts);
    midge_tls_context_destroy(client->tls_context);
    free_strings(client);
    free(client->pings);
    free(client->inbox);
    free(client);
}

static enum midge_status make(struct midge_client *client, const struct midge_options *options,
                              char *why)
{
    const char *reason;
    enum midge_status status;

    read_options(&client->options, options);
    reason = check_options(&client->options);
    if (reason != NULL) {
        (void)snprintf(why, WHY_CAP, "%s", reason);
        return MIDGE_E_CONFIG;
    }
    status = own_strings(client);
    if (status == MIDGE_OK)
        status = midge_server_list_add(&client->servers, client->options.url, why);
    if (status == MIDGE_OK)
        status = make_inbox(client);
    if (status != MIDGE_OK)
        return status;
    if (!client->options.keep_order)
        shuffle_servers(client);
    client->next_sid = MIDGE_CLIENT_INBOX_SID + 1;
    client->attempt_timer.fire = fire_attempt;
    client->ping_timer.fire = fire_ping;
    client->drain_timer.fire = fire_drain;
    return join_loop(client);
}

enum midge_status midge_client_create(const struct midge_options *options,
                                      struct midge_client **client_out, char *why)
{
    struct midge_client *client = calloc(1, sizeof(*client));
    char reason[WHY_CAP] = "";
    enum midge_status status = MIDGE_E_MEMORY;

    if (client != NULL)
        status = make(client, options, reason);
    if (status == MIDGE_OK)
        *client_out = client;
    else if (client != NULL)
        free_client(client);
    if (why != NULL)
        (void)snprintf(why, WHY_CAP, "%s",
                       status == MIDGE_OK || reason[0] != '\0' ? reason
                                                               : midge_client_status_text(status));
    return status;
}

/* --- connecting --- */

struct attempt {
    const struct midge_client *client;
    uint64_t connects_before;
};

/* A connection that came and was lost in one turn has been there, too. */
static bool is_decided(void *context)
{
    const struct attempt *attempt = context;
    const struct midge_client *client = attempt->client;

    return client->stats.connects > attempt->connects_before ||
           (client->state != MIDGE_CLIENT_CONNECTING && client->state != MIDGE_CLIENT_RECONNECTING);
}

static enum midge_status connect_entered(struct midge_client *client, uint32_t timeout_ms)
{
    struct attempt attempt = {.client = client, .connects_before = client->stats.connects};
    struct midge_waiter waiter = {.is_done = is_decided, .context = &attempt};
    enum midge_status status;

    if (client->state == MIDGE_CLIENT_CLOSED)
        return MIDGE_E_CLOSED;
    if (client->state == MIDGE_CLIENT_IDLE) {
        client->loop->now_ns = midge_ring_now_ns(client->loop->ring);
        midge_session_begin(client);
    }
    if (timeout_ms == 0 || !midge_loop_may_wait(client->loop))
        return is_decided(&attempt) ? midge_client_check_open(client) : MIDGE_AGAIN;
    status = midge_loop_drive(client->loop, &waiter, midge_loop_deadline(client->loop, timeout_ms));
    if (status != MIDGE_OK)
        return status;
    if (client->state == MIDGE_CLIENT_IDLE)
        return client->connect_status;
    if (client->state == MIDGE_CLIENT_CLOSED && client->close_status != MIDGE_OK)
        return client->close_status;
    return midge_client_check_open(client);
}

enum midge_status midge_client_connect(struct midge_client *client, uint32_t timeout_ms)
{
    enum midge_status status = midge_loop_enter(client->loop, true);

    if (status != MIDGE_OK)
        return status;
    status = connect_entered(client, timeout_ms);
    midge_loop_leave(client->loop);
    return status;
}

/* --- closing --- */

void midge_client_close(struct midge_client *client, enum midge_status status)
{
    struct midge_loop *loop = client->loop;

    if (client->state == MIDGE_CLIENT_CLOSED)
        return;
    client->state = MIDGE_CLIENT_CLOSED;
    client->close_status = status;
    client->is_attempting = false;
    midge_loop_clear_timer(loop, &client->attempt_timer);
    midge_loop_clear_timer(loop, &client->ping_timer);
    midge_loop_clear_timer(loop, &client->drain_timer);
    if (client->link != NULL) {
        struct midge_link *link = client->link;
        midge_link_kill(link);
        midge_output_lost(client, link);
    } else if (!client->is_reset_due) {
        midge_output_discard(client); /* else the reset does it, when the buffer is back */
    }
    client->link_number++;
    client->is_looking_up = false;
    midge_request_end_all(client, status == MIDGE_OK ? MIDGE_E_CLOSED : status);
    midge_sub_end_all(client);
    midge_client_tell(client, MIDGE_EVENT_CLOSED, status, status == MIDGE_OK ? "" : client->error,
                      NULL);
    loop->progress++;
    midge_loop_wake_done(loop);
}

/* Try to send what is queued. */
static void send_rest(struct midge_client *client)
{
    struct midge_loop *loop = client->loop;
    const uint64_t deadline_ns = midge_loop_deadline(loop, client->options.drain_timeout_ms);

    loop->output_waiters++;
    while (client->link != NULL && client->link->state == MIDGE_LINK_READY &&
           midge_output_left(client) > 0 && midge_ring_now_ns(loop->ring) < deadline_ns)
        midge_loop_turn_until(loop, deadline_ns);
    loop->output_waiters--;
}

/* Until the ring has let go of the client's links. */
static void wait_for_links(struct midge_client *client)
{
    struct midge_loop *loop = client->loop;

    for (uint32_t i = 0; i < TURNS_AT_END && midge_loop_has_links(loop, client); i++)
        midge_loop_turn_until(loop, midge_ring_now_ns(loop->ring) + NS_PER_MS);
    MIDGE_ASSERT(!midge_loop_has_links(loop, client));
}

/* In the child of a fork nothing may reach the kernel's side of it. */
static void destroy_in_child(struct midge_client *client)
{
    struct midge_loop *loop = client->loop;

    for (uint32_t i = 0; i < loop->link_cap; i++) {
        struct midge_link *link = loop->links[i];
        if (link == NULL || link->client != client)
            continue;
        (void)close(link->fd);
        midge_link_free(link);
    }
}

void midge_client_destroy(struct midge_client *client)
{
    struct midge_loop *loop = client == NULL ? NULL : client->loop;
    struct midge_client **at;
    bool owns_loop;
    bool is_child;

    if (client == NULL)
        return;
    owns_loop = client->owns_loop;
    is_child = *loop->fork_guard == 0;
    if (is_child) {
        destroy_in_child(client);
    } else {
        const enum midge_status status = midge_loop_enter(loop, false);
        MIDGE_ASSERT(status == MIDGE_OK); /* another thread's */
        MIDGE_ASSERT(loop->callback_depth == 0);
        if (loop->ring != NULL) {
            if (loop->is_thread_safe) {
                /* Call-backs of the last turns must not wait. */
                midge_ring_take(loop->ring);
                loop->reader = pthread_self();
                loop->has_reader = true;
            }
            send_rest(client);
            midge_client_close(client, MIDGE_OK);
            wait_for_links(client);
        } else {
            midge_client_close(client, MIDGE_OK);
        }
        loop->has_reader = false;
        midge_loop_leave(loop);
    }
    if (client->lookup != NULL && !is_child)
        midge_lookup_abandon(client->lookup);
    midge_loop_forget(loop, client);
    for (at = &loop->clients; *at != client;)
        at = &(*at)->next;
    *at = client->next;
    loop->client_count--;
    free_client(client);
    if (owns_loop)
        midge_loop_destroy(loop);
    else if (loop->is_foreign && !is_child)
        midge_loop_turn(loop); /* the descriptor speaks for the others only behind one */
}

/* --- state --- */

void midge_client_note(struct midge_client *client, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    (void)vsnprintf(client->error, sizeof(client->error), format, arguments);
    va_end(arguments);
}

void midge_client_tell(struct midge_client *client, enum midge_event_kind kind,
                       enum midge_status status, const char *text, struct midge_sub *sub)
{
    const struct midge_event event = {
        .kind = kind,
        .status = status,
        .text = text,
        .client = client,
        .sub = sub,
    };

    client->loop->progress++;
    if (client->options.event_cb == NULL)
        return;
    midge_loop_begin_callback(client->loop);
    client->options.event_cb(client->options.context, &event);
    midge_loop_end_callback(client->loop);
}

const char *midge_client_error(const struct midge_client *client)
{
    return client->error;
}

void midge_client_error_copy(const struct midge_client *client, char *out, size_t cap)
{
    midge_loop_lock(client->loop);
    (void)snprintf(out, cap, "%s", client->error);
    midge_loop_unlock(client->loop);
}

enum midge_client_state midge_client_state(const struct midge_client *client)
{
    enum midge_client_state state;

    midge_loop_lock(client->loop);
    state = client->state;
    midge_loop_unlock(client->loop);
    return state;
}

static const char *text_or_empty(const char *text)
{
    return text == NULL ? "" : text;
}

void midge_client_server(const struct midge_client *client, struct midge_server_info *info_out)
{
    const struct midge_server_facts *facts = &client->facts;

    midge_loop_lock(client->loop);
    *info_out = (struct midge_server_info){
        .url = client->url,
        .server_id = text_or_empty(facts->server_id),
        .server_name = text_or_empty(facts->server_name),
        .version = text_or_empty(facts->version),
        .midge_version = text_or_empty(facts->midge),
        .cluster = text_or_empty(facts->cluster),
        .client_ip = text_or_empty(facts->client_ip),
        .client_id = facts->client_id,
        .max_payload = facts->max_payload,
        .headers = facts->headers,
        .tls = client->link != NULL && client->link->tls != NULL,
        .jetstream = facts->jetstream,
    };
    midge_loop_unlock(client->loop);
}

void midge_client_read_stats(const struct midge_client *client,
                             struct midge_client_stats *stats_out)
{
    midge_loop_lock(client->loop);
    *stats_out = client->stats;
    stats_out->queued_bytes = midge_output_left(client);
    midge_loop_unlock(client->loop);
}

/* --- driving --- */

enum midge_status midge_client_wait(struct midge_client *client, uint32_t timeout_ms)
{
    return midge_loop_wait_for(client->loop, client, timeout_ms);
}

enum midge_status midge_client_poll(struct midge_client *client)
{
    const enum midge_status status = midge_loop_poll(client->loop);

    if (status == MIDGE_AGAIN && midge_client_state(client) == MIDGE_CLIENT_CLOSED)
        return MIDGE_E_CLOSED;
    return status;
}

enum midge_status midge_client_fd(struct midge_client *client, int *fd_out)
{
    return midge_loop_fd(client->loop, fd_out);
}

static bool is_closed(void *context)
{
    const struct midge_client *client = context;

    return client->state == MIDGE_CLIENT_CLOSED;
}

enum midge_status midge_client_run(struct midge_client *client)
{
    struct midge_waiter waiter = {.is_done = is_closed, .context = client};
    enum midge_status status = midge_loop_enter(client->loop, true);

    if (status != MIDGE_OK)
        return status;
    status = MIDGE_AGAIN;
    if (midge_loop_may_wait(client->loop))
        status = midge_loop_drive(client->loop, &waiter, UINT64_MAX);
    if (status == MIDGE_OK)
        status = client->close_status;
    midge_loop_leave(client->loop);
    return status;
}

void midge_client_interrupt(struct midge_client *client)
{
    struct midge_ring *ring;

    /* Sequentially consistent, as is the look before the first wait: either that sees the flag, or
     * this the ring. The doorbell orders the flag before the end of a wait. */
    atomic_store_explicit(&client->loop->is_interrupted, true, memory_order_seq_cst);
    ring = atomic_load_explicit(&client->loop->bell, memory_order_seq_cst);
    if (ring != NULL)
        midge_ring_doorbell(ring);
}

const char *midge_client_status_text(enum midge_status status)
{
    switch (status) {
    case MIDGE_OK:
        return "success";
    case MIDGE_AGAIN:
        return "nothing yet";
    case MIDGE_FULL:
        return "too much is queued";
    case MIDGE_E_THREAD:
        return "the client belongs to another thread or process";
    case MIDGE_E_TIMEOUT:
        return "no answer in time";
    case MIDGE_E_NO_RESPONDERS:
        return "no responders are available";
    case MIDGE_E_DISCONNECTED:
        return "not connected";
    case MIDGE_E_NO_SERVERS:
        return "no server could be reached";
    case MIDGE_E_CLOSED:
        return "the client is closed";
    case MIDGE_E_SUB_ENDED:
        return "the subscription has ended";
    case MIDGE_E_TLS:
        return "the encrypted connection was refused";
    case MIDGE_E_AUTH:
    case MIDGE_E_AUTH_TIMEOUT:
        return "the server refused the credentials";
    case MIDGE_E_PERMISSION:
        return "the server forbids the subject";
    case MIDGE_E_SUBJECT:
    case MIDGE_E_PUB_SUBJECT:
        return "the subject or queue name is not valid";
    case MIDGE_E_PAYLOAD:
        return "the message is longer than the server takes";
    case MIDGE_E_HEADERS:
        return "a header is not valid, or the server takes none";
    case MIDGE_E_CONFIG:
        return "an option is not valid";
    case MIDGE_E_MEMORY:
        return "out of memory";
    case MIDGE_E_SYSTEM:
        return "a system call failed";
    case MIDGE_E_STALE:
        return "the server answers no PING";
    case MIDGE_E_MAX_CONNECTIONS:
    case MIDGE_E_MAX_SUBS:
        return "the server has no room for more connections or subscriptions";
    case MIDGE_E_PARSE:
    case MIDGE_E_CONTROL_LINE:
    case MIDGE_E_ARGS:
    case MIDGE_E_PROTOCOL:
    case MIDGE_E_NEEDS_HEADERS:
        return "client and server do not understand each other";
    case MIDGE_E_PEER_ERR:
        return "the server reported an error";
    case MIDGE_E_READ:
    case MIDGE_E_WRITE:
    case MIDGE_E_EOF:
    case MIDGE_E_SHUTDOWN:
    case MIDGE_E_SLOW_PENDING:
    case MIDGE_E_SLOW_DEADLINE:
        return "the connection was closed";
    }
    return "unknown status";
}
