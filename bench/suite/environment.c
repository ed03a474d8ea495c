/* The machine beside the figures; see environment.h. */
#include "environment.h"

#include <ctype.h>
#include <dirent.h>
#include <gnu/libc-version.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "quota.h"

#define NS_PER_S 1000000000ull

/* Room for one line of the files that are read; of "flags" in /proc/cpuinfo it takes most. */
#define LINE_CAP 4096u

static const char cpu_directory[] = "/sys/devices/system/cpu";

/* One entry of the record; its value is taken, NULL = no memory. */
struct entry {
    const char *key;
    json_t *value;
};

/* Add all. @return 0, or -1 without memory */
static int add_all(json_t *record, const struct entry *entries, size_t count)
{
    int failed = 0;

    for (size_t i = 0; i < count; i++)
        failed |= json_object_set_new(record, entries[i].key, entries[i].value);
    return failed;
}

/* First line of a file, as JSON text; JSON null if there is none. @return own; NULL without memory
 */
static json_t *read_text(const char *directory, const char *name)
{
    char path[LINE_CAP];
    char line[LINE_CAP];

    (void)snprintf(path, sizeof path, "%s/%s", directory, name);
    FILE *file = fopen(path, "re");
    const bool is_read = file != NULL && fgets(line, sizeof line, file) != NULL;

    if (file != NULL)
        (void)fclose(file);
    if (!is_read)
        return json_null();
    line[strcspn(line, "\n")] = '\0';
    json_t *text = json_string(line);

    return text == NULL ? json_null() : text; /* NULL: not UTF-8 */
}

/* "1" and "0" as true and false. */
static json_t *read_switch(const char *directory, const char *name)
{
    json_t *text = read_text(directory, name);
    json_t *value = json_null();

    if (json_is_string(text))
        value = json_boolean(strcmp(json_string_value(text), "0") != 0);
    json_decref(text);
    return value;
}

/* Of a line "model name\t: AMD EPYC" the part behind the colon, if it begins with the key. */
static const char *value_of(char *line, const char *key)
{
    const size_t len = strlen(key);
    char *colon = strchr(line, ':');

    if (strncmp(line, key, len) != 0 || !isspace((unsigned char)line[len]) || colon == NULL)
        return NULL;
    colon[strcspn(colon, "\n")] = '\0';
    return colon + 1 + strspn(colon + 1, " \t");
}

/* True if the words hold that one. */
static bool has_word(const char *words, const char *word)
{
    const size_t len = strlen(word);

    for (const char *at = strstr(words, word); at != NULL; at = strstr(at + len, word)) {
        if ((at == words || at[-1] == ' ') && (at[len] == ' ' || at[len] == '\0'))
            return true;
    }
    return false;
}

/* A name for the machine that pretends to be one, as its firmware tells it. */
static json_t *name_hypervisor(void)
{
    json_t *name = read_text("/sys/hypervisor", "type");

    if (json_is_null(name))
        name = read_text("/sys/class/dmi/id", "product_name");
    return json_is_null(name) ? json_string("yes") : name;
}

/* Model and hypervisor of the first CPU that /proc/cpuinfo lists; other processors than x86 may
 * name neither. */
static int add_cpu(json_t *record)
{
    FILE *file = fopen("/proc/cpuinfo", "re");
    json_t *model = NULL;
    json_t *hypervisor = NULL;
    char line[LINE_CAP];
    const char *value = NULL;

    while (file != NULL && (model == NULL || hypervisor == NULL) &&
           fgets(line, sizeof line, file) != NULL) {
        if (model == NULL && (value = value_of(line, "model name")) != NULL)
            model = json_string(value);
        else if (hypervisor == NULL && (value = value_of(line, "flags")) != NULL)
            hypervisor = has_word(value, "hypervisor") ? name_hypervisor() : json_string("none");
    }
    if (file != NULL)
        (void)fclose(file);
    return json_object_set_new(record, "cpu_model", model == NULL ? json_null() : model) |
           json_object_set_new(record, "hypervisor", hypervisor == NULL ? json_null() : hypervisor);
}

