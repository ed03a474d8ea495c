/*
 * Pairs, maps, arrays, includes and variables of a configuration file.
 *
 * A recursive descent over the text, bounded by MIDGE_CONF_DEPTH_MAX for everything that nests.
 * Values are immutable once read, so a variable shares the map or array that it names. Source:
 * nats-server v2.15.2, conf/lex.go, conf/parse.go:246-514.
 */
#include "conf.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "conf_internal.h"

/* What encloses pairs. */
enum pairs_form {
    PAIRS_TOP = 0, /* the file; ends with the text */
    PAIRS_BRACED,  /* the whole file in { } */
    PAIRS_MAP,     /* a value */
};

static enum midge_status read_pairs(struct midge_conf_reader *reader, struct midge_conf_map *map,
                                    enum pairs_form form);
static enum midge_status read_value(struct midge_conf_reader *reader,
                                    struct midge_conf_value *value);
static enum midge_status read_file(struct midge_conf *conf, const char *path,
                                   const struct midge_conf_source *outer, uint32_t depth,
                                   struct midge_conf_map *map);

const char *midge_conf_kind_name(enum midge_conf_kind kind)
{
    switch (kind) {
    case MIDGE_CONF_BOOL:
        return "a bool";
    case MIDGE_CONF_INTEGER:
        return "an integer";
    case MIDGE_CONF_FLOAT:
        return "a number with a fraction";
    case MIDGE_CONF_STRING:
        return "a string";
    case MIDGE_CONF_DATE:
        return "a date";
    case MIDGE_CONF_ARRAY:
        return "an array";
    case MIDGE_CONF_MAP:
        return "a map";
    }
    return "?";
}

static enum midge_status enter(struct midge_conf_reader *reader)
{
    const struct midge_conf_place place = midge_conf_place(reader);

    if (reader->depth >= MIDGE_CONF_DEPTH_MAX)
        return midge_conf_fail(reader->conf, &place, "nested more than %u deep",
                               MIDGE_CONF_DEPTH_MAX);
    reader->depth++;
    return MIDGE_OK;
}

/* Room for one more in a growing array; the old one stays in the arena. */
static void *grow(struct midge_conf *conf, void *items, uint32_t count, uint32_t *cap,
                  size_t item_len)
{
    const uint32_t cap_new = *cap == 0 ? 4 : *cap * 2;
    void *grown;

    if (count < *cap)
        return items;
    grown = midge_conf_alloc(conf, cap_new * item_len);
    if (grown == NULL)
        return NULL;
    if (count > 0)
        memcpy(grown, items, count * item_len);
    *cap = cap_new;
    return grown;
}

static enum midge_status add_entry(struct midge_conf *conf, struct midge_conf_map *map,
                                   const struct midge_conf_entry *entry)
{
    struct midge_conf_entry *entries =
        grow(conf, map->entries, map->count, &map->cap, sizeof(*entries));

    if (entries == NULL)
        return midge_conf_fail_memory(conf);
    map->entries = entries;
    map->entries[map->count++] = *entry;
    return MIDGE_OK;
}

/* By key, then by address, which is the order of the file. */
static int compare_entries(const void *left, const void *right)
{
    const struct midge_conf_entry *a = *(const struct midge_conf_entry *const *)left;
    const struct midge_conf_entry *b = *(const struct midge_conf_entry *const *)right;
    const uint32_t len = a->key.len < b->key.len ? a->key.len : b->key.len;
    const int order = len == 0 ? 0 : memcmp(a->key.base, b->key.base, len);

    if (order != 0)
        return order;
    if (a->key.len != b->key.len)
        return a->key.len < b->key.len ? -1 : 1;
    return a < b ? -1 : a > b;
}

/* Of entries with the same key the last one counts. */
static enum midge_status mark_shadowed(struct midge_conf *conf, struct midge_conf_map *map)
{
    struct midge_conf_entry **sorted;

