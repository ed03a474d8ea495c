/*
 * Contexts of the `nats` command: a JSON file each, $XDG_CONFIG_HOME/nats/context/NAME.json, and
 * nats/context.txt, which names the one that is selected.
 *
 * Source: nats-io/jsm.go, natscontext/context.go.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <jansson.h>

#include "cli.h"

#define PATH_LEN_MAX 4096

/* $XDG_CONFIG_HOME/nats or ~/.config/nats, and what is behind it. @return false if there is no home
 */
static bool make_path(char *out, const char *behind, const char *name, const char *suffix)
{
    const char *config = getenv("XDG_CONFIG_HOME");
    const char *home = getenv("HOME");
    int len;

    if (config != NULL && *config != '\0')
        len = snprintf(out, PATH_LEN_MAX, "%s/nats/%s%s%s", config, behind, name, suffix);
    else if (home != NULL && *home != '\0')
        len = snprintf(out, PATH_LEN_MAX, "%s/.config/nats/%s%s%s", home, behind, name, suffix);
    else
        return false;
    return len > 0 && len < PATH_LEN_MAX;
}

/* The name in context.txt. @return owned; NULL = none is selected */
static char *selected_name(void)
{
    char path[PATH_LEN_MAX];
    char line[256];
    FILE *file;
    char *name = NULL;

    if (!make_path(path, "context.txt", "", ""))
        return NULL;
    file = fopen(path, "re");
    if (file == NULL)
        return NULL;
    if (fgets(line, sizeof(line), file) != NULL) {
        line[strcspn(line, "\r\n")] = '\0';
        if (line[0] != '\0')
            name = strdup(line);
    }
    (void)fclose(file);
    return name;
}

/* A text of the context; NULL if it is not there or empty. A leading ~ is the home directory. */
static const char *text_of(struct json_t *context, const char *key, bool is_path)
{
    json_t *value = json_object_get(context, key);
    const char *text = json_string_value(value);
    const char *home = getenv("HOME");
    char path[PATH_LEN_MAX];

    if (text == NULL || *text == '\0')
        return NULL;
    if (!is_path || strncmp(text, "~/", 2) != 0 || home == NULL)
        return text;
    (void)snprintf(path, sizeof(path), "%s%s", home, text + 1);
    if (json_string_set(value, path) != 0)
        return NULL;
    return json_string_value(value);
}

/* What is not understood must not be passed over: the message would go to another server. */
static void check(const struct midge_cli *cli, const char *path)
{
    static const char *const texts[] = {"url",  "user", "password", "token", "creds",
                                        "nkey", "ca",   "cert",     "key",   "inbox_prefix"};

    if (!json_is_object(cli->context))
        midge_cli_usage(cli, "%s is no JSON object", path);
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        json_t *value = json_object_get(cli->context, texts[i]);

        if (value != NULL && !json_is_string(value) && !json_is_null(value))
            midge_cli_usage(cli, "%s: \"%s\" is no string", path, texts[i]);
    }
}

/* Each value is taken where there is none yet. */
static void take(struct midge_cli *cli, struct json_t *context)
{
    struct midge_options *options = &cli->options;

    if (options->url == NULL)
        options->url = text_of(context, "url", false);
    if (!midge_cli_knows_who(cli)) {
        options->user = text_of(context, "user", false);
        if (options->password == NULL)
            options->password = text_of(context, "password", false);
        options->token = text_of(context, "token", false);
        options->credentials_file = text_of(context, "creds", true);
        cli->nkey_file = text_of(context, "nkey", true);
    }
    if (options->tls_ca_file == NULL)
        options->tls_ca_file = text_of(context, "ca", true);
    if (options->tls_cert_file == NULL && options->tls_key_file == NULL) {
        options->tls_cert_file = text_of(context, "cert", true);
        options->tls_key_file = text_of(context, "key", true);
    }
    if (options->inbox_prefix == NULL)
        options->inbox_prefix = text_of(context, "inbox_prefix", false);
    if (json_is_true(json_object_get(context, "tls_first")))
        options->tls = MIDGE_TLS_FIRST;
}

static bool has_environment_url(void)
{
    const char *url = getenv("NATS_URL");

    return url != NULL && *url != '\0';
}

void midge_cli_apply_context(struct midge_cli *cli)
{
    const bool is_asked_for = cli->context_name != NULL;
    char *selected = is_asked_for ? NULL : selected_name();
    const char *name = is_asked_for ? cli->context_name : selected;
    char path[PATH_LEN_MAX];
    json_error_t error;

    /* What says where to connect says who we are there, too. */
    if (name == NULL || (!is_asked_for && (cli->options.url != NULL || has_environment_url())))
        goto out;
    if (strchr(name, '/') != NULL || !make_path(path, "context/", name, ".json"))
        midge_cli_usage(cli, "'%s' cannot be the name of a context", name);
    if (access(path, R_OK) != 0)
        midge_cli_usage(cli, "cannot read context %s: %s: %s", name, path, strerror(errno));
    cli->context = json_load_file(path, 0, &error);
    if (cli->context == NULL)
        midge_cli_usage(cli, "%s:%d:%d: %s", path, error.line, error.column, error.text);
    check(cli, path);
    take(cli, cli->context);
out:
    free(selected);
}
