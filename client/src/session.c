/*
 * A client's session with its servers: attempts to connect, INFO and CONNECT, what is restored on a
 * new connection, and how a lost one is replaced.
 *
 *              begin()            opened(), INFO, CONNECT, PONG
 *   IDLE ---------------> CONNECTING ---------------------------> CONNECTED <--+
 *     ^                       |                                       |        |
 *     +---- no server --------+                                  lost |        | PONG
 *                                                                     v        |
 *   CLOSED <------------------- no server left ----------------- RECONNECTING -+
 *
 * An attempt is one server and all its addresses within connect_timeout_ms. A server that failed is
 * tried again after a wait that doubles, with a random part; the others come first.
 *
 * Everything that touches a socket runs in a turn of the loop: begin() only sets a timer.
 *
 * Source: nats-server v2.15.2, server/client.go (processConnect, sendErr); the order CONNECT, PING,
 * PONG is what every NATS client does.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client_internal.h"
#include "midge/creds.h"
#include "midge/nkey.h"

/* Text of an error for a server that said nothing better. */
#define TEXT_CAP 192u

/* A lent buffer comes back at the end of a turn; this is how often one looks. */
#define LENT_RETRY_NS NS_PER_MS

/* Twice refused in a row is refused. */
#define AUTH_ERRORS_MAX 2u

static void start_attempt(struct midge_client *client);
static void fail_attempt(struct midge_client *client, enum midge_status status, const char *text);

/* --- when --- */

static void set_attempt_timer(struct midge_client *client, uint64_t at_ns)
{
    midge_loop_set_own_timer(client->loop, &client->attempt_timer, at_ns);
}

void midge_session_fire_attempt(struct midge_client *client)
{
    if (!client->is_attempting) {
        start_attempt(client);
    } else {
        struct midge_link *link = client->link;
        char text[TEXT_CAP];

        (void)snprintf(text, sizeof(text), "no answer within %u ms",
                       client->options.connect_timeout_ms);
        if (link != NULL) {
            midge_link_kill(link);
            midge_output_lost(client, link);
        }
        fail_attempt(client, MIDGE_E_TIMEOUT, text);
    }
}

/* Up to `bound_ms` milliseconds, at random. */
static uint64_t random_ns(struct midge_client *client, uint32_t bound_ms)
{
    if (bound_ms == 0)
        return 0;
    return midge_ring_random(client->loop->ring) % (bound_ms * NS_PER_MS);
}

/* How long a server that failed is left alone. */
static uint64_t wait_ns(struct midge_client *client, uint32_t attempts)
{
    const struct midge_options *options = &client->options;
    uint64_t wait_ms = options->reconnect_wait_ms;

    for (uint32_t i = 1; i < attempts && wait_ms < options->reconnect_wait_max_ms; i++)
        wait_ms *= 2;
    if (wait_ms > options->reconnect_wait_max_ms)
        wait_ms = options->reconnect_wait_max_ms;
    return wait_ms * NS_PER_MS + random_ns(client, options->reconnect_jitter_ms);
}

/* The first server in order whose time has come, else the one whose time comes first. */
static uint32_t next_server(const struct midge_client *client)
{
    const struct midge_server_list *list = &client->servers;
    uint32_t best = 0;

    for (uint32_t i = 0; i < list->count; i++) {
        if (list->servers[i]->not_before_ns <= client->loop->now_ns)
            return i;
        if (list->servers[i]->not_before_ns < list->servers[best]->not_before_ns)
            best = i;
    }
    return best;
}

static void schedule(struct midge_client *client)
{
    const uint64_t at_ns = client->servers.servers[next_server(client)]->not_before_ns;

    set_attempt_timer(client, at_ns > client->loop->now_ns ? at_ns : client->loop->now_ns);
}

void midge_session_begin(struct midge_client *client)
{
    client->state = MIDGE_CLIENT_CONNECTING;
    client->round_left = client->servers.count;
    client->connect_status = MIDGE_OK;
    for (uint32_t i = 0; i < client->servers.count; i++) {
        client->servers.servers[i]->attempts = 0;
        client->servers.servers[i]->auth_errors = 0;
        client->servers.servers[i]->not_before_ns = 0;
    }
    client->is_attempting = false;
    set_attempt_timer(client, client->loop->now_ns);
}