    if (map->count < 2)
        return MIDGE_OK;
    sorted = midge_conf_alloc(conf, map->count * sizeof(struct midge_conf_entry *));
    if (sorted == NULL)
        return midge_conf_fail_memory(conf);
    for (uint32_t i = 0; i < map->count; i++)
        sorted[i] = &map->entries[i];
    qsort(sorted, map->count, sizeof(struct midge_conf_entry *), compare_entries);
    for (uint32_t i = 0; i + 1 < map->count; i++)
        sorted[i]->shadowed = midge_slice_equal(sorted[i]->key, sorted[i + 1]->key);
    return MIDGE_OK;
}

/* Read the pairs of a whole text, which a reader of its own holds. */
static enum midge_status read_text(struct midge_conf_reader *reader, struct midge_slice text,
                                   struct midge_conf_map *map)
{
    static const uint8_t mark[] = {0xef, 0xbb, 0xbf};
    const uint8_t *nul = text.len == 0 ? NULL : memchr(text.base, '\0', text.len);
    enum midge_status status;

    reader->at = text.base;
    reader->end = text.base + text.len;
    reader->line_base = text.base;
    reader->line = 1;
    if (nul != NULL) {
        midge_conf_advance(reader, (uint32_t)(nul - text.base));
        const struct midge_conf_place place = midge_conf_place(reader);
        return midge_conf_fail(reader->conf, &place, "a NUL byte: this is not a text file");
    }
    if (midge_slice_starts_with(text, midge_slice_make(mark, sizeof(mark))))
        reader->at += sizeof(mark);
    status = enter(reader);
    if (status != MIDGE_OK)
        return status;
    return read_pairs(reader, map, PAIRS_TOP);
}

/* The text of an environment variable, read as a value. */
static enum midge_status read_environment(struct midge_conf_reader *reader, const char *variable,
                                          const char *text, struct midge_conf_value *value)
{
    static const char key[] = "value=";
    const struct midge_conf_source source = {.outer = reader->source, .variable = variable};
    const size_t text_len = strlen(text);
    const size_t line_len = sizeof(key) - 1 + text_len;
    struct midge_conf_map map = {0};
    struct midge_conf_reader inner = {
        .conf = reader->conf, .source = &source, .name = variable, .depth = reader->depth};
    enum midge_status status;
    char *line;

    if (text_len > MIDGE_CONF_FILE_LEN_MAX)
        return midge_conf_fail_memory(reader->conf);
    line = midge_conf_alloc(reader->conf, line_len + 1);
    if (line == NULL)
        return midge_conf_fail_memory(reader->conf);
    memcpy(line, key, sizeof(key) - 1);
    memcpy(line + sizeof(key) - 1, text, text_len);
    if (text_len == 0) {
        value->kind = MIDGE_CONF_STRING;
        value->string = midge_slice_make(line + line_len, 0);
        return MIDGE_OK;
    }
    status = read_text(&inner, midge_slice_make(line, (uint32_t)line_len), &map);
    for (uint32_t i = 0; status == MIDGE_OK && i < map.count; i++) {
        if (midge_slice_equal(map.entries[i].key, MIDGE_SLICE_LITERAL("value")))
            *value = map.entries[i].value;
    }
    return status;
}

/* Latest entry of that name in the maps that are open, from the inside out. */
static struct midge_conf_entry *find_entry(const struct midge_conf_scope *scope,
                                           struct midge_slice name)
{
    for (; scope != NULL; scope = scope->outer) {
        for (uint32_t i = scope->map->count; i > 0; i--) {
            if (midge_slice_equal(scope->map->entries[i - 1].key, name))
                return &scope->map->entries[i - 1];
        }
    }
    return NULL;
}

/* A bcrypt hash needs no quotes. Source: nats-server v2.15.2, conf/parse.go:432. */
static enum midge_status set_bcrypt(struct midge_conf_reader *reader, struct midge_slice variable,
                                    struct midge_conf_value *value)
{
    value->kind = MIDGE_CONF_STRING;
    /* The $ stands right before the name in the text. */
    if (!midge_conf_copy(reader->conf, midge_slice_make(variable.base - 1, variable.len + 1),
                         &value->string))
        return midge_conf_fail_memory(reader->conf);
    return MIDGE_OK;
}

/* Messages do not name the variable: it may be an unquoted password that starts with a dollar sign.
 */
