/*
 * The relay under floods, with many sides, and with a stall. Method: the relay is a child of the
 * test, over a Unix socket; every byte of a stream has a value that its place decides, so a byte
 * that is lost, doubled or out of order is found. The stall is shown by the order of two events:
 * a timer that cannot end after the stall, and the byte that has to wait for it.
 */
#include "floor.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <unistd.h>

#define FLOOD_LEN   50000000u
#define ANSWERS_LEN 5000000u
#define CHUNK_LEN   65536u
#define PATIENCE_MS 10000u

/* What a relay without io_uring exits with. */
#define EXIT_NO_URING 77

struct rig {
    struct midge_floor_options options;
    char directory[32];
    int fd[MIDGE_FLOOR_SIDES_MAX];
    pid_t relay;
};

static uint8_t byte_at(uint64_t place)
{
    return (uint8_t)(place * 2654435761u >> 13);
}

static _Noreturn void run_relay(const struct rig *rig)
{
    const enum midge_status status = midge_floor_run(&rig->options);

    if (status == MIDGE_E_SYSTEM && (errno == ENOSYS || errno == EPERM))
        _exit(EXIT_NO_URING);
    _exit(status == MIDGE_OK ? 0 : 1);
}

/* Start the relay that `options` describe, and connect all its sides, the first one first. */
static void begin(struct rig *rig)
{
    char text[64];

    (void)snprintf(rig->directory, sizeof rig->directory, "/tmp/midge-floor-XXXXXX");
    cr_assert_not_null(mkdtemp(rig->directory));
    (void)snprintf(text, sizeof text, "unix:%s/relay.sock", rig->directory);
    cr_assert_eq(midge_endpoint_parse(text, &rig->options.endpoint), MIDGE_OK);
    rig->relay = fork();
    cr_assert_geq(rig->relay, 0);
    if (rig->relay == 0)
        run_relay(rig);
    for (uint32_t i = 0; i < rig->options.side_count; i++)
        cr_assert_eq(midge_endpoint_connect(&rig->options.endpoint, PATIENCE_MS, 0, &rig->fd[i]),
                     MIDGE_OK);
}

/* @return exit status of the relay, which ends by itself because the test's sides are closed */
static int finish(struct rig *rig)
{
    int wait_status = 0;

    for (uint32_t i = 0; i < rig->options.side_count; i++) {
        if (rig->fd[i] >= 0)
            (void)close(rig->fd[i]);
    }
    cr_assert_eq(waitpid(rig->relay, &wait_status, 0), rig->relay);
    cr_expect_eq(rmdir(rig->directory), 0, "the relay leaves no file behind");
    cr_assert(WIFEXITED(wait_status));
    return WEXITSTATUS(wait_status);
}

static void close_side(struct rig *rig, uint32_t side)
{
    (void)close(rig->fd[side]);
    rig->fd[side] = -1;
}

/* Write a whole stream. @return false if the peer closed first */
static bool write_stream(int fd, uint64_t len)
{
    uint8_t bytes[CHUNK_LEN];

    for (uint64_t done = 0; done < len;) {
        const uint64_t count = len - done < sizeof bytes ? len - done : sizeof bytes;

        for (uint64_t i = 0; i < count; i++)
            bytes[i] = byte_at(done + i);
        const ssize_t sent = send(fd, bytes, count, MSG_NOSIGNAL);

        if (sent <= 0)
            return false;
        done += (uint64_t)sent;
    }
    return true;
}

/* One read of at most `cap` bytes of a stream of which `*done` have come. @return false at its end,
 * or where it is not that stream */
static bool read_some(int fd, uint32_t cap, uint64_t *done)
{
    uint8_t bytes[CHUNK_LEN];
    const ssize_t len = recv(fd, bytes, cap, 0);

    for (ssize_t i = 0; i < len; i++) {
        if (bytes[i] != byte_at(*done))
            return false;
        (*done)++;
    }
    return len > 0;
}

