/*
 * Who drives: other threads, children, signals, several clients of one loop, somebody else's event
 * loop.
 */
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "rig.h"

/* --- threads --- */

/* What a second thread gets. */
struct stranger {
    struct midge_client *client;
    struct midge_sub *sub;
    enum midge_status statuses[16];
    uint32_t count;
};

static void ignore_reply(void *context, enum midge_status status, const struct midge_msg *msg)
{
    (void)context;
    (void)status;
    (void)msg;
}

static void *call_everything(void *context)
{
    struct stranger *stranger = context;
    struct midge_client *client = stranger->client;
    const struct midge_outgoing outgoing = {.subject = "a"};
    enum midge_status *statuses = stranger->statuses;
    const struct midge_msg *msg;
    struct midge_sub *sub;
    uint32_t count = 0;
    char inbox[128];
    int fd;

    statuses[count++] = midge_client_connect(client, 1000);
    statuses[count++] = midge_client_publish(client, "a", "x", 1);
    statuses[count++] = midge_client_submit(client);
    statuses[count++] = midge_client_flush(client, 1000, NULL);
    statuses[count++] = midge_client_subscribe(client, "a", NULL, &sub, NULL, NULL);
    statuses[count++] = midge_client_request(client, "a", "x", 1, 1000, &msg);
    statuses[count++] =
        midge_client_request_async(client, &outgoing, NULL, NULL, NULL, ignore_reply);
    statuses[count++] = midge_client_request_many(client, &outgoing, NULL, NULL, midge_rig_hear);
    statuses[count++] = midge_client_wait(client, 1000);
    statuses[count++] = midge_client_poll(client);
    statuses[count++] = midge_client_run(client);
    statuses[count++] = midge_client_fd(client, &fd);
    statuses[count++] = midge_client_new_inbox(client, inbox, sizeof(inbox));
    statuses[count++] = midge_client_drain(client, 1000);
    statuses[count++] = midge_sub_next(stranger->sub, 1000, &msg);
    statuses[count++] = midge_sub_drain(stranger->sub);
    stranger->count = count;
    return NULL;
}

