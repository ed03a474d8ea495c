"""Files as midge-bench writes them, made up: every kind, three servers, two relays, a control, ten rounds.

    report_fixture.py DIRECTORY [SAMPLES]

writes run.json, compare.json, load.json, curve-*.json, suite.json, failed.json (runs that failed, a busy
machine) and spin.json (busy-polling, a control that shows a difference). The figures come from fixed seeds
and say nothing about any server.
"""

import json
import math
import os
import random
import statistics
import sys
from typing import NamedTuple

ROUNDS = 10
BEYOND_MIN = 100
PERCENTILES = {"p50_ns": 0.5, "p90_ns": 0.9, "p99_ns": 0.99, "p999_ns": 0.999, "p9999_ns": 0.9999}
METRICS = {
    "p50": "p50_ns", "p90": "p90_ns", "p99": "p99_ns", "p99.9": "p999_ns", "p99.99": "p9999_ns",
    "max": "max_ns", "cpu": "cpu_per_message_ns", "rate": "rate_per_s", "rss": "resident_bytes",
}  # fmt: skip

ENVIRONMENT = {
    "cpu_model": "AMD EPYC 9454P 48-Core Processor", "cpus_online": 8, "cpus_allowed": "2-7", "smt": "1",
    "governor": "performance", "idle_driver": "acpi_idle", "hypervisor": None, "kernel": "6.12.9-amd64",
    "mitigations": {"spectre_v2": "Mitigation: Enhanced / Automatic IBRS", "meltdown": "Not affected",
                    "spec_rstack_overflow": "Mitigation: Safe RET"},
    "clock_source": "tsc", "memory_bytes": 33_481_203_712, "cgroup_quota": None,
    "load_average": "0.21 0.18 0.11", "time_utc": "2026-03-14T09:26:53Z",
    "libraries": {"liburing": "2.5", "jansson": "2.14", "nats.c": "3.8.2"},
    "compiler": "gcc 13.2.0", "midge_bench": "0.1.0", "commit": "1aa403b",
    "command_line": "midge-bench compare --a midge-server --b nats-server",
}  # fmt: skip


class Server(NamedTuple):
    """How a made-up server behaves."""

    label: str
    command: str
    version: str
    middle_us: float
    width: float  # of the logarithm
    tail: float  # share of late ones
    tail_us: float
    cpu_us: float
    resident_mib: float
    top: int  # messages per second

    def latencies(self, generator, count, speed=1.0, load=0.0):
        """In ns. `speed`: how slow the machine is in this round; `load` 0..1: how full the server is."""
        waiting = load / (1 - load) if load < 1 else 40 * load
        for _ in range(count):
            value = self.middle_us * math.exp(generator.gauss(0, self.width))
            if generator.random() < self.tail:
                value += generator.expovariate(1 / self.tail_us)
            value += self.middle_us * 0.3 * waiting * generator.expovariate(1)
            yield max(1, int(value * speed * 1000))


MIDGE, NATS, FLOOR = "midge-server 0.1.0", "nats-server v2.15.2", "midge-floor 0.1.0"
SERVERS = {
    "a": Server("midge-server", "midge-server", MIDGE, 37.2, 0.10, 0.02, 25, 20.4, 5.4, 310_000),
    "b": Server("nats-server", "nats-server", NATS, 46.1, 0.14, 0.05, 70, 33.7, 17.8, 205_000),
    "c": Server("midge-server, 2 shards", "midge-server --shards 2", MIDGE, 38.4, 0.12, 0.02, 30, 21.9, 6.1,
                420_000),
    "floor": Server("bare relay (epoll)", "midge-floor --engine epoll", FLOOR, 34.8, 0.09, 0.02, 20, 18.3,
                    1.6, 390_000),
    "floor-io_uring": Server("bare relay (io_uring)", "midge-floor --engine io_uring", FLOOR, 35.6, 0.09,
                             0.015, 20, 18.6, 1.7, 380_000),
}  # fmt: skip


def bucket_index(value):
    if value < 2048:
        return value
    shift = value.bit_length() - 11
    return 2048 + (shift - 1) * 1024 + (value >> shift) - 1024


def bucket_highest(index):
    if index < 2048:
        return index
    power, step = divmod(index - 2048, 1024)
    return ((1024 + step + 1) << (power + 1)) - 1


def histogram(samples):
    samples = sorted(samples)
    count = len(samples)
    buckets = {}
    for value in samples:
        index = bucket_index(value)
        buckets[index] = buckets.get(index, 0) + 1
    made = {"count": count, "min_ns": samples[0], "max_ns": samples[-1], "sum_ns": sum(samples),
            "mean_ns": sum(samples) / count, "beyond_count": 0}
    for key, share in PERCENTILES.items():
        rank = math.ceil(share * count - 1e-9)
        highest = min(bucket_highest(bucket_index(samples[rank - 1])), samples[-1])
        made[key] = highest if count - rank >= BEYOND_MIN else None
    made["buckets"] = sorted(map(list, buckets.items()))
    return made