/* @return bytes that were right: `len`, if the whole stream was */
static uint64_t read_stream(int fd, uint64_t len)
{
    uint64_t done = 0;

    while (done < len && read_some(fd, CHUNK_LEN, &done))
        continue;
    return done;
}

/* A child that writes a stream into one side and exits. If the test closes its own descriptor of
 * that side, the relay then sees the end. */
static pid_t fork_writer(struct rig *rig, uint32_t side, uint64_t len)
{
    const pid_t pid = fork();

    cr_assert_geq(pid, 0);
    if (pid == 0)
        _exit(write_stream(rig->fd[side], len) ? 0 : 1);
    return pid;
}

static void expect_success(pid_t pid)
{
    int wait_status = 0;

    cr_assert_eq(waitpid(pid, &wait_status, 0), pid);
    cr_expect_eq(wait_status, 0, "the writer was cut off");
}

/* Read all sides but the first until they end; the last in small pieces, so it holds others back.
 */
static void read_all(struct rig *rig, uint64_t len)
{
    const uint32_t last = rig->options.side_count - 1;
    uint64_t done[MIDGE_FLOOR_SIDES_MAX] = {0};
    struct pollfd polls[MIDGE_FLOOR_SIDES_MAX];
    uint32_t open_count = last;

    for (uint32_t i = 0; i < last; i++)
        polls[i] = (struct pollfd){.fd = rig->fd[i + 1], .events = POLLIN};
    while (open_count > 0) {
        cr_assert_gt(poll(polls, last, (int)PATIENCE_MS), 0);
        for (uint32_t i = 0; i < last; i++) {
            if (polls[i].revents == 0 ||
                read_some(polls[i].fd, i + 1 == last ? CHUNK_LEN / 8 : CHUNK_LEN, &done[i]))
                continue;
            polls[i].fd = -1;
            open_count--;
        }
    }
    for (uint32_t i = 0; i < last; i++)
        cr_expect_eq(done[i], len, "side %u got %llu right bytes", i + 1,
                     (unsigned long long)done[i]);
}

static int flood(struct midge_floor_options options)
{
    struct rig rig = {.options = options};

    begin(&rig);
    const pid_t writer = fork_writer(&rig, 0, FLOOD_LEN);

    close_side(&rig, 0);
    if (!options.is_uring || recv(rig.fd[1], &(uint8_t){0}, 1, MSG_PEEK) == 1) {
        read_all(&rig, FLOOD_LEN);
        expect_success(writer);
    } else {
        (void)waitpid(writer, NULL, 0);
    }
    return finish(&rig);
}

Test(floor, three_receivers_get_every_byte_of_a_flood)
{
    cr_expect_eq(flood((struct midge_floor_options){.side_count = 4}), 0);
}

Test(floor, short_reads_carry_a_flood_too)
{
    cr_expect_eq(flood((struct midge_floor_options){.side_count = 3, .read_len = 4096}), 0);
}

Test(floor, io_uring_carries_a_flood)
{
    const int status = flood((struct midge_floor_options){.side_count = 2, .is_uring = true});

    if (status == EXIT_NO_URING)
        cr_skip_test("no io_uring here");
    cr_expect_eq(status, 0);
}

Test(floor, first_gets_what_all_others_send)
{
    struct rig rig = {.options = {.side_count = 4}};
    uint32_t counts[4] = {0};
    uint8_t bytes[300];

    begin(&rig);
    for (uint32_t i = 1; i < 4; i++) {
        memset(bytes, (int)i, 100);
        cr_assert_eq(send(rig.fd[i], bytes, 100, MSG_NOSIGNAL), 100);
    }
    cr_assert_eq(recv(rig.fd[0], bytes, sizeof bytes, MSG_WAITALL), sizeof bytes);
    for (uint32_t i = 0; i < sizeof bytes; i++) {
        cr_assert_lt(bytes[i], 4);
        counts[bytes[i]]++;
    }
    for (uint32_t i = 1; i < 4; i++) {
        cr_expect_eq(counts[i], 100);
        cr_expect_eq(recv(rig.fd[i], bytes, 1, MSG_DONTWAIT), -1, "others hear nothing of it");
    }
    cr_expect_eq(finish(&rig), 0);
}