/* --- attempts --- */

/* Connect to the next address that a socket can be made for. */
static void try_addresses(struct midge_client *client)
{
    int error = EADDRNOTAVAIL;

    while (client->address_index < client->addresses.count) {
        if (midge_link_open(client) == MIDGE_OK)
            return;
        error = errno;
        client->address_index++;
    }
    fail_attempt(client, MIDGE_E_DISCONNECTED, strerror(error));
}

/* Ask for the addresses of the server. A look-up that an earlier attempt did not wait for goes on,
 * and there is never a second one beside it. */
static void look_up(struct midge_client *client)
{
    const char *why;

    if (client->lookup != NULL && !midge_lookup_is_for(client->lookup, client->server)) {
        if (!midge_lookup_is_done(client->lookup, &client->addresses, &why)) {
            client->addresses.count = 0;
            fail_attempt(client, MIDGE_E_DISCONNECTED, "another host name is still looked up");
            return;
        }
        midge_lookup_abandon(client->lookup);
        client->lookup = NULL;
        client->addresses.count = 0;
    }
    if (client->lookup == NULL)
        client->lookup = midge_lookup_begin(client->server, client->loop->ring);
    if (client->lookup == NULL)
        fail_attempt(client, MIDGE_E_MEMORY, "no thread to look the host name up");
    else
        client->is_looking_up = true;
}

static void start_attempt(struct midge_client *client)
{
    struct midge_server *server;
    const uint32_t index = next_server(client);

    MIDGE_ASSERT(client->servers.count > 0 && client->link == NULL);
    if (client->is_reset_due) {
        set_attempt_timer(client, client->loop->now_ns + LENT_RETRY_NS);
        return;
    }
    server = client->servers.servers[index];
    if (server->not_before_ns > client->loop->now_ns) {
        set_attempt_timer(client, server->not_before_ns);
        return;
    }
    client->server = server;
    client->is_attempting = true;
    client->address_index = 0;
    client->addresses.count = 0;
    set_attempt_timer(client,
                      client->loop->now_ns + client->options.connect_timeout_ms * NS_PER_MS);
    if (midge_resolve_now(server, &client->addresses)) {
        try_addresses(client);
        return;
    }
    look_up(client);
}

void midge_session_look_up(struct midge_client *client)
{
    const char *why = "";

    if (!midge_lookup_is_done(client->lookup, &client->addresses, &why))
        return;
    client->is_looking_up = false;
    midge_lookup_abandon(client->lookup);
    client->lookup = NULL;
    if (client->addresses.count == 0) {
        char text[TEXT_CAP];
        (void)snprintf(text, sizeof(text), "host name not found: %s", why);
        fail_attempt(client, MIDGE_E_DISCONNECTED, text);
        return;
    }
    try_addresses(client);
}

/* What connect() returns for an attempt that ended so. */
static enum midge_status connect_status_of(enum midge_status status)
{
    switch ((int)status) {
    case MIDGE_E_AUTH:
    case MIDGE_E_TLS:
    case MIDGE_E_CONFIG:
    case MIDGE_E_MEMORY:
        return status;
    default:
        return MIDGE_E_NO_SERVERS;
    }
}

static uint32_t index_of(const struct midge_client *client, const struct midge_server *server)
{
    uint32_t index = 0;

    while (client->servers.servers[index] != server)
        index++;
    return index;
}

/* The first connect tries each server once. */
static void fail_first(struct midge_client *client, enum midge_status status)
{
    if (--client->round_left > 0) {
        set_attempt_timer(client, client->loop->now_ns);
        return;
    }
    client->state = MIDGE_CLIENT_IDLE;
    client->connect_status = connect_status_of(status);
    midge_client_tell(client, MIDGE_EVENT_ERROR, client->connect_status, client->error, NULL);
    midge_loop_wake_done(client->loop);
}