/* A set of CPUs as the kernel writes it: "0,2-5". @return own; NULL without memory */
static json_t *list_cpus(const cpu_set_t *cpus)
{
    char text[LINE_CAP] = "";
    size_t len = 0;

    for (size_t first = 0; first < CPU_SETSIZE && len + 32 < sizeof text; first++) {
        size_t last = first;

        if (!CPU_ISSET(first, cpus))
            continue;
        while (last + 1 < CPU_SETSIZE && CPU_ISSET(last + 1, cpus))
            last++;
        len += (size_t)snprintf(text + len, sizeof text - len, "%s%zu", len == 0 ? "" : ",", first);
        if (last > first)
            len += (size_t)snprintf(text + len, sizeof text - len, "-%zu", last);
        first = last;
    }
    return json_string(text);
}

static json_t *describe_allowed(void)
{
    cpu_set_t cpus;

    return sched_getaffinity(0, sizeof cpus, &cpus) == 0 ? list_cpus(&cpus) : json_null();
}

static int is_visible(const struct dirent *entry)
{
    return entry->d_name[0] != '.';
}

/* {"spectre_v2": "Mitigation: …", …}; JSON null where the kernel does not say. */
static json_t *describe_mitigations(void)
{
    static const char path[] = "/sys/devices/system/cpu/vulnerabilities";
    struct dirent **entries = NULL;
    const int count = scandir(path, &entries, is_visible, alphasort);
    json_t *mitigations = count < 0 ? json_null() : json_object();

    for (int i = 0; i < count; i++) {
        const char *name = entries[i]->d_name;

        (void)json_object_set_new(mitigations, name, read_text(path, name));
        free(entries[i]);
    }
    free((void *)entries);
    return mitigations;
}

static json_t *describe_quota(void)
{
    double cpus = 0;

    if (!midge_quota_read("/proc/self/cgroup", "/sys/fs/cgroup", &cpus))
        return json_null();
    return cpus > 0 ? json_sprintf("%.2f CPUs", cpus) : json_string("none");
}

static json_t *describe_memory(void)
{
    struct sysinfo info;

    return sysinfo(&info) == 0 ? json_integer((json_int_t)info.totalram * info.mem_unit)
                               : json_null();
}

static json_t *describe_load(void)
{
    double loads[3];

    return getloadavg(loads, 3) == 3 ? json_sprintf("%.2f %.2f %.2f", loads[0], loads[1], loads[2])
                                     : json_null();
}

static json_t *describe_time(void)
{
    const time_t now = time(NULL);
    struct tm parts;
    char text[32];

    if (gmtime_r(&now, &parts) == NULL ||
        strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts) == 0)
        return json_null();
    return json_string(text);
}

static json_t *describe_kernel(void)
{
    struct utsname name;

    return uname(&name) == 0 ? json_sprintf("%s %s %s", name.sysname, name.release, name.machine)
                             : json_null();
}

/* Write a word so that a shell reads it back. */
static void write_word(FILE *file, const char *word)
{
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                                "@%+=:,./-_";

    if (word[0] != '\0' && word[strspn(word, plain)] == '\0') {
        (void)fputs(word, file);
        return;
    }
    (void)fputc('\'', file);
    for (; *word != '\0'; word++) {
        if (*word == '\'')
            (void)fputs("'\\''", file);
        else
            (void)fputc(*word, file);
    }
    (void)fputc('\'', file);
}

/* @return own; NULL without memory */
static json_t *describe_command_line(int argc, char *const *argv)
{
    char *text = NULL;
    size_t len = 0;
    FILE *file = open_memstream(&text, &len);

    if (file == NULL)
        return NULL;
    for (int i = 0; i < argc; i++) {
        if (i > 0)
            (void)fputc(' ', file);
        write_word(file, argv[i]);
    }
    json_t *line = fclose(file) == 0 ? json_string(text) : NULL;

    free(text);
    return line == NULL ? json_null() : line; /* not UTF-8 */
}