def foreign(generator, share=0.002):
    elapsed = 2_000_000_000
    return {"elapsed_ns": elapsed, "here_ns": int(elapsed * share * generator.random()),
            "elsewhere_ns": int(elapsed * share * 4 * generator.random()),
            "steal_ns": int(elapsed * share / 2)}


def parameters(rate, **more):
    return {"size": 16, "has_headers": False, "rate": rate, "arrivals": "poisson" if rate else None,
            "requesters": 1, "responders": 1, "in_flight": 1 if not rate else 0, "is_spinning": False,
            "warmup_ns": 500_000_000, "duration_ns": 2_000_000_000, **more}


def run(generator, server, samples, rate=0, speed=1.0, **more):
    """One run; `more` replaces parts of it."""
    load = rate / server.top
    service = histogram(server.latencies(generator, samples, speed))
    latency = histogram(server.latencies(generator, samples, speed, min(load, 1.4))) if rate else service
    achieved = min(rate, server.top) if rate else 1e9 / latency["mean_ns"]
    resident = server.resident_mib * (1 << 20)
    cpu = server.cpu_us * 1000 * speed * generator.uniform(0.98, 1.02)
    made = {
        "scenario": "load" if rate else "rtt", "driver": "raw", "driver_version": "plain sockets",
        "transport": "tcp", "place": "apart" if rate else "one", "parameters": parameters(rate),
        "sent": samples, "received": samples, "errors": 0, "timeouts": 0, "lost": 0, "doubled": 0, "wrong": 0,
        "late": int(samples * 0.0002 * generator.random()) if rate else 0, "missed": 0,
        "elapsed_ns": int(samples / achieved * 1e9), "rate_per_s": round(achieved, 3),
        "latency": latency, "service": service if rate else None,
        "server": {"cpu_ns": int(cpu * samples), "cpu_per_message_ns": round(cpu, 1),
                   "resident_bytes": int(resident * generator.uniform(0.98, 1.03)),
                   "peak_bytes": int(resident * 1.05), "cores": round(min(cpu * achieved / 1e9, 0.99), 3)},
        "load": {"cpu_ns": int(cpu * samples * 0.8),
                 "cores": round(min(0.8 * cpu * achieved / 1e9, 1.9), 3)},
        "scenario_figures": {}, "foreign": foreign(generator), "command": server.command, "failed": None,
    }  # fmt: skip
    made.update(more)
    return made


def failed(one, reason):
    """The same run, failed."""
    return {**one, "latency": None, "service": None, "received": one["received"] - 3, "lost": 3,
            "failed": reason}


def figure(one, key):
    if one["failed"]:
        return None
    for part in (one["latency"], one["server"], one):
        if part and part.get(key) is not None:
            return part[key]
    return None


def summary(rounds):
    made = {}
    for subject in rounds[0]:
        made[subject] = {}
        for key in METRICS.values():
            values = [figure(one[subject], key) for one in rounds if not one[subject]["failed"]]
            known = values and None not in values
            made[subject][key] = None
            if known:
                made[subject][key] = {"median": statistics.median(values), "min": min(values),
                                      "max": max(values)}
    return made


