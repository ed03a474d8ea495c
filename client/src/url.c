/*
 * URLs of servers, and the list of servers that a client knows.
 *
 *     [nats://|tls://][user[:password]@|token@]host[:port]      unix:///path
 *
 * User, password and token may be percent-encoded. An IPv6 address stands in brackets.
 *
 * Source: RFC 3986 (authority); ADR-40 of NATS for what a bare word before `@` means (a token).
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/un.h>

#include "client_internal.h"

#define WHY_CAP      160u
#define HOST_LEN_MAX 255u

/* --- one URL --- */

static void server_destroy(struct midge_server *server)
{
    if (server == NULL)
        return;
    if (server->password != NULL)
        explicit_bzero(server->password, strlen(server->password));
    if (server->token != NULL)
        explicit_bzero(server->token, strlen(server->token));
    free(server->host);
    free(server->user);
    free(server->password);
    free(server->token);
    free(server->tls_name);
    free(server);
}

static int hex_digit(char digit)
{
    if (digit >= '0' && digit <= '9')
        return digit - '0';
    digit = (char)(digit | 0x20);
    return digit >= 'a' && digit <= 'f' ? digit - 'a' + 10 : -1;
}

/* Decode %XX. @return owned; NULL for a bad escape, a NUL, or without memory */
static char *decode(struct midge_slice text)
{
    char *out = malloc(text.len + 1u);
    uint32_t len = 0;

    if (out == NULL)
        return NULL;
    for (uint32_t i = 0; i < text.len; i++) {
        char byte = (char)text.base[i];
        if (byte == '%') {
            const int high = i + 2 < text.len ? hex_digit((char)text.base[i + 1]) : -1;
            const int low = i + 2 < text.len ? hex_digit((char)text.base[i + 2]) : -1;
            if (high < 0 || low < 0 || (high | low) == 0)
                goto err_free;
            byte = (char)(high * 16 + low);
            i += 2;
        }
        out[len++] = byte;
    }
    out[len] = '\0';
    return out;

err_free:
    explicit_bzero(out, len); /* the beginning of a password, perhaps */
    free(out);
    return NULL;
}

static struct midge_slice before(struct midge_slice text, uint32_t index)
{
    return midge_slice_make(text.base, index);
}

static struct midge_slice behind(struct midge_slice text, uint32_t index)
{
    return midge_slice_make(text.base + index + 1, text.len - index - 1);
}

static bool find(struct midge_slice text, char byte, bool is_last, uint32_t *index_out)
{
    const uint8_t *at = text.len == 0 ? NULL
                        : is_last     ? memrchr(text.base, byte, text.len)
                                      : memchr(text.base, byte, text.len);

    if (at != NULL)
        *index_out = (uint32_t)(at - text.base);
    return at != NULL;
}

static const char *parse_userinfo(struct midge_server *server, struct midge_slice text)
{
    uint32_t colon;

    if (find(text, ':', false, &colon)) {
        server->user = decode(before(text, colon));
        server->password = decode(behind(text, colon));
        return server->user == NULL || server->password == NULL ? "user or password is malformed"
                                                                : NULL;
    }
    server->token = decode(text);
    return server->token == NULL ? "the token is malformed" : NULL;
}

static const char *parse_port(struct midge_server *server, struct midge_slice text)
{
    uint32_t port = 0;

    if (text.len == 0 || text.len > 5)
        return "the port is no number from 1 to 65535";
    for (uint32_t i = 0; i < text.len; i++) {
        if (text.base[i] < '0' || text.base[i] > '9')
            return "the port is no number from 1 to 65535";
        port = 10 * port + text.base[i] - '0';
    }
    if (port == 0 || port > UINT16_MAX)
        return "the port is no number from 1 to 65535";
    server->port = (uint16_t)port;
    return NULL;
}

static const char *parse_host(struct midge_server *server, struct midge_slice text)
{
    struct midge_slice host = text;
    uint32_t index;

    server->port = MIDGE_PORT_DEFAULT;
    if (find(text, ']', true, &index) && text.base[0] == '[') {
        const struct midge_slice rest = behind(text, index);
        host = midge_slice_make(text.base + 1, index - 1);
        if (rest.len > 0) {
            const char *why = rest.base[0] != ':' ? "a colon must follow the bracket"
                                                  : parse_port(server, behind(rest, 0));
            if (why != NULL)
                return why;
        }
    } else if (find(text, ':', true, &index)) {
        const char *why = parse_port(server, behind(text, index));
        if (why != NULL)
            return why;
        host = before(text, index);
    }
    if (host.len == 0 || host.len > HOST_LEN_MAX)
        return "there is no host";
    for (uint32_t i = 0; i < host.len; i++) {
        if (host.base[i] <= ' ' || host.base[i] == 0x7f ||
            strchr("/?#@[]\\,", host.base[i]) != NULL)
            return "the host has a character that no host has";
    }
    server->host = strndup((const char *)host.base, host.len);
    server->tls_name = strndup((const char *)host.base, host.len);
    return server->host == NULL || server->tls_name == NULL ? "out of memory" : NULL;
}

static bool take_scheme(struct midge_slice *text, const char *scheme)
{
    const uint32_t len = (uint32_t)strlen(scheme);

    if (text->len < len || strncasecmp((const char *)text->base, scheme, len) != 0)
        return false;
    *text = midge_slice_make(text->base + len, text->len - len);
    return true;
}