static enum midge_status resolve_variable(struct midge_conf_reader *reader,
                                          struct midge_slice variable,
                                          struct midge_conf_value *value)
{
    const struct midge_conf_place place = value->place;
    struct midge_conf_entry *entry;
    struct midge_slice name;
    const char *text;
    enum midge_status status;

    if (midge_slice_starts_with(variable, MIDGE_SLICE_LITERAL("2a$")))
        return set_bcrypt(reader, variable, value);
    entry = find_entry(reader->scope, variable);
    if (entry != NULL) {
        entry->used = true;
        *value = entry->value;
        value->place = place;
        return MIDGE_OK;
    }
    if (!midge_conf_copy(reader->conf, variable, &name))
        return midge_conf_fail_memory(reader->conf);
    for (const struct midge_conf_source *source = reader->source; source != NULL;
         source = source->outer) {
        if (source->variable != NULL && strcmp(source->variable, (const char *)name.base) == 0)
            return midge_conf_fail(reader->conf, &place,
                                   "an environment variable that names itself");
    }
    text = getenv((const char *)name.base);
    if (text == NULL)
        return midge_conf_fail(
            reader->conf, &place,
            "this variable is neither set above nor in the environment; quote the "
            "value if it is none");
    status = read_environment(reader, (const char *)name.base, text, value);
    value->place = place;
    return status;
}

static enum midge_status read_array(struct midge_conf_reader *reader,
                                    struct midge_conf_value *value)
{
    struct midge_conf_array *array = midge_conf_alloc(reader->conf, sizeof(*array));
    const struct midge_conf_place start = midge_conf_place(reader);
    enum midge_status status = enter(reader);

    if (array == NULL)
        return midge_conf_fail_memory(reader->conf);
    if (status != MIDGE_OK)
        return status;
    midge_conf_advance(reader, 1);
    for (;;) {
        midge_conf_skip_all(reader);
        const struct midge_conf_place place = midge_conf_place(reader);
        if (midge_conf_peek(reader) == -1)
            return midge_conf_fail(reader->conf, &start, "this [ is never closed");
        if (midge_conf_peek(reader) == ',')
            return midge_conf_fail(reader->conf, &place, "unexpected , in an array");
        if (midge_conf_peek(reader) == ']')
            break;
        array->values =
            grow(reader->conf, array->values, array->count, &array->cap, sizeof(*array->values));
        if (array->values == NULL)
            return midge_conf_fail_memory(reader->conf);
        status = read_value(reader, &array->values[array->count++]);
        if (status != MIDGE_OK)
            return status;
        midge_conf_skip_blanks(reader);
        (void)midge_conf_skip_comment(reader);
        const int next = midge_conf_peek(reader);
        if (next == ',' || next == '\n' || next == '\r')
            midge_conf_advance(reader, 1);
        else if (next != ']' && next != -1) {
            const struct midge_conf_place behind = midge_conf_place(reader);
            return midge_conf_fail(reader->conf, &behind,
                                   "expected , or ] or a new line in an array");
        }
    }
    midge_conf_advance(reader, 1);
    reader->depth--;
    value->kind = MIDGE_CONF_ARRAY;
    value->array = array;
    return MIDGE_OK;
}

static enum midge_status read_map(struct midge_conf_reader *reader, struct midge_conf_value *value)
{
    struct midge_conf_map *map = midge_conf_alloc(reader->conf, sizeof(*map));
    const struct midge_conf_scope scope = {.map = map, .outer = reader->scope};
    enum midge_status status = enter(reader);

    if (map == NULL)
        return midge_conf_fail_memory(reader->conf);
    if (status != MIDGE_OK)
        return status;
    reader->scope = &scope;
    status = read_pairs(reader, map, PAIRS_MAP);
    reader->scope = scope.outer;
    reader->depth--;
    value->kind = MIDGE_CONF_MAP;
    value->map = map;
    return status;
}

static enum midge_status read_value(struct midge_conf_reader *reader,
                                    struct midge_conf_value *value)
{
    struct midge_slice variable;
    enum midge_status status;