static void fail_attempt(struct midge_client *client, enum midge_status status, const char *text)
{
    struct midge_server *server = client->server;
    const uint32_t index = index_of(client, server);
    char url[TEXT_CAP];

    client->is_attempting = false;
    midge_loop_clear_timer(client->loop, &client->attempt_timer);
    client->is_looking_up = false;
    client->server = NULL;
    midge_client_note(client, "%s: %s", midge_server_url(server, url, sizeof(url)), text);
    server->attempts++;
    if (status == MIDGE_E_AUTH)
        server->auth_errors++;
    server->not_before_ns = client->loop->now_ns + wait_ns(client, server->attempts);
    midge_server_list_to_end(&client->servers, index);
    if (client->state == MIDGE_CLIENT_CONNECTING && !client->options.retry_first_connect) {
        server->not_before_ns = 0;
        fail_first(client, status);
        return;
    }
    if (server->auth_errors >= AUTH_ERRORS_MAX ||
        (client->options.reconnect_max != UINT32_MAX &&
         server->attempts >= client->options.reconnect_max))
        midge_server_list_remove(&client->servers, client->servers.count - 1);
    if (client->servers.count == 0)
        midge_client_close(client, connect_status_of(status));
    else
        schedule(client);
}

/* --- handshake --- */

/* The user wants an encrypted connection, whatever the server says. */
static bool wants_tls(const struct midge_client *client)
{
    const struct midge_options *options = &client->options;

    if (client->server->is_unix)
        return options->tls != MIDGE_TLS_AUTO;
    return client->server->is_tls || client->was_encrypted || options->tls != MIDGE_TLS_AUTO ||
           options->tls_ca_file != NULL || options->tls_cert_file != NULL ||
           options->tls_host_name != NULL || options->tls_insecure;
}

/* Begin the handshake. @return false if the link is lost over it */
static bool begin_tls(struct midge_link *link, enum midge_link_state state)
{
    struct midge_client *client = link->client;
    const struct midge_options *options = &client->options;
    const struct midge_tls_options tls_options = {
        .ca_file = options->tls_ca_file,
        .cert_file = options->tls_cert_file,
        .key_file = options->tls_key_file,
        .insecure = options->tls_insecure,
    };
    const char *name =
        options->tls_host_name != NULL ? options->tls_host_name : client->server->tls_name;
    char why[160] = "no memory for an encrypted connection";
    enum midge_status status = MIDGE_OK;

    if (client->tls_context == NULL)
        status = midge_tls_context_create(&tls_options, &client->tls_context, why);
    if (status == MIDGE_OK) {
        (void)snprintf(why, sizeof(why), "%s", "its certificate cannot be checked for that name");
        status = midge_tls_create(client->tls_context, name, &link->tls);
    }
    if (status != MIDGE_OK) {
        midge_session_lost(link, MIDGE_E_TLS, why);
        return false;
    }
    link->state = state;
    /* The first read makes the session speak. */
    if (midge_tls_read(link->tls, &link->input) < 0) {
        midge_session_lost(link, MIDGE_E_TLS, midge_tls_error(link->tls));
        return false;
    }
    midge_output_queued(client);
    return true;
}

void midge_session_opened(struct midge_link *link)
{
    if (link->client->options.tls == MIDGE_TLS_FIRST) {
        if (!begin_tls(link, MIDGE_LINK_TLS_FIRST))
            return;
    } else {
        link->state = MIDGE_LINK_INFO;
    }
    midge_link_want_recv(link);
}

/* What proves who the client is. */
struct proof {
    char *text; /* of the credentials file; owned, wiped */
    uint32_t text_len;
    char *jwt; /* owned */
    char public_key[MIDGE_NKEY_TEXT_CAP];
    char signature[MIDGE_NKEY_SIGNATURE_CAP];
};

static void proof_deinit(struct proof *proof)
{
    if (proof->text != NULL)
        explicit_bzero(proof->text, proof->text_len);
    if (proof->jwt != NULL)
        explicit_bzero(proof->jwt, strlen(proof->jwt));
    free(proof->text);
    free(proof->jwt);
}

