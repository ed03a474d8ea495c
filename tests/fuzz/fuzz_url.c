/*
 * URLs of servers, those of a user and those that a server announces.
 *
 * Input: lines. The first one is what a user gives; the others are announced. What was understood,
 * written again and read again, must be the same; an announced server must never get a name to
 * check, or a lack of encryption, that its user did not choose.
 */
#include "client_internal.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define LEN_MAX 4096u
#define WHY_CAP 160u

static bool same_text(const char *a, const char *b)
{
    return a == NULL || b == NULL ? a == b : strcmp(a, b) == 0;
}

/* Without user and password, which are not written. */
static void check_written(const struct midge_server *server)
{
    struct midge_server_list list = {0};
    struct midge_addresses addresses;
    char url[1024];
    char why[WHY_CAP];

    (void)midge_server_url(server, url, sizeof(url));
    MIDGE_ASSERT(strlen(url) < sizeof(url) - 1);
    MIDGE_ASSERT(server->host[0] != '\0');
    MIDGE_ASSERT(server->is_unix ? server->tls_name == NULL : server->port > 0);
    if (midge_resolve_now(server, &addresses))
        MIDGE_ASSERT(addresses.count > 0);
    if (server->is_unix && strchr(server->host, ',') != NULL)
        return; /* can be connected to, but not in a list */
    MIDGE_ASSERT(midge_server_list_add(&list, url, why) == MIDGE_OK);
    MIDGE_ASSERT(list.count == 1);
    MIDGE_ASSERT(strcmp(list.servers[0]->host, server->host) == 0);
    MIDGE_ASSERT(list.servers[0]->port == server->port);
    MIDGE_ASSERT(list.servers[0]->is_tls == server->is_tls);
    MIDGE_ASSERT(list.servers[0]->is_unix == server->is_unix);
    midge_server_list_deinit(&list);
}

static void check_announced(struct midge_server_list *list, const char *address)
{
    const struct midge_server *from = list->servers[0];
    const uint32_t before = list->count;
    const struct midge_server *server;

    if (!midge_server_list_announce(list, address, from)) {
        MIDGE_ASSERT(list->count == before);
        return;
    }
    MIDGE_ASSERT(list->count == before + 1 && list->count <= MIDGE_CLIENT_SERVERS_MAX);
    server = list->servers[before];
    MIDGE_ASSERT(server->is_announced && server->is_named && !server->is_unix);
    check_written(server);
    if (from->is_unix) {
        MIDGE_ASSERT(server->user == NULL && server->password == NULL && server->token == NULL);
        return;
    }
    MIDGE_ASSERT(server->is_tls == from->is_tls);
    MIDGE_ASSERT(same_text(server->tls_name, from->tls_name));
    MIDGE_ASSERT(same_text(server->user, from->user) && same_text(server->token, from->token));
    MIDGE_ASSERT(same_text(server->password, from->password));
}

/* Take the next line, NUL-terminated. @return owned; NULL at the end */
static char *next_line(const uint8_t *data, size_t size, size_t *off)
{
    const uint8_t *end = *off < size ? memchr(data + *off, '\n', size - *off) : NULL;
    const size_t len = end == NULL ? size - *off : (size_t)(end - data) - *off;
    char *line;

    if (*off >= size)
        return NULL;
    line = malloc(len + 1);
    MIDGE_ASSERT(line != NULL);
    memcpy(line, data + *off, len);
    line[len] = '\0';
    *off += len + 1;
    return line;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct midge_server_list list = {0};
    char why[WHY_CAP] = "";
    enum midge_status status;
    size_t off = 0;
    char *line;

    if (size > LEN_MAX)
        return 0;
    line = next_line(data, size, &off);
    if (line == NULL)
        return 0;
    status = midge_server_list_add(&list, line, why);
    free(line);
    MIDGE_ASSERT(status == MIDGE_OK || status == MIDGE_E_CONFIG);
    MIDGE_ASSERT((status == MIDGE_OK) == (why[0] == '\0'));
    for (uint32_t i = 0; i < list.count; i++)
        check_written(list.servers[i]);
    while (status == MIDGE_OK && (line = next_line(data, size, &off)) != NULL) {
        check_announced(&list, line);
        free(line);
    }
    while (list.count > 1) {
        midge_server_list_to_end(&list, 0);
        midge_server_list_remove(&list, list.count / 2);
    }
    midge_server_list_deinit(&list);
    return 0;
}
