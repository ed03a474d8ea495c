/*
 * Texts to values, the same for the file and for flags.
 *
 * Source: Go time.ParseDuration, strconv.ParseBool, net.SplitHostPort, whose spellings nats-server
 * takes.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <sys/un.h>

#include "config_internal.h"
#include "midge/ring.h"

/* Microseconds of spinning before sleep; more than a second is a mistake. */
#define SPIN_US_MAX 1000000

void midge_config_set_text(struct midge_config_load *load, char **field, const char *text,
                           bool empty_kept)
{
    char *copy = NULL;

    if (text[0] != '\0' || empty_kept) {
        copy = strdup(text);
        if (copy == NULL) {
            midge_config_error(load, NULL, "out of memory");
            return;
        }
    }
    if (*field != NULL)
        explicit_bzero(*field, strlen(*field));
    free(*field);
    *field = copy;
}

/* Nanoseconds of the unit that text starts with; 0 if it is none. */
static uint64_t unit_ns(struct midge_slice text, uint32_t *unit_len_out)
{
    static const struct {
        const char *name;
        uint64_t ns;
    } units[] = {
        {"ns", 1},
        {"us", 1000},
        {"\xc2\xb5s", 1000},
        {"\xce\xbcs", 1000},
        {"ms", 1000 * 1000},
        {"s", 1000000000ull},
        {"m", 60 * 1000000000ull},
        {"h", 3600 * 1000000000ull},
    };
    uint32_t len = 0;

    while (len < text.len && text.base[len] != '.' &&
           (text.base[len] < '0' || text.base[len] > '9'))
        len++;
    *unit_len_out = len;
    for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++) {
        if (midge_slice_equal(midge_slice_make(text.base, len), midge_slice_text(units[i].name)))
            return units[i].ns;
    }
    return 0;
}

/* Digits with a fraction, as whole and the rest in double. @return bytes taken, 0 if no digit */
static uint32_t parse_decimal(struct midge_slice text, uint64_t *whole_out, double *fraction_out,
                              bool *overflow_out)
{
    uint32_t at = 0;
    uint32_t digit_count = 0;
    double scale = 1;

    *whole_out = 0;
    *fraction_out = 0;
    for (; at < text.len && text.base[at] >= '0' && text.base[at] <= '9'; at++, digit_count++) {
        if (__builtin_mul_overflow(*whole_out, 10u, whole_out) ||
            __builtin_add_overflow(*whole_out, (uint64_t)(text.base[at] - '0'), whole_out))
            *overflow_out = true;
    }
    if (at < text.len && text.base[at] == '.') {
        at++;
        for (; at < text.len && text.base[at] >= '0' && text.base[at] <= '9'; at++, digit_count++) {
            scale /= 10;
            *fraction_out += scale * (text.base[at] - '0');
        }
    }
    return digit_count == 0 ? 0 : at;
}

const char *midge_config_parse_duration(struct midge_slice text, int64_t *ns_out)
{
    uint64_t total = 0;
    bool overflow = false;
    bool negative = false;

    if (text.len > 0 && (text.base[0] == '-' || text.base[0] == '+')) {
        negative = text.base[0] == '-';
        text = midge_slice_make(text.base + 1, text.len - 1);
    }
    *ns_out = 0;
    if (midge_slice_equal(text, MIDGE_SLICE_LITERAL("0")))
        return NULL;
    if (text.len == 0)
        return "expected a duration such as \"1m30s\" or 500ms";
    while (text.len > 0) {
        uint64_t whole;
        double fraction;
        uint32_t unit_len = 0;
        const uint32_t len = parse_decimal(text, &whole, &fraction, &overflow);

        if (len == 0)
            return "expected a duration such as \"1m30s\" or 500ms";
        text = midge_slice_make(text.base + len, text.len - len);
        const uint64_t unit = unit_ns(text, &unit_len);
        if (unit == 0)
            return "a duration needs a unit behind each number: h m s ms us ns";
        text = midge_slice_make(text.base + unit_len, text.len - unit_len);
        overflow = __builtin_mul_overflow(whole, unit, &whole) || overflow;
        overflow = __builtin_add_overflow(total, whole, &total) || overflow;
        overflow =
            __builtin_add_overflow(total, (uint64_t)(fraction * (double)unit), &total) || overflow;
        if (overflow || total > INT64_MAX)
            return "the duration is too long";
    }
    *ns_out = negative ? -(int64_t)total : (int64_t)total;
    return NULL;
}

bool midge_config_parse_integer(const char *text, int64_t *number_out)
{
    char *end;

    if (text[0] != '-' && text[0] != '+' && (text[0] < '0' || text[0] > '9'))
        return false;
    errno = 0;
    *number_out = strtoll(text, &end, 0);
    return errno == 0 && end != text && *end == '\0';
}