/* @return NULL, or what is wrong with the seed */
static const char *sign(struct proof *proof, struct midge_slice seed, const char *nonce)
{
    struct midge_nkey nkey;
    enum midge_status status = midge_nkey_init(&nkey, seed);

    if (status != MIDGE_OK)
        return "the nkey seed is not valid";
    midge_nkey_public(&nkey, proof->public_key);
    status = midge_nkey_sign(&nkey, midge_slice_text(nonce == NULL ? "" : nonce), proof->signature);
    midge_nkey_deinit(&nkey);
    return status == MIDGE_OK ? NULL : "the nkey cannot sign";
}

static const char *read_credentials(struct proof *proof, const char *path)
{
    FILE *file = fopen(path, "re");
    size_t len;

    if (file == NULL)
        return strerror(errno);
    proof->text = malloc(MIDGE_CREDS_LEN_MAX + 1u);
    if (proof->text == NULL) {
        (void)fclose(file);
        return "out of memory";
    }
    proof->text_len = MIDGE_CREDS_LEN_MAX + 1u;
    setbuf(file, NULL); /* no second copy of the secret */
    len = fread(proof->text, 1, MIDGE_CREDS_LEN_MAX + 1u, file);
    (void)fclose(file);
    if (len > MIDGE_CREDS_LEN_MAX)
        return "it is no credentials file: too long";
    proof->text_len = (uint32_t)len;
    return NULL;
}

/* Sign the server's nonce, where the options have a key. @return NULL, or what went wrong */
static const char *make_proof(struct midge_client *client, struct proof *proof)
{
    const struct midge_options *options = &client->options;
    struct midge_slice jwt;
    struct midge_slice seed;
    const char *why;

    if (options->nkey_seed != NULL)
        return sign(proof, midge_slice_text(options->nkey_seed), client->facts.nonce);
    if (options->credentials_file == NULL)
        return NULL;
    why = read_credentials(proof, options->credentials_file);
    if (why != NULL)
        return why;
    if (midge_creds_parse(midge_slice_make(proof->text, proof->text_len), &jwt, &seed) != MIDGE_OK)
        return "it is no credentials file";
    /* A seed alone is that of an nkey which the server knows. */
    if (jwt.len > 0) {
        proof->jwt = strndup((const char *)jwt.base, jwt.len);
        if (proof->jwt == NULL)
            return "out of memory";
    }
    return sign(proof, seed, client->facts.nonce);
}

/* CONNECT and PING, into the buffer that goes out before anything of the user's. */
static enum midge_status put_connect(struct midge_client *client, const struct proof *proof)
{
    const struct midge_server *server = client->server;
    const struct midge_options *options = &client->options;
    const bool has_url_user = server->user != NULL || server->token != NULL;
    const struct midge_connect_options connect = {
        .tls_required = client->link->tls != NULL,
        .echo = !options->no_echo,
        .headers = true,
        .no_responders = true,
        .user = has_url_user ? server->user : options->user,
        .pass = has_url_user ? server->password : options->password,
        .auth_token = has_url_user ? server->token : options->token,
        .name = options->name,
        .lang = "midge",
        .version = MIDGE_VERSION,
        .jwt = proof->jwt,
        .nkey = proof->jwt == NULL && proof->public_key[0] != '\0' ? proof->public_key : NULL,
        .sig = proof->signature[0] != '\0' ? proof->signature : NULL,
        .protocol = 1,
    };
    static const char ping[] = "PING\r\n";
    const uint32_t len = midge_connect_encode_len(&connect);
    uint8_t *at;

    MIDGE_ASSERT(midge_out_left(&client->sending) == 0);
    client->sending.is_secret = true;
    at = midge_out_reserve(&client->sending, len + sizeof(ping));
    if (at == NULL)
        return MIDGE_E_MEMORY;
    at = midge_connect_encode(at, &connect);
    memcpy(at, ping, sizeof(ping) - 1);
    client->sending.len += len + sizeof(ping) - 1;
    return MIDGE_OK;
}

