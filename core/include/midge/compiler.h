/*
 * Attributes and the assertion that stays on in release builds.
 *
 * MIDGE_ASSERT is for programmer errors only: what a peer sends is checked, never asserted.
 */
#ifndef MIDGE_COMPILER_H
#define MIDGE_COMPILER_H

#define MIDGE_MUST_CHECK   __attribute__((warn_unused_result))
#define MIDGE_COLD         __attribute__((cold, noinline))
#define MIDGE_PRINTF(f, a) __attribute__((format(printf, f, a)))
#define MIDGE_LIKELY(x)    __builtin_expect(!!(x), 1)
#define MIDGE_UNLIKELY(x)  __builtin_expect(!!(x), 0)

/* Between two looks at what another core writes: leaves the pipeline to the other thread of this
 * core. */
static inline void midge_cpu_pause(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/** Write one line with the failed expression to standard error and abort. Thread: any (lock-free).
 */
MIDGE_COLD _Noreturn void midge_assert_fail(const char *expression, const char *file, int line);

#define MIDGE_ASSERT(expression)                                                                   \
    (MIDGE_LIKELY(expression) ? (void)0 : midge_assert_fail(#expression, __FILE__, __LINE__))

#ifdef NDEBUG
#define MIDGE_DEBUG_ASSERT(expression) ((void)0)
#else
#define MIDGE_DEBUG_ASSERT(expression) MIDGE_ASSERT(expression)
#endif

#endif
