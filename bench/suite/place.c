/* On which CPUs server and load run; see place.h. */
#include "place.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *midge_place_name(enum midge_place place)
{
    static const char *const names[] = {"free", "one", "apart", "lists"};

    return names[place];
}

enum midge_status midge_place_find(const char *name, enum midge_place *place_out)
{
    for (uint32_t i = MIDGE_PLACE_FREE; i <= MIDGE_PLACE_APART; i++) {
        if (strcmp(name, midge_place_name((enum midge_place)i)) == 0) {
            *place_out = (enum midge_place)i;
            return MIDGE_OK;
        }
    }
    return MIDGE_E_CONFIG;
}

enum midge_status midge_place_read_list(const char *text, cpu_set_t *cpus_out)
{
    const char *at = text;
    cpu_set_t cpus;

    CPU_ZERO(&cpus);
    for (;;) {
        char *end = NULL;

        if (*at < '0' || *at > '9')
            return MIDGE_E_CONFIG;
        const unsigned long first = strtoul(at, &end, 10);
        unsigned long last = first;

        if (*end == '-' && end[1] >= '0' && end[1] <= '9')
            last = strtoul(end + 1, &end, 10);
        if (first > last || last >= CPU_SETSIZE || (*end != '\0' && *end != ','))
            return MIDGE_E_CONFIG;
        for (unsigned long cpu = first; cpu <= last; cpu++)
            CPU_SET(cpu, &cpus);
        if (*end == '\0')
            break;
        at = end + 1;
    }
    *cpus_out = cpus;
    return MIDGE_OK;
}

/* The first CPU of a list that is not ours to run on. @return it, or CPU_SETSIZE */
static uint32_t first_other(const cpu_set_t *list, const cpu_set_t *allowed)
{
    uint32_t cpu = 0;

    while (cpu < CPU_SETSIZE && (!CPU_ISSET(cpu, list) || CPU_ISSET(cpu, allowed)))
        cpu++;
    return cpu;
}

static enum midge_status check_list(const char *name, const cpu_set_t *list,
                                    const cpu_set_t *allowed)
{
    const uint32_t cpu = first_other(list, allowed);

    if (cpu == CPU_SETSIZE)
        return MIDGE_OK;
    (void)fprintf(stderr, "midge-bench: %s: there is no CPU %u that midge-bench may run on\n", name,
                  cpu);
    return MIDGE_E_CONFIG;
}

static enum midge_status set_lists(struct midge_bench_options *options, const cpu_set_t *allowed)
{
    enum midge_status status = check_list("--server-cpus", &options->server_cpus, allowed);

    if (status == MIDGE_OK)
        status = check_list("--load-cpus", &options->load_cpus, allowed);
    /* Where the server at a URL runs is not known: it may be on any of them. */
    if (status != MIDGE_OK || options->url != NULL)
        return status;
    if (CPU_COUNT(&options->server_cpus) == 0 || CPU_COUNT(&options->load_cpus) == 0) {
        (void)fprintf(stderr, "midge-bench: --server-cpus and --load-cpus go together\n");
        return MIDGE_E_CONFIG;
    }
    CPU_OR(&options->all_cpus, &options->server_cpus, &options->load_cpus);
    return MIDGE_OK;
}

/* The last one: interrupts like the first. */
static void set_one(struct midge_bench_options *options, const cpu_set_t *allowed)
{
    uint32_t last = 0;

    for (uint32_t cpu = 0; cpu < CPU_SETSIZE; cpu++)
        last = CPU_ISSET(cpu, allowed) ? cpu : last;
    CPU_SET(last, &options->server_cpus);
    options->load_cpus = options->server_cpus;
    options->all_cpus = options->server_cpus;
}

/* The first half for the load, the other for the server. */
static enum midge_status set_apart(struct midge_bench_options *options, const cpu_set_t *allowed)
{
    const uint32_t count = (uint32_t)CPU_COUNT(allowed);
    uint32_t seen = 0;

    if (count < 2) {
        (void)fprintf(stderr,
                      "midge-bench: --place apart, as with a rate, needs two CPUs; free and "
                      "one do not\n");
        return MIDGE_E_CONFIG;
    }
    for (uint32_t cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (!CPU_ISSET(cpu, allowed))
            continue;
        seen++;
        CPU_SET(cpu, seen > count / 2 ? &options->server_cpus : &options->load_cpus);
    }
    return MIDGE_OK;
}

enum midge_status midge_place_set_cpus(struct midge_bench_options *options)
{
    cpu_set_t allowed;

    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) {
        (void)fprintf(stderr, "midge-bench: CPU affinity: %s\n", strerror(errno));
        return MIDGE_E_SYSTEM;
    }
    options->all_cpus = allowed;
    switch (options->place) {
    case MIDGE_PLACE_FREE:
        break;
    case MIDGE_PLACE_ONE:
        set_one(options, &allowed);
        break;
    case MIDGE_PLACE_APART:
        return set_apart(options, &allowed);
    case MIDGE_PLACE_LISTS:
        return set_lists(options, &allowed);
    }
    return MIDGE_OK;
}
