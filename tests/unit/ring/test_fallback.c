/*
 * AUTO on a kernel, or in a sandbox, that refuses io_uring.
 *
 * Method: a seccomp filter makes io_uring_setup fail; each Criterion test is a process of its own,
 * so the filter ends with it.
 */
#include "ring_rig.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>

/* Make one system call fail with `error` from now on; false if this process may not. */
static bool refuse(long call, int error)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)call, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (uint32_t)error),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    const struct sock_fprog program = {.len = sizeof(code) / sizeof(code[0]), .filter = code};

    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
           prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

static void expect_fallback(int error)
{
    const struct midge_ring_options uring_only = {.kind = MIDGE_RING_KIND_URING};
    struct midge_ring_event event;
    struct rig rig = {.kind = MIDGE_RING_KIND_EPOLL};
    char why[128];
    int near_fd, far_fd;

    if (!refuse(SYS_io_uring_setup, error))
        cr_skip_test("no seccomp here");
    cr_assert_eq(midge_ring_create(&uring_only, &rig.ring, why), MIDGE_E_SYSTEM);
    cr_assert_not_null(strstr(why, strerror(error)), "%s", why);
    cr_assert_eq(midge_ring_create(NULL, &rig.ring, why), MIDGE_OK);
    cr_assert_eq(midge_ring_kind(rig.ring), MIDGE_RING_KIND_EPOLL);
    cr_assert_not_null(strstr(why, strerror(error)), "%s", why);
    rig_unix_pair(&rig, &near_fd, &far_fd);
    midge_ring_recv(rig.ring, near_fd, rig_handle(1));
    rig_write(far_fd, "works", 5);
    event = rig_next(&rig);
    rig_expect_bytes(&event, "works");
    rig_hang_up(&rig, near_fd, 1);
    (void)close(far_fd);
    midge_ring_destroy(rig.ring);
}

Test(fallback, auto_takes_epoll_where_io_uring_is_forbidden)
{
    expect_fallback(EPERM);
}

Test(fallback, auto_takes_epoll_where_io_uring_does_not_exist)
{
    expect_fallback(ENOSYS);
}

/* A sandbox that lets rings be made but not used: only the self-test can tell. */
Test(fallback, auto_takes_epoll_where_provided_buffers_are_forbidden)
{
    struct rig rig;
    char why[128];

    if (!rig_kernel_has_io_uring() || !refuse(SYS_io_uring_register, EACCES))
        cr_skip_test("no io_uring or no seccomp here");
    cr_assert_eq(midge_ring_create(NULL, &rig.ring, why), MIDGE_OK);
    cr_assert_eq(midge_ring_kind(rig.ring), MIDGE_RING_KIND_EPOLL);
    cr_assert_not_null(strstr(why, "buf_ring"), "%s", why);
    midge_ring_destroy(rig.ring);
}

Test(fallback, auto_takes_io_uring_where_it_works)
{
    struct rig rig;
    char why[128];

    if (!rig_kernel_has_io_uring())
        cr_skip_test("this kernel refuses io_uring");
    cr_assert_eq(midge_ring_create(NULL, &rig.ring, why), MIDGE_OK);
    cr_assert_eq(midge_ring_kind(rig.ring), MIDGE_RING_KIND_URING, "%s", why);
    cr_assert_str_eq(why, "");
    midge_ring_destroy(rig.ring);
}

/* An old kernel, or a filter older than the call: deadlines then are rounded up to milliseconds. */
Test(fallback, epoll_does_without_fine_timers)
{
    const struct midge_ring_options options = {.kind = MIDGE_RING_KIND_EPOLL};
    uint64_t deadline_ns;
    uint32_t wait_count = 0;
    struct rig rig;

    if (!refuse(SYS_epoll_pwait2, EPERM))
        cr_skip_test("no seccomp here");
    rig_open(&rig, &options);
    deadline_ns = midge_ring_now_ns(rig.ring) + 5500000;
    while (midge_ring_now_ns(rig.ring) < deadline_ns) {
        midge_ring_wait(rig.ring, deadline_ns, 0);
        wait_count++;
    }
    cr_assert_leq(wait_count, 4);
    midge_ring_destroy(rig.ring);
}
