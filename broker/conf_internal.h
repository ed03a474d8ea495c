/*
 * Between the two halves of the configuration reader: conf.c (pairs, maps, arrays, includes,
 * variables) and conf_scan.c (characters, keys, scalar values, the arena).
 */
#ifndef MIDGE_CONF_INTERNAL_H
#define MIDGE_CONF_INTERNAL_H

#include <sys/types.h>

#include "conf.h"

/* Maps that are open, innermost first. */
struct midge_conf_scope {
    struct midge_conf_map *map;
    const struct midge_conf_scope *outer;
};

/* Files and environment texts that are being read, innermost first. */
struct midge_conf_source {
    const struct midge_conf_source *outer;
    const char *variable; /* NULL = a file or the text */
    const char *path;     /* NULL = not a file */
    dev_t device;
    ino_t inode;
};

struct midge_conf_reader {
    struct midge_conf *conf;
    const struct midge_conf_source *source;
    const struct midge_conf_scope *scope;
    const char *name; /* for places */
    const uint8_t *at;
    const uint8_t *end;
    const uint8_t *line_base;
    uint32_t line;
    uint32_t depth;
};

/* Memory of the tree; zeroed. NULL without memory or over MIDGE_CONF_TREE_LEN_MAX. */
void *midge_conf_alloc(struct midge_conf *conf, size_t len);

/* Copy of bytes with a NUL behind. */
bool midge_conf_copy(struct midge_conf *conf, struct midge_slice bytes,
                     struct midge_slice *copy_out);

struct midge_conf_place midge_conf_place(const struct midge_conf_reader *reader);

/* Record the first error; always E_CONFIG. */
enum midge_status midge_conf_fail(struct midge_conf *conf, const struct midge_conf_place *place,
                                  const char *format, ...) MIDGE_PRINTF(3, 4);
enum midge_status midge_conf_fail_memory(struct midge_conf *conf);

/* The byte at the cursor, -1 at the end. */
int midge_conf_peek(const struct midge_conf_reader *reader);
void midge_conf_advance(struct midge_conf_reader *reader, uint32_t len);

/* Tab and blank. */
void midge_conf_skip_blanks(struct midge_conf_reader *reader);
/* Every kind of white space, newlines too. */
void midge_conf_skip_space(struct midge_conf_reader *reader);
/* Up to the newline; false if there is no comment here. */
bool midge_conf_skip_comment(struct midge_conf_reader *reader);
/* White space and comments. */
void midge_conf_skip_all(struct midge_conf_reader *reader);
/* Bytes of white space at the cursor, 0 if none. */
uint32_t midge_conf_space_len(const struct midge_conf_reader *reader);

/* A key, quoted or bare. The slice is borrowed from the text. */
enum midge_status midge_conf_scan_key(struct midge_conf_reader *reader, struct midge_slice *key_out,
                                      bool *quoted_out);
/* The path behind `include`. The slice is borrowed from the text. */
enum midge_status midge_conf_scan_include(struct midge_conf_reader *reader,
                                          struct midge_slice *path_out);
/* Any value but map and array. A variable comes back as variable_out, without the $; else base
 * NULL. */
enum midge_status midge_conf_scan_scalar(struct midge_conf_reader *reader,
                                         struct midge_conf_value *value,
                                         struct midge_slice *variable_out);

#endif
