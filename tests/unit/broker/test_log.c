/*
 * Log lines and files. Method: a log to a file in a folder of its own (or to a pipe in place of
 * standard error), lines written from this thread, and the file read back after the end or as it
 * grows.
 */
#include <criterion/criterion.h>
#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <regex.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "log.h"

#define TEXT_LEN 65536

struct fixture {
    struct midge_config config;
    struct midge_log *log;
    struct midge_log_producer *producer;
};

static char folder[64];
static char path[128];
static char text[TEXT_LEN];

static void make_folder(void)
{
    (void)snprintf(folder, sizeof(folder), "/tmp/test_log.XXXXXX");
    cr_assert(mkdtemp(folder) != NULL);
    (void)snprintf(path, sizeof(path), "%s/m.log", folder);
}

static void remove_folder(void)
{
    char command[128];

    (void)snprintf(command, sizeof(command), "rm -rf '%s'", folder);
    cr_expect_eq(system(command), 0);
}

static void init(struct fixture *fixture)
{
    midge_config_init(&fixture->config);
    fixture->config.log_file = strdup(path);
}

static void start(struct fixture *fixture)
{
    cr_assert_eq(midge_log_create(&fixture->config, &fixture->log), MIDGE_OK);
    fixture->producer = midge_log_register(fixture->log);
    cr_assert(fixture->producer != NULL);
}

static void stop(struct fixture *fixture)
{
    midge_log_destroy(fixture->log);
    midge_config_deinit(&fixture->config);
}

static const char *read_file(const char *name)
{
    FILE *file = fopen(name, "re");

    cr_assert(file != NULL, "%s", name);
    const size_t len = fread(text, 1, sizeof(text) - 1, file);
    text[len] = '\0';
    (void)fclose(file);
    return text;
}

static void expect_match(const char *pattern, const char *got)
{
    regex_t regex;

    cr_assert_eq(regcomp(&regex, pattern, REG_EXTENDED | REG_NOSUB), 0, "%s", pattern);
    cr_expect_eq(regexec(&regex, got, 0, NULL, 0), 0, "%s does not match %s", got, pattern);
    regfree(&regex);
}

/* Lines that hold part. */
static size_t count_lines(const char *got, const char *part)
{
    size_t count = 0;

    for (const char *at = strstr(got, part); at != NULL; at = strstr(at + 1, part))
        count++;
    return count;
}

TestSuite(log, .init = make_folder, .fini = remove_folder, .timeout = 60);

Test(log, line_has_pid_time_and_level)
{
    struct fixture fixture;
    char pattern[256];

    init(&fixture);
    start(&fixture);
    midge_log_write(fixture.producer, MIDGE_LOG_INFO, "hello %d", 5);
    stop(&fixture);
    (void)snprintf(pattern, sizeof(pattern),
                   "^\\[%ld\\] [0-9]{4}/[0-9]{2}/[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2}\\.[0-9]{6} "
                   "\\[INF\\] hello 5\n$",
                   (long)getpid());
    expect_match(pattern, read_file(path));
}

Test(log, levels_have_three_letters)
{
    struct fixture fixture;
    char pattern[256];

    init(&fixture);
    fixture.config.log_time = false;
    fixture.config.debug = true;
    fixture.config.trace = true;
    start(&fixture);
    for (int level = MIDGE_LOG_INFO; level <= MIDGE_LOG_TRACE; level++)
        midge_log_write(fixture.producer, (enum midge_log_level)level, "x");
    stop(&fixture);
    const long pid = (long)getpid();
    (void)snprintf(pattern, sizeof(pattern),
                   "[%ld] [INF] x\n[%ld] [WRN] x\n[%ld] [ERR] x\n[%ld] [FTL] x\n[%ld] [DBG] x\n"
                   "[%ld] [TRC] x\n",
                   pid, pid, pid, pid, pid, pid);
    cr_expect_str_eq(read_file(path), pattern);
}

Test(log, debug_and_trace_are_off_by_default)
{
    struct fixture fixture;

    init(&fixture);
    start(&fixture);
    cr_expect(midge_log_enabled(fixture.producer, MIDGE_LOG_FATAL));
    cr_expect_not(midge_log_enabled(fixture.producer, MIDGE_LOG_DEBUG));
    cr_expect_not(midge_log_enabled(fixture.producer, MIDGE_LOG_TRACE));
    midge_log_write(fixture.producer, MIDGE_LOG_DEBUG, "x");
    midge_log_write(fixture.producer, MIDGE_LOG_TRACE, "x");
    stop(&fixture);
    cr_expect_str_eq(read_file(path), "");
}

