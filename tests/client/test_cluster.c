/*
 * Several servers: what a cluster announces, where a client goes when its server leaves it, and
 * what it is told before. Method: two servers with a route between them.
 */
#include <signal.h>

#include "rig.h"
#include "secrets.h"

#define HOST "nats://127.0.0.1"

/* A cluster of two; clients begin with the first one. */
struct cluster {
    struct midge_rig_server first;
    struct midge_rig_server second;
    uint16_t route_port; /* of the first */
    const char *members; /* more of each server's configuration */
    char url[96];        /* of the first, for the client */
};

static void start_first(const struct midge_rig *rig, struct cluster *cluster)
{
    char config[2048];

    (void)snprintf(config, sizeof(config),
                   "server_name: first\ncluster { name: pair, listen: \"127.0.0.1:%u\" }\n%s",
                   cluster->route_port, cluster->members);
    midge_rig_server_start_with(rig, &cluster->first, config);
}

static void start_second(const struct midge_rig *rig, struct cluster *cluster)
{
    char config[2048];

    (void)snprintf(config, sizeof(config),
                   "server_name: second\ncluster { name: pair, listen: \"127.0.0.1:-1\",\n"
                   "  routes: [ \"nats://127.0.0.1:%u\" ] }\n%s",
                   cluster->route_port, cluster->members);
    midge_rig_server_start_with(rig, &cluster->second, config);
}

static void end(struct cluster *cluster)
{
    midge_rig_server_end(&cluster->first);
    midge_rig_server_end(&cluster->second);
}

static bool is_at(const struct midge_client *client, const char *server_name)
{
    struct midge_server_info info;

    midge_client_server(client, &info);
    return strcmp(info.server_name, server_name) == 0;
}

/* Start the first server, connect a client to it, then start the second one. */
static struct midge_client *connect_to_first(const struct midge_rig *rig, struct cluster *cluster,
                                             struct midge_options *options, const char *scheme_host,
                                             struct midge_rig_events *events)
{
    struct midge_client *client;

    cluster->route_port = midge_rig_free_port();
    start_first(rig, cluster);
    (void)snprintf(cluster->url, sizeof(cluster->url), "%s:%u", scheme_host, cluster->first.port);
    options->url = cluster->url;
    options->context = events;
    options->event_cb = midge_rig_note_event;
    client = midge_rig_connect(rig, options);
    start_second(rig, cluster);
    return client;
}

/* What is published through one server arrives through the other. */
static void check_route(const struct midge_rig *rig, struct midge_client *client,
                        const struct midge_rig_server *other)
{
    struct midge_options options = midge_rig_options(rig);
    struct midge_rig_heard heard = {.count = 0};
    struct midge_client *far;

    options.url = other->url;
    far = midge_rig_connect(rig, &options);
    (void)midge_rig_listen(far, "across", &heard, midge_rig_hear);
    /* The subscription needs a moment to be known on the other side. */
    for (uint32_t i = 0; heard.count == 0; i++) {
        CHECK(i < RIG_PATIENCE_MS / 10);
        midge_rig_publish(client, "across", "ping");
        midge_rig_flush(client);
        CHECK(midge_client_wait(far, 10) >= MIDGE_OK);
    }
    CHECK(strcmp(heard.payload, "ping") == 0);
    midge_client_destroy(far);
}

static void client_moves_to_an_announced_server(struct midge_rig *rig)
{
    struct midge_options options = midge_rig_options(rig);
    struct midge_rig_events events = {.count = 0};
    struct cluster cluster = {.members = ""};
    struct midge_client *client = connect_to_first(rig, &cluster, &options, HOST, &events);
    struct midge_sub *sub = midge_rig_subscribe(client, "orders");

    WAIT_UNTIL(client, events.counts[MIDGE_EVENT_SERVERS] == 1);
    check_route(rig, client, &cluster.second);
    midge_rig_server_kill(&cluster.first);
    WAIT_UNTIL(client, events.counts[MIDGE_EVENT_RECONNECTED] == 1);
    CHECK(is_at(client, "second"));
    midge_rig_publish(client, "orders", "tea");
    midge_rig_expect(rig, sub, "tea");
    midge_client_destroy(client);
    end(&cluster);
}