    value->place = midge_conf_place(reader);
    if (++reader->conf->value_count > MIDGE_CONF_VALUES_MAX)
        return midge_conf_fail(reader->conf, &value->place, "more than %u values",
                               MIDGE_CONF_VALUES_MAX);
    if (midge_conf_peek(reader) == '[')
        return read_array(reader, value);
    if (midge_conf_peek(reader) == '{')
        return read_map(reader, value);
    status = midge_conf_scan_scalar(reader, value, &variable);
    if (status == MIDGE_OK && variable.base != NULL)
        status = resolve_variable(reader, variable, value);
    return status;
}

/* Between key and value. The value may stand on a later line, but at the top not behind : or =. */
static enum midge_status read_separator(struct midge_conf_reader *reader, enum pairs_form form)
{
    struct midge_conf_place place;

    midge_conf_skip_space(reader);
    if (midge_conf_peek(reader) == ':' || midge_conf_peek(reader) == '=') {
        midge_conf_advance(reader, 1);
        if (form == PAIRS_MAP)
            midge_conf_skip_space(reader);
        else
            midge_conf_skip_blanks(reader);
    }
    place = midge_conf_place(reader);
    switch (midge_conf_peek(reader)) {
    case -1:
    case '\n':
    case '\r':
    case ',':
    case ';':
    case '}':
    case ']':
        return midge_conf_fail(reader->conf, &place, "expected a value behind the key");
    default:
        return MIDGE_OK;
    }
}

/* What ends a pair: a new line, a comment, a comma, a semicolon, or what ends the map. */
static enum midge_status read_pair_end(struct midge_conf_reader *reader, enum pairs_form form)
{
    struct midge_conf_place place;

    midge_conf_skip_blanks(reader);
    if (midge_conf_skip_comment(reader))
        return MIDGE_OK;
    place = midge_conf_place(reader);
    switch (midge_conf_peek(reader)) {
    case -1:
    case '\n':
    case '\r':
        return MIDGE_OK;
    case ',':
    case ';':
        midge_conf_advance(reader, 1);
        return MIDGE_OK;
    case '}':
        /* One } too many, right behind a value, is let pass. Source: nats-server v2.15.2,
         * conf/lex.go:322. */
        if (form == PAIRS_TOP)
            midge_conf_advance(reader, 1);
        return MIDGE_OK;
    default:
        return midge_conf_fail(
            reader->conf, &place,
            "expected a new line, a comma, a semicolon or a comment behind the value");
    }
}

/* A path relative to the folder of the file that includes it. */
static enum midge_status include_path(struct midge_conf_reader *reader, struct midge_slice path,
                                      const char **path_out)
{
    const char *includer = reader->source->path;
    const char *slash = strrchr(includer, '/');
    const uint32_t folder_len =
        path.base[0] == '/' || slash == NULL ? 0 : (uint32_t)(slash - includer) + 1;
    char *joined = midge_conf_alloc(reader->conf, (size_t)folder_len + path.len + 1);

    if (joined == NULL)
        return midge_conf_fail_memory(reader->conf);
    memcpy(joined, includer, folder_len);
    memcpy(joined + folder_len, path.base, path.len);
    *path_out = joined;
    return MIDGE_OK;
}

/* Read another file as if its pairs stood here. It does not see the variables of this one. */
static enum midge_status read_include(struct midge_conf_reader *reader, struct midge_conf_map *map)
{
    const struct midge_conf_place place = midge_conf_place(reader);
    struct midge_conf_map included = {0};
    struct midge_slice path;
    const char *joined = NULL;
    enum midge_status status;

    midge_conf_skip_blanks(reader);
    status = midge_conf_scan_include(reader, &path);
    if (status != MIDGE_OK)
        return status;
    if (path.len == 0)
        return midge_conf_fail(reader->conf, &place, "expected the path of a file behind include");
    if (reader->source->path == NULL)
        return midge_conf_fail(reader->conf, &place, "only a file can include files");
    status = include_path(reader, path, &joined);
    if (status == MIDGE_OK)
        status = read_file(reader->conf, joined, reader->source, reader->depth, &included);
    for (uint32_t i = 0; status == MIDGE_OK && i < included.count; i++)
        status = add_entry(reader->conf, map, &included.entries[i]);
    return status;
}