def ratio(rounds, subject, base, metric, primary):
    key = METRICS[metric]
    pairs = [(figure(one[subject], key), figure(one[base], key)) for one in rounds]
    values = sorted(above / below for above, below in pairs if above and below)
    made = {"subject": subject, "base": base, "metric": metric, "is_primary": metric == primary,
            "middle": None, "low": None, "high": None, "rounds": len(values), "verdict": "unknown"}
    if not values:
        return made
    made["middle"] = round(statistics.median(values), 4)
    if len(values) >= 6:
        # The middle of the values in place of a bootstrap: it only has to look like an interval.
        made["low"], made["high"] = (round(values[index], 4)
                                     for index in (len(values) // 5, -1 - len(values) // 5))
        made["verdict"] = ("less" if made["high"] < 1 else "more" if made["low"] > 1 else "no difference")
    return made


def compare(samples, seed=1, rate=0, subjects="abc", metric="p50", rounds=ROUNDS, change_cb=None, **more):
    """A comparison; `change_cb(round index, key, run)` may replace a run."""
    generator = random.Random(seed)
    keys = list(subjects) + ["a-again", "floor", "floor-io_uring"]
    measured = []
    for index in range(rounds):
        one = {}
        for key in keys:
            server = SERVERS["a" if key == "a-again" else key]
            speed = 1 + 0.04 * math.sin(index) + generator.gauss(0, 0.012)
            one[key] = run(generator, server, samples, rate, speed, **more)
            if change_cb:
                one[key] = change_cb(index, key, one[key])
        measured.append(one)
    pairs = [(key, "b") for key in subjects if key != "b"] + [(key, "floor") for key in subjects]
    pairs += [("a-again", "a"), ("floor-io_uring", "floor")]
    described = []
    for key in keys:
        server = SERVERS["a" if key == "a-again" else key]
        label = server.label + (" (A/A)" if key == "a-again" else "")
        described.append({"key": key, "label": label, "command": server.command,
                          "version": server.version})
    return {
        "midge_bench": 1, "kind": "compare", "environment": ENVIRONMENT,
        "command_line": "midge-bench compare --a midge-server --b nats-server --c 'midge-server --shards 2' "
                        f"--rounds {rounds}" + (f" --rate {rate} --arrivals poisson" if rate else ""),
        "metric": metric, "subjects": described, "rounds": measured, "summary": summary(measured),
        "ratios": [ratio(measured, above, below, name, metric) for name in METRICS for above, below in pairs],
    }  # fmt: skip


def curve(samples, key="a", seed=3):
    generator = random.Random(seed)
    server = SERVERS[key]
    runs = []
    for share in (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.88, 0.94, 1.08):
        rate = round(server.top * share, -3)
        runs.append(run(generator, server, samples, int(rate)))
    runs[-1].update(late=samples // 20, missed=samples // 50)
    return {
        "midge_bench": 1, "kind": "curve", "environment": ENVIRONMENT,
        "command_line": f"midge-bench curve --server-cmd '{server.command}'", "runs": runs,
        "knee_per_s": runs[-2]["parameters"]["rate"],
        "knee_reason": "at the next rate 5 % of the sends left late",
    }  # fmt: skip


def single(samples, seed=5):
    made = run(random.Random(seed), SERVERS["a"], samples, 50_000, scenario="load")
    return {"midge_bench": 1, "kind": "run", "environment": ENVIRONMENT,
            "command_line": "midge-bench load --rate 50000 --server-cmd midge-server", "runs": [made]}


def with_failures(samples):
    """A server that loses replies in two rounds, another that never answers, and a busy machine."""

    def change(index, key, one):
        one["foreign"] = foreign(random.Random(index), 0.2)
        if key == "b" and index in (3, 7):
            return failed(one, "3 replies were lost")
        if key == "c":
            return failed(one, "the server closed the connection: 'Authorization Violation'")
        return one

    return compare(samples, seed=7, change_cb=change)


def spinning(samples):
    """Busy-polling, five rounds (too few), and an A/A control that shows a difference."""

    def change(_, key, one):
        if key == "a":
            one["server"]["cores"] = 1.98
        one["load"]["cores"] = 1.99
        return one

    made = compare(samples, seed=9, subjects="ab", rounds=5, metric="cpu", change_cb=change,
                   parameters=parameters(0, is_spinning=True))
    made["subjects"][0]["command"] += " --spin-us 50"
    for one in made["ratios"]:
        if one["subject"] == "a-again" and one["metric"] == "cpu":
            one.update(low=1.04, middle=1.06, high=1.08, verdict="more")
    return made


def throughput(samples):
    """A load at full speed: no latencies, figures of its own."""

    def change(_index, _key, one):
        rate = one["rate_per_s"]
        return {**one, "latency": None, "service": None,
                "scenario_figures": {"delivered_per_s": rate * 8, "longest_gap_ns": 1_234_000}}

    return compare(samples, seed=11, metric="rate", change_cb=change, scenario="fanout",
                   parameters=parameters(0, publishers=1, subscribers=8))


def suite(samples):
    def part(file):
        return {key: value for key, value in file.items() if key != "environment"}

    sections = [
        ("Round trip, TCP", "One request in flight: what an idle server takes.", compare(samples)),
        ("Round trip at 50,000/s", "Latency counts from the moment a request was due.",
         compare(samples, seed=2, rate=50_000, metric="p99")),
        ("Fan-out to eight subscribers", "At full speed, which says nothing about latency.",
         throughput(samples)),
        ("Latency against load", "From idle until the server no longer keeps up.", curve(samples, "a")),
        ("Latency against load", "", curve(samples, "b", 4)),
        ("One server by itself", "", single(samples)),
    ]
    return {
        "midge_bench": 1, "kind": "suite", "environment": ENVIRONMENT,
        "command_line": "midge-bench suite --full --json build/bench/suite.json",
        "sections": [{"title": title, "note": note, "file": part(file)}
                     for title, note, file in sections],
    }  # fmt: skip


def write_all(directory, samples):
    files = {
        "run": single(samples), "compare": compare(samples),
        "load": compare(samples, 2, 50_000, metric="p99"), "curve-a": curve(samples, "a"),
        "curve-b": curve(samples, "b", 4), "suite": suite(samples), "failed": with_failures(samples),
        "spin": spinning(samples),
    }  # fmt: skip
    for name, content in files.items():
        with open(os.path.join(directory, name + ".json"), "w", encoding="utf-8") as file:
            json.dump(content, file)


if __name__ == "__main__":
    write_all(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 20_000)