static void client_can_stay_with_its_own_servers(struct midge_rig *rig)
{
    struct midge_options options = midge_rig_options(rig);
    struct midge_rig_events events = {.count = 0};
    struct cluster cluster = {.members = ""};
    struct midge_client *client;

    options.ignore_announced = true;
    client = connect_to_first(rig, &cluster, &options, HOST, &events);
    check_route(rig, client, &cluster.second);
    midge_rig_server_kill(&cluster.first);
    WAIT_UNTIL(client, events.counts[MIDGE_EVENT_DISCONNECTED] == 1);
    /* Several attempts at the first server fail before it is there again. */
    WAIT_UNTIL(client, strstr(midge_client_error(client), "refused") != NULL);
    midge_rig_server_again(&cluster.first);
    WAIT_UNTIL(client, events.counts[MIDGE_EVENT_RECONNECTED] == 1);
    CHECK(is_at(client, "first"));
    CHECK_EQUAL(events.counts[MIDGE_EVENT_SERVERS], 0);
    midge_client_destroy(client);
    end(&cluster);
}

static void server_that_left_the_cluster_is_forgotten(struct midge_rig *rig)
{
    struct midge_options options = midge_rig_options(rig);
    struct midge_rig_events events = {.count = 0};
    struct cluster cluster = {.members = ""};
    struct midge_client *client = connect_to_first(rig, &cluster, &options, HOST, &events);

    WAIT_UNTIL(client, events.counts[MIDGE_EVENT_SERVERS] == 1);
    midge_rig_server_kill(&cluster.second);
    WAIT_UNTIL(client, events.counts[MIDGE_EVENT_SERVERS] == 2);
    CHECK(is_at(client, "first"));
    CHECK_EQUAL(events.counts[MIDGE_EVENT_DISCONNECTED], 0);
    midge_client_destroy(client);
    end(&cluster);
}

/* The announced address is 127.0.0.1, for which the certificate is not: what counts is the name in
 * the URL which the user gave. */
static void announced_server_must_be_the_host_of_the_url(struct midge_rig *rig)
{
    const struct midge_secret ca = midge_secret_path("ca.pem");
    struct midge_options options = midge_rig_options(rig);
    struct midge_rig_events events = {.count = 0};
    struct cluster cluster = {.members = ""};
    struct midge_client *client;
    char members[768];

    (void)snprintf(members, sizeof(members),
                   "tls { cert_file: \"%s\", key_file: \"%s\", timeout: 20 }\n",
                   midge_secret_path("name.pem").path, midge_secret_path("name.key").path);
    cluster.members = members;
    options.tls_ca_file = ca.path;
    client = connect_to_first(rig, &cluster, &options, "tls://localhost", &events);
    WAIT_UNTIL(client, events.counts[MIDGE_EVENT_SERVERS] == 1);
    midge_rig_server_kill(&cluster.first);
    WAIT_UNTIL(client, events.counts[MIDGE_EVENT_RECONNECTED] == 1);
    CHECK(is_at(client, "second"));
    midge_client_destroy(client);
    end(&cluster);
}

static void lame_duck_is_told_before_the_server_goes(struct midge_rig *rig)
{
    struct midge_options options = midge_rig_options(rig);
    struct midge_rig_events events = {.count = 0};
    struct cluster cluster = {
        .members = "lame_duck_grace_period: \"500ms\"\nlame_duck_duration: \"30s\"\n",
    };
    struct midge_client *client = connect_to_first(rig, &cluster, &options, HOST, &events);
    struct midge_sub *sub = midge_rig_subscribe(client, "orders");

    WAIT_UNTIL(client, events.counts[MIDGE_EVENT_SERVERS] == 1);
    midge_rig_server_signal(&cluster.first, SIGUSR2);
    WAIT_UNTIL(client, events.counts[MIDGE_EVENT_LAME_DUCK] == 1);
    CHECK_EQUAL(events.counts[MIDGE_EVENT_DISCONNECTED], 0);
    /* Meanwhile it serves as before. */
    CHECK(is_at(client, "first"));
    midge_rig_publish(client, "orders", "last one");
    midge_rig_expect(rig, sub, "last one");
    WAIT_UNTIL(client, events.counts[MIDGE_EVENT_RECONNECTED] == 1);
    CHECK(is_at(client, "second"));
    CHECK_EQUAL(events.counts[MIDGE_EVENT_LAME_DUCK], 1);
    midge_rig_publish(client, "orders", "first one");
    midge_rig_expect(rig, sub, "first one");
    midge_client_destroy(client);
    end(&cluster);
}

int main(int argc, char **argv)
{
    static const struct midge_rig_case cases[] = {
        RIG_CASE(client_moves_to_an_announced_server),
        RIG_CASE(client_can_stay_with_its_own_servers),
        RIG_CASE(server_that_left_the_cluster_is_forgotten),
        RIG_CASE(announced_server_must_be_the_host_of_the_url),
        RIG_CASE(lame_duck_is_told_before_the_server_goes),
    };

    return midge_rig_main(argc, argv, cases, sizeof(cases) / sizeof(cases[0]));
}
