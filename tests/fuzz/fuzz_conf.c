/*
 * Any bytes as a configuration file.
 *
 * Goal: neither the grammar nor the table of keys crashes, reads past the text or hangs; a refusal
 * is one line with a place; an accepted tree has NUL-terminated texts, places inside the text, and
 * of equal keys only the last one unshadowed. Method: the text as a tree, and then as the file of
 * -c through an anonymous file; texts that include are left out of the second part, since they name
 * files of the machine.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/mman.h>
#include <unistd.h>

#include "conf.h"
#include "config.h"

#define VALUES_MAX 10000u
#define TEXT_MAX   (64u * 1024)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            (void)fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                  \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

struct walk {
    uint32_t value_count;
    uint32_t line_max;
};

static void walk_value(struct walk *walk, const struct midge_conf_value *value);

static void check_text(struct midge_slice text)
{
    CHECK(text.base != NULL && text.base[text.len] == '\0');
}

static void check_place(const struct walk *walk, const struct midge_conf_place *place)
{
    CHECK(place->file != NULL && place->line >= 1 && place->column >= 1);
    CHECK(strcmp(place->file, "text") != 0 || place->line <= walk->line_max);
}

static void walk_map(struct walk *walk, const struct midge_conf_map *map)
{
    for (uint32_t i = 0; i < map->count && walk->value_count < VALUES_MAX; i++) {
        const struct midge_conf_entry *entry = &map->entries[i];

        check_text(entry->key);
        check_place(walk, &entry->place);
        /* A sample: all pairs would take quadratic time. */
        for (uint32_t j = i + 1; j < map->count && j < i + 4; j++)
            CHECK(!midge_slice_equal(entry->key, map->entries[j].key) || entry->shadowed);
        walk_value(walk, &entry->value);
    }
    if (map->count > 0)
        CHECK(!map->entries[map->count - 1].shadowed);
}

static void walk_value(struct walk *walk, const struct midge_conf_value *value)
{
    if (++walk->value_count >= VALUES_MAX)
        return;
    check_place(walk, &value->place);
    switch (value->kind) {
    case MIDGE_CONF_STRING:
    case MIDGE_CONF_DATE:
        check_text(value->string);
        break;
    case MIDGE_CONF_ARRAY:
        for (uint32_t i = 0; i < value->array->count && walk->value_count < VALUES_MAX; i++)
            walk_value(walk, &value->array->values[i]);
        break;
    case MIDGE_CONF_MAP:
        walk_map(walk, value->map);
        break;
    case MIDGE_CONF_BOOL:
    case MIDGE_CONF_INTEGER:
    case MIDGE_CONF_FLOAT:
        break;
    }
}

static void run_tree(struct midge_slice text)
{
    struct walk walk = {.line_max = 1};
    struct midge_conf conf;

    for (uint32_t i = 0; i < text.len; i++)
        walk.line_max += text.base[i] == '\n';
    midge_conf_init(&conf);
    if (midge_conf_load_text(&conf, "text", text) == MIDGE_OK) {
        CHECK(conf.error[0] == '\0');
        walk_map(&walk, &conf.root);
    } else {
        CHECK(conf.error[0] != '\0' && strchr(conf.error, '\n') == NULL);
    }
    midge_conf_deinit(&conf);
    CHECK(conf.chunks == NULL);
}

static bool includes(struct midge_slice text)
{
    for (uint32_t i = 0; i + 7 <= text.len; i++) {
        if (strncasecmp((const char *)text.base + i, "include", 7) == 0)
            return true;
    }
    return false;
}

static void run_file(struct midge_slice text)
{
    char path[64];
    char *args[] = {strdup("midge-server"), strdup("-c"), path};
    struct midge_config config;
    FILE *null = fopen("/dev/null", "we");
    const int fd = memfd_create("fuzz_conf", MFD_CLOEXEC);

    CHECK(null != NULL && fd >= 0 && args[0] != NULL && args[1] != NULL);
    CHECK(write(fd, text.base, text.len) == (ssize_t)text.len);
    (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    midge_config_init(&config);
    if (midge_config_load(&config, 3, args, null, null) == MIDGE_OK) {
        CHECK(config.port >= -1 && config.port <= 65535);
        CHECK(config.token == NULL || config.user == NULL);
        CHECK(config.payload_len_max <= MIDGE_PAYLOAD_MAX && config.payload_len_max > 0);
        CHECK(config.ping_interval_ms > 0 && config.write_deadline_ms > 0);
    }
    midge_config_deinit(&config);
    (void)close(fd);
    (void)fclose(null);
    free(args[0]);
    free(args[1]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size > TEXT_MAX)
        return 0;
    const struct midge_slice text = midge_slice_make(data, (uint32_t)size);
    run_tree(text);
    if (!includes(text))
        run_file(text);
    return 0;
}
