/* The figures of a run that are compared and shown; see metric.h. */
#include "metric.h"

#include <math.h>
#include <string.h>

const struct midge_metric midge_metrics[MIDGE_METRICS] = {
    [MIDGE_METRIC_P50] = {"p50", "p50_ns", "latency", "p50 µs", 1e3, 1, " µs", true},
    [MIDGE_METRIC_P90] = {"p90", "p90_ns", "latency", "p90 µs", 1e3, 1, " µs", true},
    [MIDGE_METRIC_P99] = {"p99", "p99_ns", "latency", "p99 µs", 1e3, 1, " µs", true},
    [MIDGE_METRIC_P999] = {"p99.9", "p999_ns", "latency", "p99.9 µs", 1e3, 1, " µs", true},
    [MIDGE_METRIC_P9999] = {"p99.99", "p9999_ns", "latency", "p99.99 µs", 1e3, 1, " µs", true},
    [MIDGE_METRIC_MAX] = {"max", "max_ns", "latency", "max µs", 1e3, 0, " µs", true},
    [MIDGE_METRIC_CPU] = {"cpu", "cpu_per_message_ns", "server", "CPU µs/message", 1e3, 2, " µs",
                          true},
    [MIDGE_METRIC_RATE] = {"rate", "rate_per_s", NULL, "1000/s", 1e3, 1, "/s", true},
    [MIDGE_METRIC_RESIDENT] = {"rss", "resident_bytes", "server", "RSS MiB", 1048576, 1, " MiB",
                               true},
    [MIDGE_METRIC_EACH] = {"each", "resident_each", "scenario_figures", "bytes each", 1, 0,
                           " bytes", true},
    [MIDGE_METRIC_SETUP] = {"setup", "setup_per_s", "scenario_figures", "1000 set up/s", 1e3, 1,
                            "/s", true},
    [MIDGE_METRIC_IDLE] = {"idle", "idle_cores", "scenario_figures", "idle CPU ms/s", 1e-3, 3,
                           " ms/s", true},
    [MIDGE_METRIC_NEAR_CPU] = {"near-cpu", "near_cpu_per_message_ns", "load", "near CPU µs/message",
                               1e3, 2, " µs", true},
    [MIDGE_METRIC_LOAD_CPU] = {"load-cpu", "cpu_per_message_ns", "load", "load CPU µs/message", 1e3,
                               2, " µs", true},
    [MIDGE_METRIC_LOAD_EACH] = {"load-each", "client_resident_each", "scenario_figures",
                                "client bytes each", 1, 0, " bytes", true},
    [MIDGE_METRIC_CORES] = {"cores", "cores", "server", "server cores", 1, 2, " cores", false},
    [MIDGE_METRIC_LOAD_CORES] = {"load-cores", "cores", "load", "load cores", 1, 2, " cores",
                                 false},
};

bool midge_metric_has_failed(const json_t *run)
{
    return !json_is_null(json_object_get(run, "failed"));
}

double midge_metric_of(const json_t *run, enum midge_metric_index metric)
{
    const struct midge_metric *which = &midge_metrics[metric];
    const json_t *object = which->object == NULL ? run : json_object_get(run, which->object);
    const json_t *value = json_object_get(object, which->key);

    if (midge_metric_has_failed(run) || !json_is_number(value))
        return NAN;
    return json_number_value(value);
}

bool midge_metric_is_of(enum midge_metric_index metric, const struct midge_run_options *run)
{
    const bool is_idle = run->scenario == MIDGE_RUN_CONNS;

    switch (metric) {
    case MIDGE_METRIC_P50:
    case MIDGE_METRIC_P90:
    case MIDGE_METRIC_P99:
    case MIDGE_METRIC_P999:
    case MIDGE_METRIC_P9999:
    case MIDGE_METRIC_MAX:
        /* As fast as it goes, latency would be that of the queues. */
        return run->rate > 0 || is_idle || run->scenario == MIDGE_RUN_RTT ||
               run->scenario == MIDGE_RUN_WORKERS;
    case MIDGE_METRIC_CPU:
    case MIDGE_METRIC_RATE:
    case MIDGE_METRIC_LOAD_CPU:
    case MIDGE_METRIC_CORES:
    case MIDGE_METRIC_LOAD_CORES:
        return !is_idle;
    case MIDGE_METRIC_RESIDENT:
        return true;
    case MIDGE_METRIC_EACH:
    case MIDGE_METRIC_SETUP:
        return is_idle || run->scenario == MIDGE_RUN_SUBS;
    case MIDGE_METRIC_NEAR_CPU:
        return run->far_driver != NULL;
    case MIDGE_METRIC_IDLE:
    case MIDGE_METRIC_LOAD_EACH:
        return is_idle;
    case MIDGE_METRICS:
        break;
    }
    return false;
}

enum midge_status midge_metric_find(const char *name, uint32_t *metric_out)
{
    for (uint32_t i = 0; i < MIDGE_METRICS; i++) {
        if (midge_metrics[i].is_compared && strcmp(name, midge_metrics[i].name) == 0) {
            *metric_out = i;
            return MIDGE_OK;
        }
    }
    return MIDGE_E_CONFIG;
}