static void send_connect(struct midge_link *link)
{
    struct midge_client *client = link->client;
    const char *file = client->options.credentials_file;
    struct proof proof = {0};
    const char *why = make_proof(client, &proof);

    if (why != NULL) {
        char text[TEXT_CAP];

        (void)snprintf(text, sizeof(text), "%.100s%s%s", file == NULL ? "" : file,
                       file == NULL ? "" : ": ", why);
        midge_session_lost(link, MIDGE_E_CONFIG, text);
    } else if (put_connect(client, &proof) != MIDGE_OK) {
        midge_session_lost(link, MIDGE_E_MEMORY, "no memory for CONNECT");
    } else {
        link->state = MIDGE_LINK_PONG;
        midge_output_queued(client);
    }
    proof_deinit(&proof);
}

void midge_session_secured(struct midge_link *link)
{
    if (link->state == MIDGE_LINK_TLS_FIRST)
        link->state = MIDGE_LINK_INFO;
    else
        send_connect(link);
}

/* The first INFO: encrypt if one side wants to, then introduce ourselves. */
static void answer_info(struct midge_link *link)
{
    const struct midge_client *client = link->client;
    const struct midge_server_facts *facts = &client->facts;
    const bool is_plain = link->tls == NULL;

    if (is_plain && (facts->tls_required || (wants_tls(client) && facts->tls_available))) {
        (void)begin_tls(link, MIDGE_LINK_TLS);
    } else if (is_plain && wants_tls(client)) {
        midge_session_lost(link, MIDGE_E_TLS, "the server offers no encrypted connection");
    } else {
        send_connect(link);
    }
}

/* Learn the servers of the cluster; forget those that it no longer names. */
static void learn_servers(struct midge_client *client)
{
    struct midge_server_list *list = &client->servers;
    const struct midge_server_facts *facts = &client->facts;
    bool is_changed = false;

    if (client->options.ignore_announced)
        return;
    for (uint32_t i = 0; i < list->count; i++)
        list->servers[i]->is_named = false;
    /* Each is compared with all that are known: a hostile INFO could name a hundred thousand. */
    for (uint32_t i = 0; i < facts->connect_url_count && i < MIDGE_CLIENT_SERVERS_MAX; i++) {
        if (midge_server_list_announce(list, facts->connect_urls[i], client->server))
            is_changed = true;
    }
    for (uint32_t i = list->count; i-- > 0;) {
        struct midge_server *server = list->servers[i];
        if (server->is_announced && !server->is_named && server != client->server) {
            midge_server_list_remove(list, i);
            is_changed = true;
        }
    }
    if (is_changed && client->was_connected)
        midge_client_tell(client, MIDGE_EVENT_SERVERS, MIDGE_OK, "", NULL);
}

void midge_session_info(struct midge_link *link, struct midge_slice json)
{
    struct midge_client *client = link->client;
    struct midge_server_facts facts;
    enum midge_status status = midge_server_facts_decode(&facts, json);
    bool was_lame;

    if (status != MIDGE_OK) {
        midge_session_lost(link, status, "the server's INFO cannot be read");
        return;
    }
    was_lame = link->state == MIDGE_LINK_READY && client->facts.ldm;
    midge_server_facts_deinit(&client->facts);
    client->facts = facts;
    learn_servers(client);
    if (link->state == MIDGE_LINK_INFO) {
        answer_info(link);
    } else if (link->state == MIDGE_LINK_READY && facts.ldm && !was_lame) {
        midge_client_tell(client, MIDGE_EVENT_LAME_DUCK, MIDGE_OK, "", NULL);
    }
}

/* Subscribe anew, before anything that users have queued. It does not join CONNECT in `sending`,
 * which is lent still: the PONG may be here before the turn ends that sent it. */
static bool restore(struct midge_client *client)
{
    struct midge_out frames = {0};
    const bool is_put =
        midge_sub_restore(client, &frames) == MIDGE_OK && midge_output_put_first(client, &frames);

    midge_out_deinit(&frames);
    return is_put;
}

