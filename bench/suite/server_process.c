/* Processes that become a server; see server_process.h. */
#include "server_process.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "process.h"

/* Timer slack of a process that nobody asked to be punctual, in ns. Source: Linux,
 * init/init_task.c. A load sets its own to 1 ns, and a child would keep that. */
#define TIMER_SLACK_NS 50000ul

/* What a shell exits with if it cannot run a program. */
#define EXIT_NO_PROGRAM 127

/* How often to look whether a process has ended. */
#define LOOK_NS 1000000u

/* Why a child could not become the program; written into a pipe that closes if it could. */
struct failure {
    int error;
    bool is_program; /* else the place where it was to run */
};

static _Noreturn void fail(int report, bool is_program)
{
    const struct failure failure = {.error = errno, .is_program = is_program};

    /* A pipe that the parent cannot read any more has nobody to tell. */
    if (write(report, &failure, sizeof failure) < 0)
        _exit(EXIT_NO_PROGRAM + 1);
    _exit(EXIT_NO_PROGRAM);
}

/* A blocked or ignored signal stays so in the program. */
static void restore_signals(void)
{
    sigset_t none;

    for (int number = 1; number < NSIG; number++)
        (void)signal(number, SIG_DFL);
    (void)sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
}

static _Noreturn void become(char *const *words, const cpu_set_t *cpus, int output, int report,
                             pid_t parent)
{
    const int nothing = open("/dev/null", O_RDONLY | O_CLOEXEC);

    restore_signals();
    /* What a terminal sends at Ctrl-C is for midge-bench, which then stops its servers. */
    (void)setpgid(0, 0);
    (void)prctl(PR_SET_PDEATHSIG, SIGTERM);
    /* The parent may have died before the line above. */
    if (getppid() != parent)
        _exit(EXIT_NO_PROGRAM);
    (void)prctl(PR_SET_TIMERSLACK, TIMER_SLACK_NS);
    if (cpus != NULL && sched_setaffinity(0, sizeof *cpus, cpus) != 0)
        fail(report, false);
    if (nothing < 0 || dup2(nothing, STDIN_FILENO) < 0 || dup2(output, STDOUT_FILENO) < 0 ||
        dup2(output, STDERR_FILENO) < 0)
        fail(report, true);
    (void)execvp(words[0], words);
    fail(report, true);
}

static void explain(const char *name, const char *program, const struct failure *failure)
{
    if (name == NULL)
        return;
    if (!failure->is_program)
        (void)fprintf(stderr, "midge-bench: %s: cannot run on the CPUs it is to have: %s\n", name,
                      strerror(failure->error));
    else if (failure->error == ENOENT)
        (void)fprintf(stderr, "midge-bench: %s: %s: not found; install it or give its path\n", name,
                      program);
    else
        (void)fprintf(stderr, "midge-bench: %s: %s: cannot be run: %s\n", name, program,
                      strerror(failure->error));
}

/* @return false if the child became the program */
static bool read_failure(int report, struct failure *failure_out)
{
    ssize_t len = 0;

    do
        len = read(report, failure_out, sizeof *failure_out);
    while (len < 0 && errno == EINTR);
    return len == (ssize_t)sizeof *failure_out;
}

enum midge_status midge_server_process_start(const char *name, char *const *words,
                                             const cpu_set_t *cpus, int output, pid_t *pid_out)
{
    struct failure failure = {.error = 0, .is_program = true};
    const pid_t parent = getpid();
    pid_t pid = -1;
    int report[2];

    if (pipe2(report, O_CLOEXEC) == 0) {
        pid = fork();
        if (pid == 0)
            become(words, cpus, output, report[1], parent);
        failure.error = errno;
        (void)close(report[1]);
    } else {
        failure.error = errno;
        explain(name, words[0], &failure);
        return MIDGE_E_SYSTEM;
    }
    const bool has_failed = pid < 0 || read_failure(report[0], &failure);

    (void)close(report[0]);
    if (has_failed) {
        explain(name, words[0], &failure);
        if (pid > 0)
            (void)waitpid(pid, NULL, 0);
        return MIDGE_E_SYSTEM;
    }
    *pid_out = pid;
    return MIDGE_OK;
}

bool midge_server_process_has_ended(pid_t pid)
{
    siginfo_t info = {.si_pid = 0};

    /* A child that has ended is there until it is reaped, which kill() does not see. */
    if (waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0)
        return info.si_pid == pid;
    return kill(pid, 0) != 0 && errno == ESRCH;
}

void midge_server_process_reap(pid_t pid, char *text_out, uint32_t cap)
{
    int wait_status = 0;
    pid_t reaped = 0;

    do
        reaped = waitpid(pid, &wait_status, 0);
    while (reaped < 0 && errno == EINTR);
    if (reaped == pid && WIFSIGNALED(wait_status))
        (void)snprintf(text_out, cap, "by signal %d (%s)", WTERMSIG(wait_status),
                       strsignal(WTERMSIG(wait_status)));
    else if (reaped == pid)
        (void)snprintf(text_out, cap, "with exit status %d", WEXITSTATUS(wait_status));
    else
        (void)snprintf(text_out, cap, "unseen");
}

void midge_server_process_end(pid_t pid, uint32_t wait_ms)
{
    const uint64_t until_ns = midge_process_now_ns() + wait_ms * 1000000ull;
    char text[64];

    (void)kill(pid, SIGTERM);
    while (!midge_server_process_has_ended(pid) && midge_process_now_ns() < until_ns)
        midge_process_sleep_ns(LOOK_NS);
    if (!midge_server_process_has_ended(pid))
        (void)kill(pid, SIGKILL);
    midge_server_process_reap(pid, text, sizeof text);
}