Test(log, time_is_utc_if_asked_for)
{
    struct fixture fixture;
    char expected[32];
    time_t before;
    struct tm tm;

    (void)setenv("TZ", "XYZ-5", 1);
    tzset();
    init(&fixture);
    fixture.config.log_time_utc = true;
    start(&fixture);
    before = time(NULL);
    midge_log_write(fixture.producer, MIDGE_LOG_INFO, "x");
    stop(&fixture);
    /* The line may be from the next hour. */
    cr_assert(gmtime_r(&before, &tm) != NULL);
    (void)strftime(expected, sizeof(expected), "%Y/%m/%d %H:", &tm);
    const bool this_hour = strstr(read_file(path), expected) != NULL;
    before += 3600;
    cr_assert(gmtime_r(&before, &tm) != NULL);
    (void)strftime(expected, sizeof(expected), "%Y/%m/%d %H:00:0", &tm);
    cr_expect(this_hour || strstr(text, expected) != NULL, "%s", text);
}

Test(log, control_bytes_cannot_forge_a_line)
{
    struct fixture fixture;

    init(&fixture);
    fixture.config.log_time = false;
    start(&fixture);
    midge_log_write(fixture.producer, MIDGE_LOG_INFO, "a\r\n[1] [INF] b\x1b[2J\x7f\t\xc3\xa9");
    stop(&fixture);
    expect_match("\\[INF\\] a\\?\\?\\[1\\] \\[INF\\] b\\?\\[2J\\?\t\xc3\xa9\n$", read_file(path));
    cr_expect_eq(count_lines(text, "\n"), 1u);
}

Test(log, long_text_is_cut_and_marked)
{
    struct fixture fixture;

    init(&fixture);
    fixture.config.log_time = false;
    start(&fixture);
    midge_log_write(fixture.producer, MIDGE_LOG_INFO, "%*s", (int)MIDGE_LOG_LINE_LEN_MAX, "x");
    midge_log_write(fixture.producer, MIDGE_LOG_INFO, "%*s", (int)MIDGE_LOG_LINE_LEN_MAX + 1, "x");
    stop(&fixture);
    const char *second = strchr(read_file(path), '\n') + 1;
    cr_expect_eq(second[-2], 'x');
    cr_expect_eq(second - text, (ptrdiff_t)strlen(second));
    cr_expect_str_eq(second + strlen(second) - 6, "  ...\n");
}

Test(log, line_is_in_the_file_without_waiting_for_the_end)
{
    struct fixture fixture;

    init(&fixture);
    start(&fixture);
    for (int i = 0; i < 3; i++) {
        char part[32];
        const struct timespec pause = {.tv_nsec = 1000000};

        (void)snprintf(part, sizeof(part), "line %d", i);
        midge_log_write(fixture.producer, MIDGE_LOG_INFO, "%s", part);
        /* Bounded by the time limit of the test. */
        while (strstr(read_file(path), part) == NULL)
            (void)nanosleep(&pause, NULL);
    }
    stop(&fixture);
}

Test(log, file_is_appended_to_and_readable_by_the_group)
{
    struct fixture fixture;
    struct stat info;

    (void)umask(022);
    for (int i = 0; i < 2; i++) {
        init(&fixture);
        start(&fixture);
        midge_log_write(fixture.producer, MIDGE_LOG_INFO, "line %d", i);
        stop(&fixture);
    }
    cr_assert_eq(stat(path, &info), 0);
    cr_expect_eq(info.st_mode & 0777, 0640);
    cr_expect_eq(count_lines(read_file(path), "line"), 2u);
}

Test(log, file_that_cannot_be_opened_is_an_error)
{
    struct fixture fixture;

    midge_config_init(&fixture.config);
    fixture.config.log_file = strdup("/nowhere/m.log");
    cr_expect_eq(midge_log_create(&fixture.config, &fixture.log), MIDGE_E_SYSTEM);
    midge_config_deinit(&fixture.config);
}

/* Names in the folder that start with m.log., in order. */
static uint32_t list_backups(char names[][256], uint32_t cap)
{
    struct dirent **items;
    uint32_t count = 0;
    const int found = scandir(folder, &items, NULL, alphasort);

    cr_assert(found >= 0);
    for (int i = 0; i < found; i++) {
        if (strncmp(items[i]->d_name, "m.log.", 6) == 0 && count < cap)
            (void)snprintf(names[count++], 256, "%s", items[i]->d_name);
        free(items[i]);
    }
    free(items);
    return count;
}

