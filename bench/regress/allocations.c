/*
 * Counts the calls of the allocator by a program that nobody has to change: a library for
 * LD_PRELOAD.
 *
 * The count, 8 bytes in the machine's order, stands in the file that $MIDGE_ALLOCATIONS names and
 * outlives the program, however it ends. Every call that may take memory counts, by all threads and
 * all libraries of the process: malloc, calloc, realloc, posix_memalign, aligned_alloc and
 * memalign. free() does not: who takes nothing has nothing to give back. Without the file the
 * program ends, since a count of 0 that nobody counted would look like a good one.
 *
 * Thread: any (lock-free).
 */
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

/* What glibc's own allocator is called for those who stand in front of it. dlsym() would not do: it
 * allocates. Source: glibc 2.36, malloc/malloc.c. */
void *__libc_malloc(size_t len);
void *__libc_calloc(size_t count, size_t len);
void *__libc_realloc(void *block, size_t len);
void *__libc_memalign(size_t alignment, size_t len);

#define EXPORT __attribute__((visibility("default")))

/* Calls from before the file is mapped, of the dynamic loader and of constructors before ours, go
 * into the first, which is then what the file begins with. style: two globals that change; the
 * functions of an allocator have no other place to look. */
static _Atomic uint64_t early;
static _Atomic uint64_t *_Atomic counter = &early;

static void count_call(void)
{
    /* Acquire pairs with the release in begin(): the file is mapped. */
    _Atomic uint64_t *const now = atomic_load_explicit(&counter, memory_order_acquire);

    /* Relaxed: the count orders nothing. */
    (void)atomic_fetch_add_explicit(now, 1, memory_order_relaxed);
}

static void fail(const char *why, size_t len)
{
    /* A stream would allocate. */
    if (write(STDERR_FILENO, why, len) < 0)
        _exit(EXIT_FAILURE + 1);
    _exit(EXIT_FAILURE);
}

__attribute__((constructor)) static void begin(void)
{
    static const char why[] = "allocations: cannot map the file that MIDGE_ALLOCATIONS names\n";
    const char *path = getenv("MIDGE_ALLOCATIONS");
    const int fd = path == NULL ? -1 : open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    void *mapped = MAP_FAILED;

    if (fd >= 0 && ftruncate(fd, sizeof early) == 0)
        mapped = mmap(NULL, sizeof early, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (fd >= 0)
        (void)close(fd);
    if (mapped == MAP_FAILED)
        fail(why, sizeof why - 1);
    _Atomic uint64_t *const shared = mapped;

    atomic_store_explicit(shared, atomic_load_explicit(&early, memory_order_relaxed),
                          memory_order_relaxed);
    /* Release pairs with the acquire in count_call(). */
    atomic_store_explicit(&counter, shared, memory_order_release);
}

/* style: names and parameters are those of the allocator that these stand in front of, which
 * names them as only libc may: NOLINTBEGIN(readability-inconsistent-declaration-parameter-name) */
EXPORT void *malloc(size_t len)
{
    count_call();
    return __libc_malloc(len);
}

/* style: as above */
EXPORT void *calloc(size_t count, size_t len)
{
    count_call();
    return __libc_calloc(count, len);
}

/* style: as above */
EXPORT void *realloc(void *block, size_t len)
{
    count_call();
    return __libc_realloc(block, len);
}

/* style: as above */
EXPORT void *memalign(size_t alignment, size_t len)
{
    count_call();
    return __libc_memalign(alignment, len);
}

/* style: as above */
EXPORT void *aligned_alloc(size_t alignment, size_t len)
{
    count_call();
    return __libc_memalign(alignment, len);
}

/* style: as above */
EXPORT int posix_memalign(void **block_out, size_t alignment, size_t len)
{
    const int error_before = errno;
    void *block = NULL;

    if (alignment % sizeof(void *) != 0 || alignment == 0 || (alignment & (alignment - 1)) != 0)
        return EINVAL;
    count_call();
    block = __libc_memalign(alignment, len);
    errno = error_before; /* it is returned, not set */
    if (block == NULL)
        return ENOMEM;
    *block_out = block;
    return 0;
}

/* NOLINTEND(readability-inconsistent-declaration-parameter-name) */