/* The second side sends all before it reads anything, while the first floods it: the relay must not
 * wait for room in one direction and forget the other. */
Test(floor, full_direction_does_not_hold_up_the_other)
{
    struct rig rig = {.options = {.side_count = 2}};

    begin(&rig);
    const pid_t writer = fork_writer(&rig, 0, ANSWERS_LEN);
    const pid_t answerer = fork();

    cr_assert_geq(answerer, 0);
    if (answerer == 0) {
        const bool is_written = write_stream(rig.fd[1], ANSWERS_LEN);

        _exit(is_written && read_stream(rig.fd[1], ANSWERS_LEN) == ANSWERS_LEN ? 0 : 1);
    }
    cr_expect_eq(read_stream(rig.fd[0], ANSWERS_LEN), ANSWERS_LEN);
    expect_success(writer);
    expect_success(answerer);
    cr_expect_eq(finish(&rig), 0);
}

/* Fires `ms` after now. */
static int start_timer(uint32_t ms)
{
    const int fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    const struct itimerspec when = {
        .it_value = {.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000}};

    cr_assert_geq(fd, 0);
    cr_assert_eq(timerfd_settime(fd, 0, &when, NULL), 0);
    return fd;
}

static bool is_readable(int fd, int patience_ms)
{
    struct pollfd poll_fd = {.fd = fd, .events = POLLIN};

    return poll(&poll_fd, 1, patience_ms) == 1;
}

/* The relay counts from the first byte, which comes after the test's timers begin: so the stall
 * ends after them, however slow the machine is. */
static int stall(bool is_uring)
{
    const uint32_t at_ms = 50;
    const uint32_t stall_ms = 200;
    struct rig rig = {.options = {.side_count = 2,
                                  .is_uring = is_uring,
                                  .stall_at_ns = at_ms * 1000000ull,
                                  .stall_ns = stall_ms * 1000000ull}};
    uint8_t byte = 0;

    begin(&rig);
    const int end = start_timer(at_ms + stall_ms);

    cr_assert_eq(send(rig.fd[0], "a", 1, MSG_NOSIGNAL), 1);
    if (recv(rig.fd[1], &byte, 1, 0) == 1) {
        const int begin_timer = start_timer(at_ms);

        cr_expect(is_readable(begin_timer, (int)PATIENCE_MS));
        cr_assert_eq(send(rig.fd[0], "b", 1, MSG_NOSIGNAL), 1);
        cr_assert_eq(recv(rig.fd[1], &byte, 1, 0), 1);
        cr_expect_eq(byte, 'b');
        cr_expect(is_readable(end, 0), "the byte came before the stall was over");
        (void)close(begin_timer);
    }
    (void)close(end);
    return finish(&rig);
}

Test(floor, stall_holds_back_what_comes_during_it)
{
    cr_expect_eq(stall(false), 0);
}

Test(floor, io_uring_stalls_too)
{
    const int status = stall(true);

    if (status == EXIT_NO_URING)
        cr_skip_test("no io_uring here");
    cr_expect_eq(status, 0);
}

Test(floor, what_cannot_work_is_refused)
{
    const struct midge_floor_options refused[] = {
        {.side_count = 1},
        {.side_count = MIDGE_FLOOR_SIDES_MAX + 1},
        {.side_count = 3, .is_uring = true},
        {.read_len = MIDGE_FLOOR_READ_LEN_MIN - 1},
        {.read_len = MIDGE_FLOOR_READ_LEN_MAX + 1},
    };

    for (uint32_t i = 0; i < sizeof refused / sizeof refused[0]; i++)
        cr_expect_eq(midge_floor_run(&refused[i]), MIDGE_E_CONFIG, "case %u", i);
}