Test(log, file_over_the_limit_is_renamed)
{
    struct fixture fixture;
    char names[4][256];
    char pattern[512];

    init(&fixture);
    fixture.config.log_size_limit = 500;
    start(&fixture);
    midge_log_write(fixture.producer, MIDGE_LOG_INFO, "first");
    midge_log_write(fixture.producer, MIDGE_LOG_INFO, "%500s", "second");
    midge_log_write(fixture.producer, MIDGE_LOG_INFO, "third");
    stop(&fixture);
    cr_assert_eq(list_backups(names, 4), 1u);
    expect_match("^m\\.log\\.[0-9]{4}(\\.[0-9]{2}){5}\\.[0-9]{9}$", names[0]);
    (void)snprintf(pattern, sizeof(pattern),
                   "\\[INF\\] Rotated log, backup saved as \"%s/%s\"\n.*\\[INF\\] third\n$", folder,
                   names[0]);
    expect_match(pattern, read_file(path));
    (void)snprintf(pattern, sizeof(pattern), "%s/%s", folder, names[0]);
    cr_expect_eq(count_lines(read_file(pattern), "[INF]"), 2u);
}

Test(log, file_that_is_too_long_at_start_is_renamed_first)
{
    struct fixture fixture;
    char names[4][256];

    FILE *file = fopen(path, "we");
    cr_assert(file != NULL);
    (void)fprintf(file, "%500s\n", "old");
    (void)fclose(file);
    init(&fixture);
    fixture.config.log_size_limit = 400;
    start(&fixture);
    midge_log_write(fixture.producer, MIDGE_LOG_INFO, "new");
    stop(&fixture);
    cr_expect_eq(list_backups(names, 4), 1u);
    cr_expect(strstr(read_file(path), "old") == NULL);
    cr_expect(strstr(text, "new") != NULL);
}

/* Three files: the live one and two backups. Source: nats-server v2.15.2, logger/log.go:205. */
Test(log, oldest_backups_are_purged)
{
    struct fixture fixture;
    char names[8][256];
    char other[512];

    (void)snprintf(other, sizeof(other), "%s.2001.02.03.04.05.06.backup123", path);
    FILE *file = fopen(other, "we");
    cr_assert(file != NULL);
    (void)fclose(file);
    init(&fixture);
    fixture.config.log_size_limit = 300;
    fixture.config.log_files_max = 3;
    start(&fixture);
    for (int i = 0; i < 5; i++)
        midge_log_write(fixture.producer, MIDGE_LOG_INFO, "%300d", i);
    stop(&fixture);
    /* What does not look like one of ours stays. */
    cr_expect_eq(list_backups(names, 8), 3u);
    cr_expect(strstr(names[0], "backup123") != NULL);
    (void)snprintf(other, sizeof(other), "%s/%s", folder, names[1]);
    cr_expect(strstr(read_file(other), "  3\n") != NULL, "%s", text);
    (void)snprintf(other, sizeof(other), "%s/%s", folder, names[2]);
    cr_expect(strstr(read_file(other), "  4\n") != NULL, "%s", text);
    cr_expect(strstr(read_file(path), "Purged log file \"m.log.2") != NULL, "%s", text);
}

/* Wait until the file holds part; bounded by the time limit of the test. */
static void await(const char *name, const char *part)
{
    const struct timespec pause = {.tv_nsec = 1000000};

    while (access(name, R_OK) != 0 || strstr(read_file(name), part) == NULL)
        (void)nanosleep(&pause, NULL);
}

Test(log, reopen_follows_a_renamed_file)
{
    struct fixture fixture;
    char moved[256];

    (void)snprintf(moved, sizeof(moved), "%s.1", path);
    init(&fixture);
    start(&fixture);
    midge_log_write(fixture.producer, MIDGE_LOG_INFO, "before");
    await(path, "before");
    cr_assert_eq(rename(path, moved), 0);
    midge_log_reopen(fixture.log);
    await(path, "File log re-opened");
    midge_log_write(fixture.producer, MIDGE_LOG_INFO, "after");
    stop(&fixture);
    cr_expect(strstr(read_file(path), "after") != NULL);
    cr_expect(strstr(read_file(moved), "after") == NULL);
}

Test(log, reopen_that_fails_keeps_the_old_file)
{
    struct fixture fixture;
    char moved[256];

    (void)snprintf(moved, sizeof(moved), "%s.1", path);
    init(&fixture);
    start(&fixture);
    midge_log_write(fixture.producer, MIDGE_LOG_INFO, "before");
    await(path, "before");
    cr_assert_eq(rename(path, moved), 0);
    cr_assert_eq(mkdir(path, 0700), 0);
    midge_log_reopen(fixture.log);
    await(moved, "Unable to re-open");
    midge_log_write(fixture.producer, MIDGE_LOG_INFO, "after");
    stop(&fixture);
    cr_expect(strstr(read_file(moved), "after") != NULL);
}

