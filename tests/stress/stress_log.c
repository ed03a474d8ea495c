/*
 * Several threads write log lines at once. Method: each line carries its thread, a running number
 * and a check; afterwards every line of the file is whole, the numbers of each thread rise, the
 * lines that are missing are exactly those counted as dropped, and reopening in between loses
 * nothing.
 *
 * Usage: stress_log [seed]
 */
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "log.h"

#define THREADS      4u
#define LINES        20000u
#define LINE_LEN_MAX 600u

/* Kept on in every build. */
#define CHECK(condition, ...)                                                                      \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            (void)fprintf(stderr, __VA_ARGS__);                                                    \
            (void)fputc('\n', stderr);                                                             \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

struct writer {
    struct midge_log *log;
    uint32_t number;
    uint64_t random;
};

static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static void *write_lines(void *argument)
{
    struct writer *writer = argument;
    struct midge_log_producer *producer = midge_log_register(writer->log);
    char fill[LINE_LEN_MAX + 1];

    CHECK(producer != NULL, "no memory");
    memset(fill, 'a' + (int)writer->number, sizeof(fill));
    for (uint32_t i = 0; i < LINES; i++) {
        const uint64_t random = next_random(&writer->random);
        const int len = (int)(random % LINE_LEN_MAX);

        midge_log_write(producer, MIDGE_LOG_INFO, "t%" PRIu32 " n%" PRIu32 " l%d %.*s.",
                        writer->number, i, len, len, fill);
        /* Now and then, so that the log thread also sleeps and wakes. */
        if (random % 500 == 0) {
            const struct timespec pause = {.tv_nsec = (long)(random >> 32) % 200000};
            (void)nanosleep(&pause, NULL);
        }
        if (random % 3001 == 0)
            midge_log_reopen(writer->log);
    }
    return NULL;
}

struct tally {
    uint32_t next[THREADS];
    uint64_t lines;
    uint64_t told;
};

static void check_line(struct tally *tally, const char *line)
{
    const char *text = strstr(line, "[INF] t");
    uint32_t thread;
    uint32_t number;
    int len;
    int at = 0;

    if (text == NULL) {
        const char *told = strstr(line, "[WRN] ");

        if (told != NULL)
            tally->told += strtoull(told + 6, NULL, 10);
        else
            CHECK(strstr(line, "[INF] File log re-opened") != NULL, "torn line: %s", line);
        return;
    }
    CHECK(sscanf(text, "[INF] t%" SCNu32 " n%" SCNu32 " l%d %n", &thread, &number, &len, &at) ==
                  3 &&
              at > 0,
          "torn line: %s", line);
    CHECK(thread < THREADS && number < LINES, "wrong numbers: %s", line);
    CHECK(number >= tally->next[thread], "out of order: %s", line);
    tally->next[thread] = number + 1;
    tally->lines++;
    CHECK(strlen(text + at) == (size_t)len + 2 && text[at + len] == '.', "wrong length: %s", line);
    for (int i = 0; i < len; i++)
        CHECK(text[at + i] == 'a' + (int)thread, "mixed lines: %s", line);
}

int main(int argc, char **argv)
{
    const uint64_t seed = argc > 1 ? strtoull(argv[1], NULL, 0) : (uint64_t)time(NULL);
    char path[] = "/tmp/stress_log.XXXXXX";
    char line[2048];
    struct midge_config config;
    struct midge_log *log;
    struct writer writers[THREADS];
    pthread_t threads[THREADS];
    struct tally tally = {.lines = 0};
    uint64_t dropped;
    const int fd = mkstemp(path);

    (void)printf("seed %" PRIu64 "\n", seed);
    CHECK(fd >= 0, "no temporary file");
    (void)close(fd);
    midge_config_init(&config);
    config.log_file = strdup(path);
    CHECK(midge_log_create(&config, &log) == MIDGE_OK, "no log");
    for (uint32_t i = 0; i < THREADS; i++) {
        writers[i] = (struct writer){.log = log, .number = i, .random = (seed + i) * 2 + 1};
        CHECK(pthread_create(&threads[i], NULL, write_lines, &writers[i]) == 0, "no thread");
    }
    for (uint32_t i = 0; i < THREADS; i++)
        CHECK(pthread_join(threads[i], NULL) == 0, "cannot join");
    dropped = midge_log_dropped(log);
    midge_log_destroy(log);

    FILE *file = fopen(path, "re");
    CHECK(file != NULL, "no file");
    while (fgets(line, sizeof(line), file) != NULL)
        check_line(&tally, line);
    (void)fclose(file);
    (void)unlink(path);
    midge_config_deinit(&config);
    (void)printf("%" PRIu64 " lines, %" PRIu64 " dropped, %" PRIu64 " told\n", tally.lines, dropped,
                 tally.told);
    CHECK(tally.lines > 0, "nothing was written");
    CHECK(tally.lines + dropped == (uint64_t)THREADS * LINES, "lines are missing");
    CHECK(tally.told == dropped, "the log told another number of dropped lines");
    return 0;
}