static enum midge_status read_pair(struct midge_conf_reader *reader, struct midge_conf_map *map,
                                   enum pairs_form form)
{
    struct midge_conf_entry entry = {.place = midge_conf_place(reader)};
    struct midge_slice key;
    bool quoted;
    enum midge_status status;

    switch (midge_conf_peek(reader)) {
    case ':':
    case '=':
    case ',':
    case ';':
    case ']':
    case '{':
        return midge_conf_fail(reader->conf, &entry.place, "expected a key, not %c", *reader->at);
    default:
        break;
    }
    status = midge_conf_scan_key(reader, &key, &quoted);
    if (status != MIDGE_OK)
        return status;
    if (!quoted && key.len == 7 && strncasecmp((const char *)key.base, "include", 7) == 0 &&
        midge_conf_space_len(reader) > 0) {
        status = read_include(reader, map);
    } else {
        if (!midge_conf_copy(reader->conf, key, &entry.key))
            return midge_conf_fail_memory(reader->conf);
        status = read_separator(reader, form);
        if (status == MIDGE_OK)
            status = read_value(reader, &entry.value);
        if (status == MIDGE_OK)
            status = add_entry(reader->conf, map, &entry);
    }
    return status != MIDGE_OK ? status : read_pair_end(reader, form);
}

static enum midge_status read_braced(struct midge_conf_reader *reader, struct midge_conf_map *map)
{
    enum midge_status status = enter(reader);

    if (status == MIDGE_OK)
        status = read_pairs(reader, map, PAIRS_BRACED);
    reader->depth--;
    if (status != MIDGE_OK)
        return status;
    midge_conf_skip_blanks(reader);
    if (midge_conf_peek(reader) == ',' || midge_conf_peek(reader) == ';')
        midge_conf_advance(reader, 1);
    return MIDGE_OK;
}

/* One stray } may end the file. */
static enum midge_status read_stray_brace(struct midge_conf_reader *reader)
{
    const struct midge_conf_place place = midge_conf_place(reader);

    midge_conf_advance(reader, 1);
    midge_conf_skip_all(reader);
    if (midge_conf_peek(reader) != -1)
        return midge_conf_fail(reader->conf, &place, "this } closes nothing");
    return MIDGE_OK;
}

/* Pairs up to the end of what holds them; a { at the cursor and its } are taken. */
static enum midge_status read_pairs(struct midge_conf_reader *reader, struct midge_conf_map *map,
                                    enum pairs_form form)
{
    const struct midge_conf_place start = midge_conf_place(reader);
    const struct midge_conf_scope top = {.map = map, .outer = NULL};
    enum midge_status status = MIDGE_OK;

    if (form == PAIRS_TOP)
        reader->scope = &top;
    else
        midge_conf_advance(reader, 1);
    while (status == MIDGE_OK) {
        midge_conf_skip_all(reader);
        const int next = midge_conf_peek(reader);
        if (next == -1 && form != PAIRS_TOP)
            return midge_conf_fail(reader->conf, &start, "this { is never closed");
        if (next == -1)
            break;
        if (next == '}' && form != PAIRS_TOP) {
            midge_conf_advance(reader, 1);
            break;
        }
        if (next == '}')
            status = read_stray_brace(reader);
        else if (next == '{' && form != PAIRS_MAP)
            status = read_braced(reader, map);
        else
            status = read_pair(reader, map, form);
    }
    if (form == PAIRS_TOP)
        reader->scope = NULL;
    if (status == MIDGE_OK && form != PAIRS_BRACED)
        status = mark_shadowed(reader->conf, map);
    return status;
}

/* Bytes of a file that is being read; wiped when it ends. */
struct file_bytes {
    uint8_t *base; /* owned */
    size_t len;
    size_t cap;
};

static void wipe(struct file_bytes *bytes)
{
    if (bytes->base != NULL)
        explicit_bzero(bytes->base, bytes->len);
    free(bytes->base);
    *bytes = (struct file_bytes){.base = NULL};
}

static bool reserve(struct file_bytes *bytes, size_t cap)
{
    struct file_bytes grown = {.base = malloc(cap), .len = bytes->len, .cap = cap};

    if (grown.base == NULL)
        return false;
    if (bytes->len > 0)
        memcpy(grown.base, bytes->base, bytes->len);
    wipe(bytes);
    *bytes = grown;
    return true;
}