static void client_belongs_to_the_thread_that_drives_it(struct midge_rig *rig)
{
    struct stranger stranger = {.client = midge_rig_connect(rig, NULL)};
    pthread_t thread;

    if (rig->is_thread_safe) {
        midge_client_destroy(stranger.client);
        return; /* any thread may */
    }
    stranger.sub = midge_rig_subscribe(stranger.client, "a");
    CHECK(pthread_create(&thread, NULL, call_everything, &stranger) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
    for (uint32_t i = 0; i < stranger.count; i++)
        CHECK_STATUS(stranger.statuses[i], MIDGE_E_THREAD);
    /* Nothing of it has had an effect. */
    CHECK_EQUAL(midge_rig_stats(stranger.client).out_msgs, 0);
    midge_rig_publish(stranger.client, "a", "mine");
    midge_rig_expect(rig, stranger.sub, "mine");
    midge_client_destroy(stranger.client);
}

static void *drive_it(void *context)
{
    struct midge_client *client = context;
    const struct midge_msg *reply;

    MUST(midge_client_connect(client, RIG_PATIENCE_MS));
    CHECK_STATUS(midge_client_request(client, "absent", "", 0, RIG_PATIENCE_MS, &reply),
                 MIDGE_E_NO_RESPONDERS);
    midge_client_destroy(client);
    return NULL;
}

static void client_may_be_made_by_another_thread(struct midge_rig *rig)
{
    struct midge_client *client = midge_rig_create(rig, NULL);
    pthread_t thread;

    midge_rig_publish(client, "a", "before anybody drives");
    CHECK(pthread_create(&thread, NULL, drive_it, client) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
}

/* --- fork --- */

static int status_of_child(struct midge_client *client, struct midge_sub *sub)
{
    struct stranger stranger = {.client = client, .sub = sub};

    (void)call_everything(&stranger);
    for (uint32_t i = 0; i < stranger.count; i++) {
        if (stranger.statuses[i] != MIDGE_E_THREAD)
            return 1 + (int)i;
    }
    midge_client_destroy(client);
    return 0;
}

static void child_of_a_fork_leaves_the_connection_alone(struct midge_rig *rig)
{
    struct midge_client *client = midge_rig_connect(rig, NULL);
    struct midge_sub *sub = midge_rig_subscribe(client, "fork");
    int status = 0;
    pid_t pid;

    /* Half of the messages are queued in the parent: the child must not send them. */
    midge_rig_publish(client, "fork", "sent");
    midge_rig_flush(client);
    midge_rig_publish(client, "fork", "queued");
    (void)fflush(NULL);
    pid = fork();
    CHECK(pid >= 0);
    if (pid == 0)
        _exit(status_of_child(client, sub));
    CHECK(waitpid(pid, &status, 0) == pid);
    CHECK_EQUAL(status, 0);
    midge_rig_expect(rig, sub, "sent");
    midge_rig_expect(rig, sub, "queued");
    midge_rig_flush(client);
    midge_rig_expect_nothing(sub);
    CHECK_EQUAL(midge_rig_stats(client).connects, 1);
    midge_client_destroy(client);
}

/* --- without io_uring --- */

/* io_uring_setup(2) fails from now on, as in containers. @return false if this process may not */
static bool block_uring(void)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    const struct sock_fprog program = {.len = sizeof(code) / sizeof(code[0]), .filter = code};

    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
           prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

/* A request goes round all the same. @return the exit status of the child */
static int status_without_uring(const struct midge_rig *rig)
{
    struct midge_options options = midge_rig_options(rig);
    const struct midge_msg *reply;
    struct midge_client *client;

    if (!block_uring())
        return 1;
    if (rig->io == MIDGE_IO_URING && !rig->is_thread_safe) {
        client = midge_rig_create(rig, &options);
        if (midge_client_connect(client, RIG_PATIENCE_MS) != MIDGE_E_SYSTEM ||
            strstr(midge_client_error(client), strerror(EPERM)) == NULL)
            return 2;
        midge_client_destroy(client);
    }
    if (midge_loop_create(MIDGE_IO_AUTO, 0, &options.loop) != MIDGE_OK)
        return 3;
    options.thread_safe = false;
    client = midge_rig_connect(rig, &options);
    (void)midge_rig_listen(client, "echo", NULL, midge_rig_echo);
    if (midge_client_request(client, "echo", "tea", 3, RIG_PATIENCE_MS, &reply) != MIDGE_OK ||
        strcmp(midge_loop_io(options.loop), "epoll") != 0)
        return 4;
    midge_client_destroy(client);
    midge_loop_destroy(options.loop);
    return 0;
}

static void epoll_serves_where_io_uring_is_blocked(struct midge_rig *rig)
{
    int status = 0;
    pid_t pid;

    (void)fflush(NULL);
    pid = fork();
    CHECK(pid >= 0);
    if (pid == 0)
        _exit(status_without_uring(rig));
    CHECK(waitpid(pid, &status, 0) == pid);
    CHECK_EQUAL(status, 0);
}

/* --- interrupts --- */

static void *interrupt_later(void *context)
{
    midge_rig_sleep_ms(20);
    midge_client_interrupt(context);
    return NULL;
}

static void interrupt_ends_a_wait(struct midge_rig *rig)
{
    struct midge_client *client = midge_rig_connect(rig, NULL);
    struct midge_sub *sub = midge_rig_subscribe(client, "silent");
    const struct midge_msg *msg;
    pthread_t thread;

    for (uint32_t i = 0; i < 4; i++) {
        enum midge_status status;

        CHECK(pthread_create(&thread, NULL, interrupt_later, client) == 0);
        status = i == 0   ? midge_client_wait(client, MIDGE_FOREVER)
                 : i == 1 ? midge_client_run(client)
                 : i == 2 ? midge_sub_next(sub, MIDGE_FOREVER, &msg)
                          : midge_client_request(client, "silent", "", 0, MIDGE_FOREVER, &msg);
        CHECK_STATUS(status, MIDGE_AGAIN);
        CHECK(pthread_join(thread, NULL) == 0);
    }
    /* One that comes between waits ends the next one, and no more. */
    midge_client_interrupt(client);
    CHECK_STATUS(midge_client_wait(client, MIDGE_FOREVER), MIDGE_AGAIN);
    midge_rig_flush(client);
    midge_client_destroy(client);
}

static void interrupt_before_the_first_wait_counts(struct midge_rig *rig)
{
    struct midge_client *client = midge_rig_create(rig, NULL);

    midge_client_interrupt(client);
    CHECK_STATUS(midge_client_wait(client, MIDGE_FOREVER), MIDGE_AGAIN);
    midge_client_destroy(client);
}

/* style: a signal handler has no other argument. */
static struct midge_client *signalled;

static void on_alarm(int signal_number)
{
    (void)signal_number;
    midge_client_interrupt(signalled);
}

static void *raise_later(void *context)
{
    const pid_t *pid = context;

    midge_rig_sleep_ms(20);
    CHECK(kill(*pid, SIGUSR1) == 0);
    return NULL;
}

static void signal_handler_may_interrupt(struct midge_rig *rig)
{
    struct sigaction action = {.sa_handler = on_alarm};
    pid_t pid = getpid();
    pthread_t thread;

    signalled = midge_rig_connect(rig, NULL);
    CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
    CHECK(pthread_create(&thread, NULL, raise_later, &pid) == 0);
    CHECK_STATUS(midge_client_run(signalled), MIDGE_AGAIN);
    CHECK(pthread_join(thread, NULL) == 0);
    (void)signal(SIGUSR1, SIG_DFL);
    midge_client_destroy(signalled);
}

static void ignore_signal(int signal_number)
{
    (void)signal_number;
}

static void other_signals_end_no_wait(struct midge_rig *rig)
{
    struct sigaction action = {.sa_handler = ignore_signal};
    struct midge_client *client = midge_rig_connect(rig, NULL);
    const uint64_t begun_ns = midge_rig_now_ns();
    pid_t pid = getpid();
    pthread_t thread;

    CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
    CHECK(pthread_create(&thread, NULL, raise_later, &pid) == 0);
    CHECK_STATUS(midge_client_wait(client, 100), MIDGE_AGAIN);
    CHECK(midge_rig_now_ns() - begun_ns >= 100000000);
    CHECK(pthread_join(thread, NULL) == 0);
    (void)signal(SIGUSR1, SIG_DFL);
    midge_client_destroy(client);
}

/* --- several clients --- */

static void several_clients_share_a_loop(struct midge_rig *rig)
{
    enum {
        COUNT = 10
    };
    struct midge_options options = midge_rig_options(rig);
    struct midge_client *clients[COUNT];
    struct midge_rig_heard heard[COUNT] = {{0}};
    struct midge_loop *loop;
    const struct midge_msg *reply;

    if (rig->is_thread_safe)
        return; /* each has a loop of its own */
    MUST(midge_loop_create(rig->io, 0, &loop));
    CHECK(strcmp(midge_loop_io(loop), "") == 0);
    options.loop = loop;
    for (uint32_t i = 0; i < COUNT; i++) {
        clients[i] = midge_rig_create(rig, &options);
        CHECK_STATUS(midge_client_connect(clients[i], 0), MIDGE_AGAIN);
    }
    for (uint32_t i = 0; i < COUNT; i++) {
        WAIT_UNTIL(clients[0], midge_client_state(clients[i]) == MIDGE_CLIENT_CONNECTED);
        (void)midge_rig_listen(clients[i], "all", &heard[i], midge_rig_hear);
    }
    CHECK(strcmp(midge_loop_io(loop), rig->io == MIDGE_IO_EPOLL ? "epoll" : "io_uring") == 0);
    (void)midge_rig_listen(clients[0], "echo", NULL, midge_rig_echo);
    midge_rig_publish(clients[3], "all", "x");
    for (uint32_t i = 0; i < COUNT; i++) {
        while (heard[i].count == 0)
            (void)!midge_loop_wait(loop, RIG_PATIENCE_MS);
    }
    /* The request of one waits in the loop in which the other answers. */
    MUST(midge_client_request(clients[1], "echo", "x", 1, RIG_PATIENCE_MS, &reply));
    CHECK_TEXT(reply->payload, "x");
    for (uint32_t i = 0; i < COUNT; i++)
        midge_client_destroy(clients[(i + 3) % COUNT]);
    midge_loop_destroy(loop);
    midge_loop_destroy(NULL);
}

static void spinning_client_works(struct midge_rig *rig)
{
    struct midge_options options = midge_rig_options(rig);
    struct midge_client *client;
    const struct midge_msg *reply;

    options.spin_us = 50;
    client = midge_rig_connect(rig, &options);
    (void)midge_rig_listen(client, "echo", NULL, midge_rig_echo);
    for (uint32_t i = 0; i < 100; i++) {
        MUST(midge_client_request(client, "echo", "x", 1, RIG_PATIENCE_MS, &reply));
        midge_rig_done(rig, reply);
    }
    midge_client_destroy(client);
}

/* --- a foreign event loop --- */

/* Poll the client's descriptor with poll(2), and the client when it is readable, until done. */
static void poll_until(struct midge_client *client, int fd, const bool *is_done)
{
    const uint64_t begun_ns = midge_rig_now_ns();

    while (!*is_done) {
        struct pollfd poller = {.fd = fd, .events = POLLIN};
        const int count = poll(&poller, 1, 1000);

        CHECK(midge_rig_now_ns() - begun_ns < RIG_PATIENCE_MS * 1000000ull);
        if (count > 0)
            (void)!midge_client_poll(client);
    }
}

/* A conversation with itself: `left` requests one after the other. */
struct conversation {
    struct midge_client *client;
    uint32_t left;
    bool is_connected;
    bool is_done;
    enum midge_status last;
};

static void ask_again(void *context, enum midge_status status, const struct midge_msg *msg)
{
    struct conversation *conversation = context;
    const struct midge_outgoing outgoing = {.subject = "echo"};

    (void)msg;
    conversation->last = status;
    conversation->is_done = conversation->left == 0 || status != MIDGE_OK;
    if (conversation->is_done)
        return;
    conversation->left--;
    MUST(midge_client_request_async(conversation->client, &outgoing, NULL, NULL, conversation,
                                    ask_again));
}

static void note_connected(void *context, const struct midge_event *event)
{
    struct conversation *conversation = context;

    conversation->is_connected |= event->kind == MIDGE_EVENT_CONNECTED;
}

static void foreign_loop_drives_by_a_descriptor(struct midge_rig *rig)
{
    struct midge_options options = midge_rig_options(rig);
    const struct midge_outgoing to_silence = {.subject = "silent"};
    const struct midge_request_options soon = {.timeout_ms = 20};
    struct conversation conversation = {.left = 200};
    struct midge_client *client;
    struct midge_sub *sub;
    const struct midge_msg *msg;
    int fd;

    options.context = &conversation;
    options.event_cb = note_connected;
    client = conversation.client = midge_rig_create(rig, &options);
    if (rig->is_thread_safe) {
        CHECK_STATUS(midge_client_fd(client, &fd), MIDGE_E_CONFIG);
        midge_client_destroy(client);
        return;
    }
    MUST(midge_client_fd(client, &fd));
    CHECK_STATUS(midge_client_connect(client, RIG_PATIENCE_MS), MIDGE_AGAIN);
    poll_until(client, fd, &conversation.is_connected);
    /* What is queued outside of a poll makes it readable. */
    MUST(midge_client_subscribe(client, "echo", NULL, &sub, NULL, midge_rig_echo));
    MUST(midge_client_subscribe(client, "silent", NULL, &sub, NULL, NULL));
    ask_again(&conversation, MIDGE_OK, NULL);
    poll_until(client, fd, &conversation.is_done);
    CHECK_STATUS(conversation.last, MIDGE_OK);
    CHECK_EQUAL(conversation.left, 0);
    /* No call waits. */
    CHECK_STATUS(midge_client_request(client, "echo", "", 0, 1000, &msg), MIDGE_AGAIN);
    CHECK_STATUS(midge_sub_next(sub, 1000, &msg), MIDGE_AGAIN);
    CHECK_STATUS(midge_client_flush(client, 1000, NULL), MIDGE_AGAIN);
    CHECK_STATUS(midge_client_wait(client, 1000), MIDGE_AGAIN);
    /* Timers are in it. */
    conversation.is_done = false;
    MUST(midge_client_request_async(client, &to_silence, &soon, NULL, &conversation, ask_again));
    poll_until(client, fd, &conversation.is_done);
    CHECK_STATUS(conversation.last, MIDGE_E_TIMEOUT);
    midge_client_destroy(client);
}

/* A client that keeps itself busy for ever. */
static void publish_again(void *context, const struct midge_msg *msg)
{
    uint32_t *count = context;

    (*count)++;
    midge_rig_publish(msg->client, "busy", "");
}

static bool is_readable(int fd)
{
    struct pollfd poll_fd = {.fd = fd, .events = POLLIN};

    return poll(&poll_fd, 1, 0) == 1;
}

static void descriptor_tells_what_is_queued_after_a_client_has_gone(struct midge_rig *rig)
{
    struct midge_options options = midge_rig_options(rig);
    struct midge_rig_heard heard = {.count = 0};
    struct midge_client *going;
    struct midge_client *staying;
    struct midge_loop *loop;
    uint64_t begun_ns;
    int fd;

    if (rig->is_thread_safe)
        return; /* has a loop of its own, and no descriptor */
    MUST(midge_loop_create(rig->io, 0, &loop));
    options.loop = loop;
    going = midge_rig_connect(rig, &options);
    staying = midge_rig_connect(rig, &options);
    (void)midge_rig_listen(staying, "stay", &heard, midge_rig_hear);
    MUST(midge_loop_fd(loop, &fd));
    while (is_readable(fd))
        (void)!midge_loop_poll(loop);
    /* Ending it takes turns of the loop. */
    midge_client_destroy(going);
    begun_ns = midge_rig_now_ns();
    for (uint32_t i = 0; i < 3; i++) {
        midge_rig_publish(staying, "stay", "x");
        CHECK(is_readable(fd));
        while (heard.count == i || is_readable(fd)) {
            if (is_readable(fd))
                (void)!midge_loop_poll(loop);
            CHECK(midge_rig_now_ns() - begun_ns < RIG_PATIENCE_MS * 1000000ull);
        }
    }
    midge_client_destroy(staying);
    midge_loop_destroy(loop);
}

static void poll_returns_however_much_there_is(struct midge_rig *rig)
{
    struct midge_client *client = midge_rig_connect(rig, NULL);
    uint32_t count = 0;
    struct midge_sub *sub;
    int fd;

    if (rig->is_thread_safe) {
        midge_client_destroy(client);
        return;
    }
    MUST(midge_client_subscribe(client, "busy", NULL, &sub, &count, publish_again));
    midge_rig_publish(client, "busy", "");
    MUST(midge_client_fd(client, &fd));
    for (uint32_t i = 0; i < 1000; i++)
        (void)!midge_client_poll(client);
    /* It stays readable for as long as there is more. */
    while (count < 5000) {
        struct pollfd poller = {.fd = fd, .events = POLLIN};
        CHECK(poll(&poller, 1, RIG_PATIENCE_MS) == 1);
        (void)!midge_client_poll(client);
    }
    midge_client_destroy(client);
}

int main(int argc, char **argv)
{
    static const struct midge_rig_case cases[] = {
        RIG_CASE(client_belongs_to_the_thread_that_drives_it),
        RIG_CASE(client_may_be_made_by_another_thread),
        RIG_CASE(child_of_a_fork_leaves_the_connection_alone),
        RIG_CASE(epoll_serves_where_io_uring_is_blocked),
        RIG_CASE(interrupt_ends_a_wait),
        RIG_CASE(interrupt_before_the_first_wait_counts),
        RIG_CASE(signal_handler_may_interrupt),
        RIG_CASE(other_signals_end_no_wait),
        RIG_CASE(several_clients_share_a_loop),
        RIG_CASE(spinning_client_works),
        RIG_CASE(foreign_loop_drives_by_a_descriptor),
        RIG_CASE(descriptor_tells_what_is_queued_after_a_client_has_gone),
        RIG_CASE(poll_returns_however_much_there_is),
    };

    return midge_rig_main(argc, argv, cases, sizeof(cases) / sizeof(cases[0]));
}