/* Standard error is a pipe from here on. @return its read end */
static int pipe_standard_error(void)
{
    int fds[2];

    cr_assert_eq(pipe(fds), 0);
    cr_assert_eq(dup2(fds[1], STDERR_FILENO), STDERR_FILENO);
    (void)close(fds[1]);
    return fds[0];
}

Test(log, standard_error_is_used_without_a_file_and_has_no_colours_in_a_pipe)
{
    struct fixture fixture;
    const int fd = pipe_standard_error();

    midge_config_init(&fixture.config);
    start(&fixture);
    midge_log_write(fixture.producer, MIDGE_LOG_WARN, "hello");
    midge_log_reopen(fixture.log);
    stop(&fixture);
    const ssize_t len = read(fd, text, sizeof(text) - 1);
    cr_assert(len > 0);
    text[len] = '\0';
    expect_match(" \\[WRN\\] hello\n", text);
    expect_match(" \\[INF\\] File log re-open ignored, not a file logger\n", text);
}

/* As under a service manager that appends standard error to a file. */
Test(log, standard_error_is_not_renamed_even_where_it_is_a_file)
{
    struct fixture fixture;
    char names[4][256];
    const int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);

    cr_assert_eq(dup2(fd, STDERR_FILENO), STDERR_FILENO);
    (void)close(fd);
    cr_assert_gt(dprintf(STDERR_FILENO, "%500s\n", "old"), 500);
    midge_config_init(&fixture.config);
    fixture.config.log_size_limit = 400;
    start(&fixture);
    midge_log_write(fixture.producer, MIDGE_LOG_INFO, "%500s", "new");
    stop(&fixture);
    cr_expect_eq(list_backups(names, 4), 0u);
    expect_match(" old\n.* new\n$", read_file(path));
}

Test(log, stalled_reader_costs_lines_but_not_the_end)
{
    struct fixture fixture;
    const int fd = pipe_standard_error();
    uint32_t written = 0;

    midge_config_init(&fixture.config);
    start(&fixture);
    while (midge_log_dropped(fixture.log) == 0) {
        midge_log_write(fixture.producer, MIDGE_LOG_INFO, "%1000d", 1);
        written++;
    }
    cr_expect(written > 100);
    /* Comes back although nobody has read a byte. */
    stop(&fixture);
    (void)close(fd);
}

/* Read lines from fd until each_cb has seen enough; bounded by the time limit of the test. */
static void read_lines(int fd, bool (*each_cb)(const char *line, void *context), void *context)
{
    char line[256];
    size_t line_len = 0;

    for (;;) {
        const ssize_t len = read(fd, text, sizeof(text) - 1);
        cr_assert(len > 0);
        for (ssize_t i = 0; i < len; i++) {
            if (text[i] != '\n') {
                cr_assert(line_len < sizeof(line) - 1);
                line[line_len++] = text[i];
                continue;
            }
            line[line_len] = '\0';
            line_len = 0;
            if (!each_cb(line, context))
                return;
        }
    }
}

/* Write lines until some are lost, which shows that the log thread waits for the reader. */
static uint32_t fill_up(struct fixture *fixture)
{
    uint32_t written = 0;

    while (midge_log_dropped(fixture->log) < 10) {
        midge_log_write(fixture->producer, MIDGE_LOG_INFO, "x%100d", 1);
        written++;
    }
    return written;
}

struct tally {
    uint64_t seen;
    uint64_t told;
    uint64_t written;
};

static bool count_line(const char *line, void *context)
{
    struct tally *tally = context;

    tally->seen += strstr(line, "[INF] x") != NULL;
    if (strstr(line, "[WRN] ") != NULL)
        tally->told += strtoul(strstr(line, "[WRN] ") + 6, NULL, 10);
    return tally->seen + tally->told < tally->written;
}

Test(log, dropped_lines_are_counted_and_told)
{
    struct fixture fixture;
    struct tally tally = {.seen = 0};
    const int fd = pipe_standard_error();

    midge_config_init(&fixture.config);
    start(&fixture);
    tally.written = fill_up(&fixture);
    read_lines(fd, count_line, &tally);
    cr_expect_eq(tally.told, midge_log_dropped(fixture.log));
    cr_expect_eq(tally.seen + tally.told, tally.written);
    stop(&fixture);
    (void)close(fd);
}

