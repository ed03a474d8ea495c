/*
 * Several stacks in one thread, so that each shard of a simulated broker can be left in the middle
 * of a turn.
 *
 * Thread: shard; all fibers of a test are one thread's.
 * Memory: one mapping for each, with a page that must not be touched below it.
 * Source: makecontext(3); sanitizer/common_interface_defs.h for what AddressSanitizer wants to
 * know.
 */
#ifndef MIDGE_FIBER_H
#define MIDGE_FIBER_H

#include <stddef.h>
#include <ucontext.h>

struct midge_fiber {
    ucontext_t context;
    void *stack; /* mapped; NULL for the thread's own */
    const void *bottom;
    size_t len;
    void *fake_stack; /* AddressSanitizer's, while it is left */
    struct midge_fiber *from;
    void (*run_cb)(void *context);
    void *run_context;
};

/** Name the stack that is in use. */
void midge_fiber_init_main(struct midge_fiber *fiber);

/** Make a stack on which run_cb(context) is called at the first switch to it. It must not return:
 * it ends with midge_fiber_end(). */
void midge_fiber_init(struct midge_fiber *fiber, void *context, void (*run_cb)(void *context));

/** Free the stack of a fiber that has ended, or that is never switched to again. */
void midge_fiber_deinit(struct midge_fiber *fiber);

/** Leave `from`, the stack in use, and go on with `to`. Returns when somebody switches back. */
void midge_fiber_switch(struct midge_fiber *from, struct midge_fiber *to);

/** Leave `from` for good. */
_Noreturn void midge_fiber_end(struct midge_fiber *from, struct midge_fiber *to);

#endif