bool midge_config_parse_bool(const char *text, bool *bool_out)
{
    static const char *const yes[] = {"1", "t", "T", "TRUE", "true", "True"};
    static const char *const no[] = {"0", "f", "F", "FALSE", "false", "False"};

    for (size_t i = 0; i < sizeof(yes) / sizeof(yes[0]); i++) {
        if (strcmp(text, yes[i]) == 0 || strcmp(text, no[i]) == 0) {
            *bool_out = strcmp(text, yes[i]) == 0;
            return true;
        }
    }
    return false;
}

bool midge_config_parse_listen(struct midge_slice text, char *host_out, size_t cap,
                               int64_t *port_out)
{
    const uint8_t *colon = text.len == 0 ? NULL : memrchr(text.base, ':', text.len);
    struct midge_slice host;

    if (colon == NULL)
        return false;
    host = midge_slice_make(text.base, (uint32_t)(colon - text.base));
    if (host.len > 0 && host.base[0] == '[') {
        if (host.len < 2 || host.base[host.len - 1] != ']')
            return false;
        host = midge_slice_make(host.base + 1, host.len - 2);
    } else if (host.len > 0 && memchr(host.base, ':', host.len) != NULL) {
        return false;
    }
    if (host.len >= cap || (host.len > 0 && (memchr(host.base, '\0', host.len) != NULL ||
                                             memchr(host.base, '[', host.len) != NULL ||
                                             memchr(host.base, ']', host.len) != NULL)))
        return false;
    if (host.len > 0)
        memcpy(host_out, host.base, host.len);
    host_out[host.len] = '\0';

    /* The bytes of a conf value and of argv end in NUL. Decimal alone: 010 is ten. */
    *port_out = 0;
    const char *digits = (const char *)colon + 1;
    char *end;
    errno = 0;
    *port_out = strtoll(digits, &end, 10);
    return errno == 0 && end != digits && *end == '\0' && digits[0] != ' ' && digits[0] != '\t';
}

bool midge_config_parse_mode(const char *text, uint32_t *mode_out)
{
    const size_t len = strlen(text);

    if (len < 3 || len > 4 || strspn(text, "01234567") != len)
        return false;
    *mode_out = (uint32_t)strtoul(text, NULL, 8);
    return *mode_out <= 0777;
}

bool midge_config_parse_io(const char *text, uint32_t *io_out)
{
    static const struct {
        const char *word;
        enum midge_ring_kind kind;
    } words[] = {
        {"auto", MIDGE_RING_KIND_AUTO},
        {"io_uring", MIDGE_RING_KIND_URING},
        {"epoll", MIDGE_RING_KIND_EPOLL},
    };

    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
        if (strcmp(text, words[i].word) == 0) {
            *io_out = (uint32_t)words[i].kind;
            return true;
        }
    }
    return false;
}

uint32_t midge_config_clamp(int64_t number, uint32_t max)
{
    if (number <= 0)
        return 0;
    return number > max ? max : (uint32_t)number;
}

void midge_config_set_port(struct midge_config_load *load, const struct midge_conf_place *place,
                           const char *name, int64_t port)
{
    if (port < -1 || port > 65535)
        midge_config_error(load, place, "%s: a port is between 1 and 65535, or -1 for any free one",
                           name);
    else
        load->config->port = port == 0 ? (int32_t)MIDGE_PORT_DEFAULT : (int32_t)port;
}

void midge_config_set_unix_path(struct midge_config_load *load,
                                const struct midge_conf_place *place, const char *name,
                                const char *path)
{
    const size_t len_max = sizeof(((struct sockaddr_un *)0)->sun_path) - 1;

    if (strlen(path) > len_max)
        midge_config_error(load, place, "%s: the path of a Unix socket has at most %zu bytes", name,
                           len_max);
    else
        midge_config_set_text(load, &load->config->unix_path, path, false);
}

void midge_config_set_server_name(struct midge_config_load *load,
                                  const struct midge_conf_place *place, const char *name,
                                  const char *text)
{
    if (strchr(text, ' ') != NULL)
        midge_config_error(load, place, "%s: a server name cannot contain spaces", name);
    else
        midge_config_set_text(load, &load->config->server_name, text, false);
}

void midge_config_set_threads(struct midge_config_load *load, const struct midge_conf_place *place,
                              const char *name, int64_t threads)
{
    if (threads < 1 || threads > MIDGE_SHARDS_MAX)
        midge_config_error(load, place, "%s: between 1 and %u, or auto", name, MIDGE_SHARDS_MAX);
    else
        load->config->threads = (uint32_t)threads;
}

void midge_config_set_spin(struct midge_config_load *load, const struct midge_conf_place *place,
                           const char *name, int64_t spin_us)
{
    if (spin_us < 0 || spin_us > SPIN_US_MAX)
        midge_config_error(load, place, "%s: between 0 and %d microseconds, or auto", name,
                           SPIN_US_MAX);
    else
        load->config->spin_us = (uint32_t)spin_us;
}

void midge_config_set_memory(struct midge_config_load *load, const struct midge_conf_place *place,
                             const char *name, int64_t bytes)
{
    if (bytes < 0)
        midge_config_error(load, place, "%s: a number of bytes, or 0 for half of the memory", name);
    else
        load->config->memory_bytes_max = (uint64_t)bytes;
}