static int add_machine(json_t *record)
{
    static const char clock[] = "/sys/devices/system/clocksource/clocksource0";
    static const char pages[] = "/sys/kernel/mm/transparent_hugepage";
    const struct entry entries[] = {
        {"cpus_online", json_integer(sysconf(_SC_NPROCESSORS_ONLN))},
        {"cpus_allowed", describe_allowed()},
        {"cpus_isolated", read_text(cpu_directory, "isolated")},
        {"smt", read_switch(cpu_directory, "smt/active")},
        {"boost", read_switch(cpu_directory, "cpufreq/boost")},
        {"governor", read_text(cpu_directory, "cpu0/cpufreq/scaling_governor")},
        {"idle_driver", read_text(cpu_directory, "cpuidle/current_driver")},
        {"kernel", describe_kernel()},
        {"mitigations", describe_mitigations()},
        {"clock_source", read_text(clock, "current_clocksource")},
        {"memory_bytes", describe_memory()},
        {"huge_pages", read_text(pages, "enabled")},
        {"cgroup_quota", describe_quota()},
        {"load_average", describe_load()},
        {"time_utc", describe_time()},
    };

    return add_all(record, entries, sizeof entries / sizeof entries[0]);
}

static json_t *describe_libraries(void)
{
    return json_pack("{s:s, s:s, s:s}", "glibc", gnu_get_libc_version(), "jansson",
                     jansson_version_str(), "liburing", MIDGE_LIBURING_VERSION);
}

static int add_program(json_t *record, int argc, char *const *argv)
{
    const struct entry entries[] = {
        {"libraries", describe_libraries()},
        {"compiler", json_string(MIDGE_COMPILER)},
        {"build_type", json_string(MIDGE_BUILD_TYPE)},
        {"build_flags", json_string(MIDGE_BUILD_FLAGS)},
        {"midge_bench", json_string(MIDGE_VERSION)},
        {"commit", json_string(MIDGE_COMMIT)},
        {"command_line", describe_command_line(argc, argv)},
    };

    return add_all(record, entries, sizeof entries / sizeof entries[0]);
}

json_t *midge_environment_describe(int argc, char *const *argv)
{
    json_t *record = json_object();

    if (record == NULL)
        return NULL;
    if (add_cpu(record) != 0 || add_machine(record) != 0 || add_program(record, argc, argv) != 0) {
        json_decref(record);
        return NULL;
    }
    return record;
}

/* One line "cpu3 user nice system idle iowait irq softirq steal …" in ticks. Source: proc(5); what
 * a guest used is part of user. */
static void read_cpu_line(const char *line, uint64_t tick_ns, struct midge_environment_times *times)
{
    unsigned long long ticks[8] = {0};
    unsigned cpu = 0;

    if (sscanf(line, "cpu%u %llu %llu %llu %llu %llu %llu %llu %llu", &cpu, &ticks[0], &ticks[1],
               &ticks[2], &ticks[3], &ticks[4], &ticks[5], &ticks[6], &ticks[7]) != 9 ||
        cpu >= MIDGE_ENVIRONMENT_CPUS_MAX)
        return;
    times->busy_ns[cpu] = (ticks[0] + ticks[1] + ticks[2] + ticks[5] + ticks[6]) * tick_ns;
    times->steal_ns[cpu] = ticks[7] * tick_ns;
    if (cpu >= times->cpu_count)
        times->cpu_count = cpu + 1;
}

/* Process ids of ksoftirqd by CPU; 0 = not visible, as in most containers. style: they are the same
 * as long as the machine runs, and looking for them between two readings would disturb a run. */
static pid_t network_pids[MIDGE_ENVIRONMENT_CPUS_MAX];

