/*
 * What is counted of a process and its threads. Method: an event that every machine has, the CPU
 * time that the kernel counts in software, on a child whose threads turn a loop; instructions
 * themselves only where the machine counts them. Where not even the first is allowed, as in some
 * containers, it is to be said so, and nothing is counted.
 */
#include "instructions.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <linux/perf_event.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* Work of each thread: CPU time of its own. */
#define WORK_NS 20000000

static void *work(void *argument)
{
    struct timespec used = {0};

    while (used.tv_sec * 1000000000L + used.tv_nsec < WORK_NS)
        (void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
    return argument;
}

/* Waits for a byte, lets another thread work, which it starts then, and works itself. */
static _Noreturn void be_server(int begin, int done)
{
    pthread_t thread;
    char byte = 0;

    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (read(begin, &byte, 1) != 1 || pthread_create(&thread, NULL, work, NULL) != 0)
        _exit(1);
    (void)work(NULL);
    (void)pthread_join(thread, NULL);
    if (write(done, &byte, 1) != 1)
        _exit(1);
    (void)pause();
    _exit(1);
}

struct server {
    pid_t pid;
    int begin;
    int done;
};

static struct server start(void)
{
    struct server server;
    int begin[2];
    int done[2];

    cr_assert(pipe(begin) == 0 && pipe(done) == 0);
    server.pid = fork();
    cr_assert_geq(server.pid, 0);
    if (server.pid == 0)
        be_server(begin[0], done[1]);
    server.begin = begin[1];
    server.done = done[0];
    return server;
}

static void let_work(const struct server *server)
{
    char byte = 'x';

    cr_assert_eq(write(server->begin, &byte, 1), 1);
    cr_assert_eq(read(server->done, &byte, 1), 1);
}

static void stop(const struct server *server)
{
    (void)kill(server->pid, SIGKILL);
    cr_assert_eq(waitpid(server->pid, NULL, 0), server->pid);
}

/* Not allowed, or no such counter: nothing to test here but that it is said. */
static bool is_refused(enum midge_status status)
{
    const int error = errno;

    if (status == MIDGE_OK)
        return false;
    cr_expect(error == EACCES || error == EPERM || error == ENOENT || error == ENOSYS ||
                  error == EOPNOTSUPP,
              "%s", strerror(error));
    (void)fprintf(stderr, "not counted here: %s\n", strerror(error));
    return true;
}

Test(instructions, threads_that_start_later_are_counted)
{
    const struct server server = start();
    struct midge_instructions counter = {.thread_count = 0};
    const enum midge_status status = midge_instructions_open_event(
        server.pid, PERF_TYPE_SOFTWARE, PERF_COUNT_SW_TASK_CLOCK, &counter);

    if (!is_refused(status)) {
        uint64_t before = 0;
        uint64_t after = 0;

        cr_expect_eq(counter.thread_count, 1);
        cr_assert(midge_instructions_read(&counter, &before));
        let_work(&server);
        cr_assert(midge_instructions_read(&counter, &after));
        cr_expect_geq(after - before, 2 * WORK_NS * 9 / 10);
        midge_instructions_close(&counter);
        cr_expect_not(midge_instructions_read(&counter, &after), "closed");
    }
    stop(&server);
}

static void *wait_at(void *barrier)
{
    (void)pthread_barrier_wait(barrier);
    return NULL;
}

Test(instructions, every_thread_that_runs_is_counted)
{
    struct midge_instructions counter = {.thread_count = 0};
    pthread_barrier_t barrier;
    pthread_t threads[3];

    cr_assert_eq(pthread_barrier_init(&barrier, NULL, 4), 0);
    for (uint32_t i = 0; i < 3; i++)
        cr_assert_eq(pthread_create(&threads[i], NULL, wait_at, &barrier), 0);
    const enum midge_status status = midge_instructions_open_event(
        getpid(), PERF_TYPE_SOFTWARE, PERF_COUNT_SW_TASK_CLOCK, &counter);

    if (!is_refused(status))
        cr_expect_geq(counter.thread_count, 4);
    midge_instructions_close(&counter);
    (void)pthread_barrier_wait(&barrier);
    for (uint32_t i = 0; i < 3; i++)
        cr_expect_eq(pthread_join(threads[i], NULL), 0);
}

Test(instructions, work_takes_instructions)
{
    const struct server server = start();
    struct midge_instructions counter = {.thread_count = 0};
    const enum midge_status status = midge_instructions_open(server.pid, &counter);

    if (!is_refused(status)) {
        uint64_t before = 0;
        uint64_t after = 0;
        const bool is_known = midge_instructions_read(&counter, &before);

        let_work(&server);
        /* Others may share the counter; then there is no figure. */
        if (is_known && midge_instructions_read(&counter, &after))
            cr_expect_gt(after - before, 100000);
        midge_instructions_close(&counter);
    }
    stop(&server);
}

Test(instructions, process_that_has_ended_is_told)
{
    const struct server server = start();
    struct midge_instructions counter = {.thread_count = 7};

    stop(&server);
    cr_expect_eq(midge_instructions_open(server.pid, &counter), MIDGE_E_SYSTEM);
    cr_expect_eq(counter.thread_count, 7, "a failed call leaves it as it was");
}