/* context: the number that comes next */
static bool check_turn(const char *line, void *context)
{
    unsigned long *next = context;
    const char *turn = strstr(line, "turn ");

    if (turn == NULL)
        return true;
    cr_expect_eq(strtoul(turn + 5, NULL, 10), *next, "%s comes instead of %lu", line, *next);
    return ++*next < 100;
}

Test(log, lines_of_several_producers_are_in_the_order_of_time)
{
    struct fixture fixture;
    struct midge_log_producer *producers[3];
    unsigned long next = 0;
    const int fd = pipe_standard_error();

    midge_config_init(&fixture.config);
    start(&fixture);
    for (size_t i = 0; i < 3; i++)
        producers[i] = midge_log_register(fixture.log);
    (void)fill_up(&fixture);
    for (unsigned i = 0; i < 100; i++)
        midge_log_write(producers[i * 7 % 3], MIDGE_LOG_INFO, "turn %u", i);
    read_lines(fd, check_turn, &next);
    stop(&fixture);
    (void)close(fd);
}

Test(log, lines_that_cannot_be_written_count_as_dropped)
{
    struct fixture fixture;

    midge_config_init(&fixture.config);
    fixture.config.log_file = strdup("/dev/full");
    start(&fixture);
    midge_log_write(fixture.producer, MIDGE_LOG_INFO, "x");
    const struct timespec pause = {.tv_nsec = 1000000};
    while (midge_log_dropped(fixture.log) == 0)
        (void)nanosleep(&pause, NULL);
    stop(&fixture);
}

Test(log, allow_lets_one_line_through_per_interval)
{
    struct midge_log_limit limit = {0};
    uint64_t suppressed = 99;

    cr_expect(midge_log_allow(&limit, 5000000, 10, &suppressed));
    cr_expect_eq(suppressed, 0u);
    cr_expect_not(midge_log_allow(&limit, 5000001, 10, &suppressed));
    cr_expect_not(midge_log_allow(&limit, 14999999, 10, &suppressed));
    cr_expect(midge_log_allow(&limit, 15000000, 10, &suppressed));
    cr_expect_eq(suppressed, 2u);
    cr_expect_not(midge_log_allow(&limit, 15000001, 10, &suppressed));
    cr_expect(midge_log_allow(&limit, 99000000, 10, &suppressed));
    cr_expect_eq(suppressed, 1u);
}

static void expect_quote(struct midge_slice bytes, const char *expected)
{
    char out[256];
    const uint32_t len = midge_log_quote(out, sizeof(out), bytes);

    cr_expect(len == strlen(expected) && memcmp(out, expected, len) == 0, "%.*s is not %s",
              (int)len, out, expected);
}

/* Expected: what Go's strconv.Quote() gives. */
Test(log, quote_escapes_as_go_does)
{
    expect_quote(MIDGE_SLICE_LITERAL("abc"), "abc");
    expect_quote(MIDGE_SLICE_LITERAL("\a\b\f\n\r\t\v\\\""), "\\a\\b\\f\\n\\r\\t\\v\\\\\\\"");
    expect_quote(MIDGE_SLICE_LITERAL("\0\x01\x1f\x7f'"), "\\x00\\x01\\x1f\\x7f'");
    expect_quote(MIDGE_SLICE_LITERAL("\xff\xc3\xe2\x82"), "\\xff\\xc3\\xe2\\x82");
    expect_quote(MIDGE_SLICE_LITERAL("\xc0\x80\xed\xa0\x80"), "\\xc0\\x80\\xed\\xa0\\x80");
    expect_quote(MIDGE_SLICE_LITERAL("\xc3\xa9\xe4\xb8\x96\xf0\x9f\x98\x80"),
                 "\xc3\xa9\xe4\xb8\x96\xf0\x9f\x98\x80");
    expect_quote(MIDGE_SLICE_LITERAL("\xc2\x80\xc2\xa0\xe2\x80\x8b\xef\xbb\xbf"),
                 "\\u0080\\u00a0\\u200b\\ufeff");
    expect_quote(MIDGE_SLICE_LITERAL("\xf4\x8f\xbf\xbf\xf4\x90\x80\x80"),
                 "\\U0010ffff\\xf4\\x90\\x80\\x80");
}

Test(log, quote_stops_before_the_end_of_the_room)
{
    char out[8];

    memset(out, '#', sizeof(out));
    cr_expect_eq(midge_log_quote(out, 4, MIDGE_SLICE_LITERAL("abcdef")), 4u);
    cr_expect_eq(midge_log_quote(out, 5, MIDGE_SLICE_LITERAL("ab\x01")), 2u);
    cr_expect_eq(midge_log_quote(out, 0, MIDGE_SLICE_LITERAL("a")), 0u);
    cr_expect_eq(out[5], '#');
}