/* All of an open file, whose length may be unknown: a pipe. The caller wipes the bytes, also after
 * an error. */
static enum midge_status read_bytes(struct midge_conf *conf, int fd, const char *path,
                                    size_t len_hint, struct file_bytes *bytes)
{
    ssize_t taken = 1;

    if (!reserve(bytes, (len_hint < MIDGE_CONF_FILE_LEN_MAX ? len_hint : 0) + 4096))
        return midge_conf_fail_memory(conf);
    while (taken > 0) {
        if (bytes->len > MIDGE_CONF_FILE_LEN_MAX)
            return midge_conf_fail(conf, NULL, "%s is longer than %u bytes", path,
                                   MIDGE_CONF_FILE_LEN_MAX);
        if (bytes->len == bytes->cap && !reserve(bytes, bytes->cap * 2))
            return midge_conf_fail_memory(conf);
        do {
            taken = read(fd, bytes->base + bytes->len, bytes->cap - bytes->len);
        } while (taken < 0 && errno == EINTR);
        if (taken > 0)
            bytes->len += (size_t)taken;
    }
    if (taken < 0)
        return midge_conf_fail(conf, NULL, "cannot read %s: %s", path, strerror(errno));
    return MIDGE_OK;
}

/* Refuse what is no file and what is being read already. */
static enum midge_status check_file(struct midge_conf *conf, int fd,
                                    struct midge_conf_source *source, size_t *len_out)
{
    struct stat stat;

    if (fstat(fd, &stat) != 0)
        return midge_conf_fail(conf, NULL, "cannot read %s: %s", source->path, strerror(errno));
    if (S_ISDIR(stat.st_mode))
        return midge_conf_fail(conf, NULL, "cannot read %s: it is a folder", source->path);
    source->device = stat.st_dev;
    source->inode = stat.st_ino;
    *len_out = stat.st_size < 0 ? 0 : (size_t)stat.st_size;
    for (const struct midge_conf_source *outer = source->outer; outer != NULL;
         outer = outer->outer) {
        if (outer->path != NULL && outer->device == source->device && outer->inode == source->inode)
            return midge_conf_fail(conf, NULL, "%s includes itself", source->path);
    }
    return MIDGE_OK;
}

static enum midge_status read_file(struct midge_conf *conf, const char *path,
                                   const struct midge_conf_source *outer, uint32_t depth,
                                   struct midge_conf_map *map)
{
    struct midge_conf_source source = {.outer = outer, .path = path};
    struct midge_conf_reader reader = {
        .conf = conf, .source = &source, .name = path, .depth = depth};
    struct file_bytes bytes = {.base = NULL};
    size_t len_hint = 0;
    enum midge_status status;
    const int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0)
        return midge_conf_fail(conf, NULL, "cannot open configuration file %s: %s", path,
                               strerror(errno));
    status = check_file(conf, fd, &source, &len_hint);
    if (status == MIDGE_OK)
        status = read_bytes(conf, fd, path, len_hint, &bytes);
    (void)close(fd);
    if (status == MIDGE_OK)
        status = read_text(&reader, midge_slice_make(bytes.base, (uint32_t)bytes.len), map);
    wipe(&bytes);
    return status;
}

enum midge_status midge_conf_load_file(struct midge_conf *conf, const char *path)
{
    struct midge_slice name;

    MIDGE_ASSERT(conf->chunks == NULL);
    if (!midge_conf_copy(conf, midge_slice_text(path), &name))
        return midge_conf_fail_memory(conf);
    return read_file(conf, (const char *)name.base, NULL, 0, &conf->root);
}

enum midge_status midge_conf_load_text(struct midge_conf *conf, const char *name,
                                       struct midge_slice text)
{
    const struct midge_conf_source source = {0};
    struct midge_conf_reader reader = {.conf = conf, .source = &source};
    struct midge_slice copy;

    MIDGE_ASSERT(conf->chunks == NULL);
    if (!midge_conf_copy(conf, midge_slice_text(name), &copy))
        return midge_conf_fail_memory(conf);
    reader.name = (const char *)copy.base;
    return read_text(&reader, text, &conf->root);
}
