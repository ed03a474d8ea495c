/*
 * The grammar of a configuration file: text in, tree of values with positions out. Knows no key
 * names.
 *
 *   file     := pairs                     the whole may stand in { }; a stray final } is let pass
 *   pair     := key [: or =] value | include PATH
 *   value    := true|yes|on|… | 42 | 64KB | 1.5 | 2006-01-02T15:04:05Z | bare | "…\n" | '…' |
 * (block) | $NAME | [ values ] | { pairs } between  := newline , ; in maps; newline , in arrays;
 * comment := # … | // …
 *
 * A variable is looked for in the maps that enclose it, from the inside out, among the keys before
 * it, then in the environment, whose text is read as a value.
 *
 * Where this grammar is stricter than nats-server: an unclosed { at the top, a value left out, a
 * lone / between pairs, a single quote inside or after a bare value, a number suffix such as kbb,
 * NUL bytes. Where it is wider: [1,2] without blanks, bare values in an array may start with /, an
 * absolute include path is absolute, CR may follow the ) of a block, a byte order mark is skipped.
 *
 * Thread: constant after load.
 * Memory: one arena owned by the tree, wiped when it ends, since it holds passwords.
 * Limits: below; all of them end in an error that names the place.
 * Source: nats-server v2.15.2, conf/lex.go, conf/parse.go.
 */
#ifndef MIDGE_CONF_H
#define MIDGE_CONF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "midge/compiler.h"
#include "midge/slice.h"
#include "midge/status.h"

/* Bytes of one file. */
#define MIDGE_CONF_FILE_LEN_MAX (8u * 1024 * 1024)
/* Bytes of the whole tree. */
#define MIDGE_CONF_TREE_LEN_MAX (256u * 1024 * 1024)
/* Values in the whole tree, all included files together. */
#define MIDGE_CONF_VALUES_MAX (256u * 1024)
/* Maps, arrays, included files and environment texts inside one another. */
#define MIDGE_CONF_DEPTH_MAX 64u

enum midge_conf_kind {
    MIDGE_CONF_BOOL = 0,
    MIDGE_CONF_INTEGER,
    MIDGE_CONF_FLOAT,
    MIDGE_CONF_STRING,
    MIDGE_CONF_DATE,
    MIDGE_CONF_ARRAY,
    MIDGE_CONF_MAP,
};

struct midge_conf_place {
    const char *file; /* as named on the command line or by the include */
    uint32_t line;    /* from 1 */
    uint32_t column;  /* from 1, in bytes */
};

struct midge_conf_value {
    enum midge_conf_kind kind;
    struct midge_conf_place place;
    union {
        bool boolean;
        int64_t integer;
        double real;
        struct midge_slice string; /* STRING and DATE; a NUL follows the bytes */
        struct midge_conf_array *array;
        struct midge_conf_map *map;
    };
};

struct midge_conf_array {
    struct midge_conf_value *values;
    uint32_t count;
    uint32_t cap;
};

struct midge_conf_entry {
    struct midge_slice key; /* as written; a NUL follows the bytes */
    struct midge_conf_place place;
    bool used;     /* named by a variable */
    bool shadowed; /* the same key follows: the last one wins */
    struct midge_conf_value value;
};

/* In the order of the file. */
struct midge_conf_map {
    struct midge_conf_entry *entries;
    uint32_t count;
    uint32_t cap;
};

struct midge_conf_chunk;

struct midge_conf {
    struct midge_conf_map root;
    struct midge_conf_chunk *chunks;
    uint64_t tree_len;
    uint32_t value_count;
    char error[512]; /* one line without newline; "" = none */
};

/** An empty tree. */
void midge_conf_init(struct midge_conf *conf);

/** Wipe and free the tree. */
void midge_conf_deinit(struct midge_conf *conf);

/** Read a file and what it includes. @return MIDGE_OK, or E_CONFIG with the reason in conf->error
 */
MIDGE_MUST_CHECK enum midge_status midge_conf_load_file(struct midge_conf *conf, const char *path);

/**
 * Read a text, which cannot include files.
 *
 * @param name  stands for the file name in places; copied
 * @return MIDGE_OK, or E_CONFIG with the reason in conf->error
 */
MIDGE_MUST_CHECK enum midge_status midge_conf_load_text(struct midge_conf *conf, const char *name,
                                                        struct midge_slice text);

/** Name of a kind for messages, such as "a string"; static storage. */
const char *midge_conf_kind_name(enum midge_conf_kind kind);

#endif