static void find_network_threads(void)
{
    static bool is_done;
    DIR *directory = is_done ? NULL : opendir("/proc");
    const struct dirent *entry = NULL;

    is_done = true;
    while (directory != NULL && (entry = readdir(directory)) != NULL) {
        char path[64];
        unsigned cpu = 0;

        if (!isdigit((unsigned char)entry->d_name[0]))
            continue;
        (void)snprintf(path, sizeof path, "/proc/%.20s/comm", entry->d_name);
        FILE *file = fopen(path, "re");

        if (file != NULL && fscanf(file, "ksoftirqd/%u", &cpu) == 1 &&
            cpu < MIDGE_ENVIRONMENT_CPUS_MAX)
            network_pids[cpu] = (pid_t)strtol(entry->d_name, NULL, 10);
        if (file != NULL)
            (void)fclose(file);
    }
    if (directory != NULL)
        (void)closedir(directory);
}

/* utime and stime. Source: proc_pid_stat(5); the name of a kernel's thread has no blank. */
static uint64_t read_network(uint32_t cpu, uint64_t tick_ns)
{
    unsigned long long user = 0;
    unsigned long long kernel = 0;
    char path[64];
    FILE *file = NULL;

    if (network_pids[cpu] == 0)
        return 0;
    (void)snprintf(path, sizeof path, "/proc/%d/stat", (int)network_pids[cpu]);
    file = fopen(path, "re");
    if (file == NULL)
        return 0;
    if (fscanf(file, "%*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %llu %llu", &user,
               &kernel) != 2)
        user = kernel = 0;
    (void)fclose(file);
    return (user + kernel) * tick_ns;
}

void midge_environment_read(const cpu_set_t *cpus, struct midge_environment_times *times_out)
{
    const uint64_t tick_ns = NS_PER_S / (uint64_t)sysconf(_SC_CLK_TCK);
    FILE *file = fopen("/proc/stat", "re");
    char line[LINE_CAP];

    memset(times_out, 0, sizeof *times_out);
    /* The CPUs come first. "cpu " without a number is their sum. */
    while (file != NULL && fgets(line, sizeof line, file) != NULL && strncmp(line, "cpu", 3) == 0) {
        if (line[3] != ' ')
            read_cpu_line(line, tick_ns, times_out);
    }
    if (file != NULL)
        (void)fclose(file);
    find_network_threads();
    for (uint32_t i = 0; cpus != NULL && i < times_out->cpu_count && i < CPU_SETSIZE; i++) {
        if (CPU_ISSET(i, cpus))
            times_out->network_ns[i] = read_network(i, tick_ns);
    }
}

/* A CPU that went off-line and came back counts from 0 again. */
static uint64_t difference(uint64_t before, uint64_t after)
{
    return after > before ? after - before : 0;
}

json_t *midge_environment_foreign(const struct midge_environment_times *before,
                                  const struct midge_environment_times *after,
                                  const cpu_set_t *cpus, uint64_t own_ns, uint64_t elapsed_ns)
{
    const uint32_t count =
        before->cpu_count < after->cpu_count ? before->cpu_count : after->cpu_count;
    uint64_t here_ns = 0;
    uint64_t elsewhere_ns = 0;
    uint64_t steal_ns = 0;
    uint64_t network_ns = 0;

    for (uint32_t i = 0; i < count; i++) {
        const uint64_t busy_ns = difference(before->busy_ns[i], after->busy_ns[i]);

        if (i < CPU_SETSIZE && CPU_ISSET(i, cpus))
            here_ns += busy_ns;
        else
            elsewhere_ns += busy_ns;
        steal_ns += difference(before->steal_ns[i], after->steal_ns[i]);
        network_ns += difference(before->network_ns[i], after->network_ns[i]);
    }
    return json_pack("{s:I, s:I, s:I, s:I, s:I}", "elapsed_ns", (json_int_t)elapsed_ns, "here_ns",
                     (json_int_t)difference(own_ns + network_ns, here_ns), "elsewhere_ns",
                     (json_int_t)elsewhere_ns, "steal_ns", (json_int_t)steal_ns, "network_ns",
                     (json_int_t)network_ns);
}