static const char *parse_url(struct midge_server *server, struct midge_slice text)
{
    uint32_t index;

    if (take_scheme(&text, "unix://")) {
        if (text.len == 0 || text.len >= sizeof(((struct sockaddr_un *)NULL)->sun_path))
            return "a Unix socket's path has 1 to 107 bytes";
        server->is_unix = true;
        server->host = strndup((const char *)text.base, text.len);
        return server->host == NULL ? "out of memory" : NULL;
    }
    if (take_scheme(&text, "tls://"))
        server->is_tls = true;
    else if (!take_scheme(&text, "nats://") && text.len >= 3 &&
             memmem(text.base, text.len, "://", 3) != NULL)
        return "the scheme is none of nats, tls, unix";
    while (text.len > 0 && text.base[text.len - 1] == '/')
        text.len--;
    if (find(text, '@', true, &index)) {
        const char *why = parse_userinfo(server, before(text, index));
        if (why != NULL)
            return why;
        text = behind(text, index);
    }
    return parse_host(server, text);
}

const char *midge_server_url(const struct midge_server *server, char *out, size_t cap)
{
    const bool is_v6 = !server->is_unix && strchr(server->host, ':') != NULL;

    if (server->is_unix)
        (void)snprintf(out, cap, "unix://%s", server->host);
    else
        (void)snprintf(out, cap, is_v6 ? "%s://[%s]:%u" : "%s://%s:%u",
                       server->is_tls ? "tls" : "nats", server->host, server->port);
    return out;
}

/* --- the list --- */

static enum midge_status list_put(struct midge_server_list *list, struct midge_server *server)
{
    if (list->count == list->cap) {
        const uint32_t cap = list->cap == 0 ? 4 : 2 * list->cap;
        struct midge_server **servers = realloc(list->servers, cap * sizeof(struct midge_server *));
        if (servers == NULL)
            return MIDGE_E_MEMORY;
        list->servers = servers;
        list->cap = cap;
    }
    list->servers[list->count++] = server;
    return MIDGE_OK;
}

static enum midge_status add_one(struct midge_server_list *list, struct midge_slice text, char *why)
{
    struct midge_server *server;
    const char *reason;

    if (list->count == MIDGE_CLIENT_SERVERS_MAX) {
        (void)snprintf(why, WHY_CAP, "more than %u URLs", MIDGE_CLIENT_SERVERS_MAX);
        return MIDGE_E_CONFIG;
    }
    server = calloc(1, sizeof(*server));
    if (server == NULL)
        return MIDGE_E_MEMORY;
    reason = parse_url(server, text);
    if (reason != NULL) {
        /* Not the URL itself: it may hold a password. */
        (void)snprintf(why, WHY_CAP, "URL %u: %s", list->count + 1, reason);
        server_destroy(server);
        return MIDGE_E_CONFIG;
    }
    if (list_put(list, server) != MIDGE_OK) {
        server_destroy(server);
        return MIDGE_E_MEMORY;
    }
    return MIDGE_OK;
}

enum midge_status midge_server_list_add(struct midge_server_list *list, const char *urls, char *why)
{
    for (const char *at = urls; *at != '\0';) {
        const size_t len = strcspn(at, ",");
        const char *begin = at + strspn(at, " \t");
        const char *end = at + len;

        while (end > begin && (end[-1] == ' ' || end[-1] == '\t'))
            end--;
        if (end > begin) {
            const enum midge_status status =
                add_one(list, midge_slice_make(begin, (uint32_t)(end - begin)), why);
            if (status != MIDGE_OK)
                return status;
        }
        at += len;
        at += *at == ',';
    }
    if (list->count == 0) {
        (void)snprintf(why, WHY_CAP, "there is no URL");
        return MIDGE_E_CONFIG;
    }
    return MIDGE_OK;
}

static char *copy_of(const char *text)
{
    return text == NULL ? NULL : strdup(text);
}

bool midge_server_list_announce(struct midge_server_list *list, const char *address,
                                const struct midge_server *from)
{
    struct midge_server *server = calloc(1, sizeof(*server));

    if (server == NULL)
        return false;
    /* A server is named by the cluster as host:port: no scheme, no user, no path. */
    if (strpbrk(address, "@/") != NULL || parse_host(server, midge_slice_text(address)) != NULL)
        goto drop;
    for (uint32_t i = 0; i < list->count; i++) {
        struct midge_server *known = list->servers[i];
        if (!known->is_unix && known->port == server->port &&
            strcasecmp(known->host, server->host) == 0) {
            known->is_named = true;
            goto drop;
        }
    }
    server->is_announced = server->is_named = true;
    if (from->is_unix)
        goto add; /* its users are peers of this host; they prove nothing elsewhere */
    server->is_tls = from->is_tls;
    server->user = copy_of(from->user);
    server->password = copy_of(from->password);
    server->token = copy_of(from->token);
    /* The name to check stays that of the URL which the user gave. */
    free(server->tls_name);
    server->tls_name = copy_of(from->tls_name);
    if (server->tls_name == NULL)
        goto drop;
add:
    if (list->count >= MIDGE_CLIENT_SERVERS_MAX || list_put(list, server) != MIDGE_OK)
        goto drop;
    return true;

drop:
    server_destroy(server);
    return false;
}

void midge_server_list_remove(struct midge_server_list *list, uint32_t index)
{
    server_destroy(list->servers[index]);
    list->count--;
    memmove(&list->servers[index], &list->servers[index + 1],
            (list->count - index) * sizeof(struct midge_server *));
}

void midge_server_list_to_end(struct midge_server_list *list, uint32_t index)
{
    struct midge_server *server = list->servers[index];

    memmove(&list->servers[index], &list->servers[index + 1],
            (list->count - 1 - index) * sizeof(struct midge_server *));
    list->servers[list->count - 1] = server;
}

void midge_server_list_deinit(struct midge_server_list *list)
{
    while (list->count > 0)
        midge_server_list_remove(list, list->count - 1);
    free(list->servers);
    *list = (struct midge_server_list){0};
}
