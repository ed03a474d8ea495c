/*
 * Between the parts of the configuration: config.c (order of things, checks), config_keys.c (the
 * file), config_flags.c (argv), config_value.c (texts to values).
 */
#ifndef MIDGE_CONFIG_INTERNAL_H
#define MIDGE_CONFIG_INTERNAL_H

#include "conf.h"
#include "config.h"

/* What goes on during one midge_config_load(). */
struct midge_config_load {
    struct midge_config *config;
    FILE *out;
    FILE *err;
    uint32_t error_count;
    uint32_t warning_count; /* those that fail -t */
    int64_t payload_len;    /* max_payload as written, -1 = unlimited */
    bool test;
    bool version;
    bool help;
};

struct midge_config_flag;

/* A flag that was given; text is borrowed from argv. */
struct midge_config_given {
    const struct midge_config_flag *flag;
    const char *name; /* with its dashes, without value */
    const char *text; /* NULL = none, for a bool */
};

/* One line on load->err, with the place in front unless it is NULL. */
void midge_config_error(struct midge_config_load *load, const struct midge_conf_place *place,
                        const char *format, ...) MIDGE_PRINTF(3, 4);
void midge_config_warn(struct midge_config_load *load, const struct midge_conf_place *place,
                       const char *format, ...) MIDGE_PRINTF(3, 4);

/* An error, or with --ignore-unsupported a warning that does not fail -t. `protects`: without it
 * clients can do more than the user wanted. */
void midge_config_unserved(struct midge_config_load *load, const struct midge_conf_place *place,
                           const char *name, const char *instead, bool protects);

/* Read the file into the config. Reports its errors. */
void midge_config_read_file(struct midge_config_load *load);

/* Check argv against the table of flags and note what comes before the file: -c, -t, --signal, …
 * given has room for argc. @return number of flags given */
uint32_t midge_config_scan_flags(struct midge_config_load *load, int argc, char **argv,
                                 struct midge_config_given *given);
/* Let the flags win over the file. */
void midge_config_apply_flags(struct midge_config_load *load,
                              const struct midge_config_given *given, uint32_t count);
void midge_config_print_help(FILE *out);

/* Replace an owned string; the old one is wiped. "" becomes NULL unless empty_kept. */
void midge_config_set_text(struct midge_config_load *load, char **field, const char *text,
                           bool empty_kept);

/* Go's time.ParseDuration(). @return NULL, or what is wrong with it */
const char *midge_config_parse_duration(struct midge_slice text, int64_t *ns_out);
/* A whole number, decimal or 0x… or 0…; the whole text. */
bool midge_config_parse_integer(const char *text, int64_t *number_out);
/* Go's strconv.ParseBool(). */
bool midge_config_parse_bool(const char *text, bool *bool_out);
/* `host:port` or `[v6]:port`; host is copied into the cap bytes. */
bool midge_config_parse_listen(struct midge_slice text, char *host_out, size_t cap,
                               int64_t *port_out);
/* Three or four octal digits. */
bool midge_config_parse_mode(const char *text, uint32_t *mode_out);
bool midge_config_parse_io(const char *text, uint32_t *io_out);

/* Shared by file and flags; `place` is NULL for a flag, `name` as the user wrote it. */
void midge_config_set_port(struct midge_config_load *load, const struct midge_conf_place *place,
                           const char *name, int64_t port);
void midge_config_set_unix_path(struct midge_config_load *load,
                                const struct midge_conf_place *place, const char *name,
                                const char *path);
void midge_config_set_server_name(struct midge_config_load *load,
                                  const struct midge_conf_place *place, const char *name,
                                  const char *text);
void midge_config_set_threads(struct midge_config_load *load, const struct midge_conf_place *place,
                              const char *name, int64_t threads);
void midge_config_set_spin(struct midge_config_load *load, const struct midge_conf_place *place,
                           const char *name, int64_t spin_us);
void midge_config_set_memory(struct midge_config_load *load, const struct midge_conf_place *place,
                             const char *name, int64_t bytes);

/* Between 0 and the ceiling, for limits where 0 and less mean the same. */
uint32_t midge_config_clamp(int64_t number, uint32_t max);

#endif
