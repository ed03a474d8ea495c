/* Several stacks in one thread; see fiber.h. */
#include "fiber.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

#include "midge/compiler.h"

#if defined(__SANITIZE_ADDRESS__)
#define FIBER_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define FIBER_ASAN 1
#endif
#endif
#ifdef FIBER_ASAN
#include <sanitizer/common_interface_defs.h>
#endif

#define STACK_LEN (512u * 1024)
#define GUARD_LEN 4096u

static void before_switch(void **fake_stack_out, const struct midge_fiber *to)
{
#ifdef FIBER_ASAN
    __sanitizer_start_switch_fiber(fake_stack_out, to->bottom, to->len);
#else
    (void)fake_stack_out;
    (void)to;
#endif
}

/* On the new stack. What is learned of the old one matters for the thread's own only. */
static void after_switch(struct midge_fiber *now)
{
#ifdef FIBER_ASAN
    const void *bottom;
    size_t len;

    __sanitizer_finish_switch_fiber(now->fake_stack, &bottom, &len);
    if (now->from->stack == NULL) {
        now->from->bottom = bottom;
        now->from->len = len;
    }
#else
    (void)now;
#endif
}

/* makecontext() passes int arguments only. */
static void run(unsigned high, unsigned low)
{
    struct midge_fiber *fiber = (struct midge_fiber *)(((uintptr_t)high << 32) | low);

    after_switch(fiber);
    fiber->run_cb(fiber->run_context);
    MIDGE_ASSERT(false);
}

void midge_fiber_init_main(struct midge_fiber *fiber)
{
    memset(fiber, 0, sizeof(*fiber));
}

void midge_fiber_init(struct midge_fiber *fiber, void *context, void (*run_cb)(void *context))
{
    const uintptr_t word = (uintptr_t)fiber;
    uint8_t *stack;

    memset(fiber, 0, sizeof(*fiber));
    stack = mmap(NULL, GUARD_LEN + STACK_LEN, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    MIDGE_ASSERT(stack != MAP_FAILED);
    MIDGE_ASSERT(mprotect(stack, GUARD_LEN, PROT_NONE) == 0);
    fiber->stack = stack;
    fiber->bottom = stack + GUARD_LEN;
    fiber->len = STACK_LEN;
    fiber->run_cb = run_cb;
    fiber->run_context = context;
    MIDGE_ASSERT(getcontext(&fiber->context) == 0);
    fiber->context.uc_stack.ss_sp = stack + GUARD_LEN;
    fiber->context.uc_stack.ss_size = STACK_LEN;
    fiber->context.uc_link = NULL;
    makecontext(&fiber->context, (void (*)(void))run, 2, (unsigned)(word >> 32),
                (unsigned)(word & UINT32_MAX));
}

void midge_fiber_deinit(struct midge_fiber *fiber)
{
    if (fiber->stack != NULL)
        (void)munmap(fiber->stack, GUARD_LEN + STACK_LEN);
    fiber->stack = NULL;
}

void midge_fiber_switch(struct midge_fiber *from, struct midge_fiber *to)
{
    to->from = from;
    before_switch(&from->fake_stack, to);
    MIDGE_ASSERT(swapcontext(&from->context, &to->context) == 0);
    after_switch(from);
}

_Noreturn void midge_fiber_end(struct midge_fiber *from, struct midge_fiber *to)
{
    to->from = from;
    before_switch(NULL, to);
    (void)setcontext(&to->context);
    MIDGE_ASSERT(false);
    __builtin_unreachable();
}