/* The server has accepted the client. */
static void ready(struct midge_link *link)
{
    struct midge_client *client = link->client;
    const bool is_first = !client->was_connected;

    /* A drain began before there was a connection: then it ends, and needs none. */
    if (client->state == MIDGE_CLIENT_DRAINING) {
        midge_client_close(client, MIDGE_E_DISCONNECTED);
        return;
    }
    if (!restore(client)) {
        midge_session_lost(link, MIDGE_E_MEMORY, "no memory to restore subscriptions");
        return;
    }
    link->state = MIDGE_LINK_READY;
    client->is_attempting = false;
    midge_loop_clear_timer(client->loop, &client->attempt_timer);
    client->server->attempts = 0;
    client->server->auth_errors = 0;
    client->server->not_before_ns = 0;
    (void)midge_server_url(client->server, client->url, sizeof(client->url));
    client->state = MIDGE_CLIENT_CONNECTED;
    client->was_connected = true;
    client->was_encrypted |= link->tls != NULL;
    client->ready_at_ns = client->loop->now_ns;
    client->link_number++;
    client->stats.connects++;
    client->pings_unanswered = 0;
    midge_output_queued(client);
    midge_session_set_ping_timer(client);
    midge_loop_wake_done(client->loop);
    midge_client_tell(client, is_first ? MIDGE_EVENT_CONNECTED : MIDGE_EVENT_RECONNECTED, MIDGE_OK,
                      "", NULL);
}

void midge_session_pong(struct midge_link *link)
{
    struct midge_client *client = link->client;
    struct midge_ping *ping;

    if (link->state == MIDGE_LINK_PONG) {
        ready(link);
        return;
    }
    client->pings_unanswered = 0;
    if (client->ping_count == 0)
        return; /* nobody asked */
    ping = &client->pings[client->ping_head];
    client->confirmed_msgs = ping->out_msgs;
    client->last_rtt_ns = midge_ring_now_ns(client->loop->ring) - ping->sent_at_ns;
    client->ping_head = (client->ping_head + 1) % client->ping_cap;
    client->ping_count--;
    client->ping_answered++;
    client->loop->progress++;
    midge_sub_pong(client);
    midge_loop_wake_done(client->loop);
}

/* --- pings --- */

void midge_session_set_ping_timer(struct midge_client *client)
{
    if (client->options.ping_interval_ms == 0)
        return;
    midge_loop_set_own_timer(client->loop, &client->ping_timer,
                             client->loop->now_ns + client->options.ping_interval_ms * NS_PER_MS);
}

void midge_session_fire_ping(struct midge_client *client)
{
    if (client->link == NULL || client->link->state != MIDGE_LINK_READY)
        return;
    if (client->pings_unanswered >= client->options.pings_max) {
        midge_session_lost(client->link, MIDGE_E_STALE, "the server answers no PING");
        return;
    }
    client->pings_unanswered++;
    if (midge_output_ping(client) != MIDGE_OK)
        midge_session_lost(client->link, MIDGE_E_MEMORY, "no memory for a PING");
    else
        midge_session_set_ping_timer(client);
}

/* --- errors --- */

static bool begins_with(const char *text, const char *beginning)
{
    return strncasecmp(text, beginning, strlen(beginning)) == 0;
}

/* What the words of an -ERR mean. Source: nats-server v2.15.2, server/errors.go, client.go. */
static enum midge_status status_of_words(const char *text)
{
    static const struct {
        const char *beginning;
        enum midge_status status;
    } words[] = {
        {"permissions violation", MIDGE_E_PERMISSION},
        {"authorization violation", MIDGE_E_AUTH},
        {"authentication timeout", MIDGE_E_AUTH},
        {"user authentication expired", MIDGE_E_AUTH},
        {"user authentication revoked", MIDGE_E_AUTH},
        {"account authentication expired", MIDGE_E_AUTH},
        {"invalid subject", MIDGE_E_SUBJECT},
        {"invalid publish subject", MIDGE_E_PUB_SUBJECT},
        {"maximum subscriptions exceeded", MIDGE_E_MAX_SUBS},
        {"maximum connections exceeded", MIDGE_E_MAX_CONNECTIONS},
        {"maximum payload violation", MIDGE_E_PAYLOAD},
        {"stale connection", MIDGE_E_STALE},
        {"secure connection", MIDGE_E_TLS},
    };

    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
        if (begins_with(text, words[i].beginning))
            return words[i].status;
    }
    return MIDGE_E_PEER_ERR;
}

void midge_session_error(struct midge_link *link, struct midge_slice text)
{
    struct midge_client *client = link->client;
    char words[TEXT_CAP];
    uint32_t len = 0;
    enum midge_status status;

    for (; len < text.len && len + 1 < sizeof(words); len++)
        words[len] = (char)(text.base[len] < 0x20 || text.base[len] == 0x7f ? '?' : text.base[len]);
    words[len] = '\0';
    status = status_of_words(words);
    if (link->state != MIDGE_LINK_READY || status == MIDGE_E_AUTH) {
        midge_session_lost(link, status, words);
        return;
    }
    /* What ends the connection is followed by its end. */
    midge_client_note(client, "%s", words);
    midge_client_tell(client, MIDGE_EVENT_ERROR, status, words, NULL);
}

/* --- loss --- */

/* When the server of a connection that was lost may be tried again: at once after one that lasted,
 * and after the first that did not; then it is left alone for longer each time, or whoever accepts
 * and hangs up would be asked without end. */
static uint64_t again_at_ns(struct midge_client *client, struct midge_server *server)
{
    const struct midge_options *options = &client->options;
    const uint64_t lived_ns = client->loop->now_ns - client->ready_at_ns;

    if (lived_ns >= options->reconnect_wait_max_ms * NS_PER_MS)
        server->short_lives = 0;
    else
        server->short_lives++;
    if (server->short_lives <= 1)
        return client->loop->now_ns + random_ns(client, options->reconnect_jitter_ms);
    return client->loop->now_ns + wait_ns(client, server->short_lives - 1);
}

static void lost_while_connected(struct midge_client *client, enum midge_status status,
                                 const char *text)
{
    struct midge_server *server = client->server;
    char url[TEXT_CAP];

    midge_client_note(client, "%s: %s", midge_server_url(server, url, sizeof(url)), text);
    midge_loop_clear_timer(client->loop, &client->ping_timer);
    client->link_number++;
    client->server = NULL;
    if (status == MIDGE_E_AUTH)
        server->auth_errors++;
    server->not_before_ns = again_at_ns(client, server);
    midge_server_list_to_end(&client->servers, index_of(client, server));
    if (client->options.reconnect_max == 0 || client->state == MIDGE_CLIENT_DRAINING) {
        midge_client_close(client, status == MIDGE_E_AUTH ? status : MIDGE_E_DISCONNECTED);
        return;
    }
    client->state = MIDGE_CLIENT_RECONNECTING;
    schedule(client);
    midge_request_end_all(client, MIDGE_E_DISCONNECTED);
    if (client->state != MIDGE_CLIENT_RECONNECTING)
        return; /* a call-back has closed it */
    midge_sub_disconnected(client);
    midge_loop_wake_done(client->loop);
    midge_client_tell(client, MIDGE_EVENT_DISCONNECTED, status, client->error, NULL);
}

void midge_session_lost(struct midge_link *link, enum midge_status status, const char *text)
{
    struct midge_client *client = link->client;
    const bool was_connecting = link->state == MIDGE_LINK_CONNECTING;

    if (link->state == MIDGE_LINK_DEAD)
        return;
    midge_link_kill(link);
    midge_output_lost(client, link);
    if (!client->is_attempting) {
        lost_while_connected(client, status, text);
    } else if (was_connecting && client->address_index + 1 < client->addresses.count) {
        client->address_index++;
        try_addresses(client);
    } else {
        fail_attempt(client, status, text);
    }
}
