#!/usr/bin/env python3
"""Compare a small set of figures with the committed baseline, and fail on a loss that repeats.

Every figure is of a kind that a busy machine hardly moves: a ratio within one run, a count, or memory. One
that is more than 15 % above the baseline, or above its bound, is measured again, three times in all, and is
lost only if every time says so. Latency is reported and never decides. See "Regressions" in
docs/BENCHMARKS.md.

Exit status: 0; 1 if something is lost; 2 if it cannot be told: a run failed, or the baseline does not fit.
"""

import argparse
import json
import os
import statistics
import struct
import subprocess
import sys
import tempfile
from collections import namedtuple

HERE = os.path.dirname(os.path.abspath(__file__))
BASELINE = os.path.join(HERE, "baseline.json")
FORMAT = 1
LOSS = 0.15
TRIES = 3
RUN_TIMEOUT_S = 60
MACHINE_KEYS = ("cpu_model", "compiler", "build_flags")

# name    in the baseline
# text    what a reader sees
# part    of the measurement that gives it (and others)
# unit    "" = a ratio, or calls where there is a bound
# bound   None = LOSS above the baseline; a number: at most that, whatever the baseline says
# kind    "machine" = compared with a baseline of the same CPU and build, or where CI=true;
#         "any" = compared everywhere; "report" = never
# how     it is measured
Figure = namedtuple("Figure", "name text part unit bound kind how")

# Calls of the allocator in 100,000 messages and more. Once warm a message takes none. What may come later is
# a block of the pool for a queue deeper than any before, which happens a few times in the life of a server,
# however long: 0 to 7 were seen, in 70,000 messages as in 20 million.
ALLOCATIONS_MAX = 16
ALLOCATIONS_MESSAGES = 100000
ALLOCATIONS_HOW = "calls in a run of at least 100,000 messages more than in a short one, one thread"

FIGURES = (
    Figure("rtt.cpu_over_relay", "round trip: server CPU / bare relay's", "rtt", "", None, "machine",
           "server CPU for a message over the bare relay's (epoll) in the same round, one core, 16 B"),
    Figure("rtt.cpu_over_load", "round trip: server CPU / load's", "rtt", "", None, "machine",
           "server CPU over the CPU of the load's processes in the same run, one core, 16 B"),
    Figure("pub.cpu_over_relay", "publish: server CPU / bare relay's", "pub", "", None, "report",
           "as rtt.cpu_over_relay, 1 to 1, as fast as it goes"),
    Figure("pub.cpu_over_load", "publish: server CPU / load's", "pub", "", None, "machine",
           "as rtt.cpu_over_load, 1 to 1, as fast as it goes"),
    Figure("rtt.instructions", "round trip: instructions", "rtt-count", "instructions", None, "machine",
           "of the server for a round trip, hardware counter"),
    Figure("pub.instructions", "publish: instructions", "pub-count", "instructions", None, "machine",
           "of the server for a message, hardware counter"),
    Figure("workers.allocations", "64 requests in flight: allocator calls", "workers-allocations", "",
           ALLOCATIONS_MAX, "any", ALLOCATIONS_HOW),
    Figure("pub.allocations", "publish: allocator calls", "pub-allocations", "", ALLOCATIONS_MAX,
           "any", ALLOCATIONS_HOW),
    Figure("conns.bytes", "connection: resident memory", "conns", "B", None, "any",
           "VmRSS of the server with 2,000 idle connections less that without, for each"),
    Figure("subs.bytes", "subscription: resident memory", "subs", "B", None, "any",
           "VmRSS of the server with 200,000 subscriptions less that without, for each"),
    Figure("rtt.p50", "round trip: p50", "rtt", "µs", None, "report", "median over rounds, one core, 16 B"),
    Figure("rtt.p50_over_relay", "round trip: p50 / bare relay's", "rtt", "", None, "report",
           "in the same round"),
)
# Not every machine counts instructions, and latency decides nothing.
OPTIONAL = {"rtt.instructions", "pub.instructions"} | {
    figure.name for figure in FIGURES if figure.kind == "report"}
BY_NAME = {figure.name: figure for figure in FIGURES}


class CannotTell(Exception):
    """No verdict: a run failed, or the baseline does not fit."""


# --- measuring ---


class Bench:
    """midge-bench of one build directory against that build's server."""

    def __init__(self, build, server=None, rounds=5, duration_ms=300):
        self.program = os.path.join(build, "midge-bench")
        self.server = server or os.path.join(build, "midge-server")
        self.counter = os.path.join(build, "midge_allocations.so")
        self.rounds = rounds
        self.duration_ms = duration_ms
        self.environment = {}
        for path in (self.program, self.counter):
            if not os.path.exists(path):
                raise CannotTell(f"{path} is not built")

    def run(self, directory, *arguments):
        """What midge-bench writes as JSON. A run that failed is in it and says so."""
        path = os.path.join(directory, "out.json")
        if os.path.exists(path):
            os.unlink(path)
        try:
            done = subprocess.run([self.program, *arguments, "--quiet", "--json", path], capture_output=True,
                                  text=True, timeout=RUN_TIMEOUT_S, check=False)
            with open(path, encoding="utf-8") as file:
                result = json.load(file)
        except subprocess.TimeoutExpired as error:
            raise CannotTell(f"midge-bench {arguments[0]} did not end") from error
        except (OSError, ValueError) as error:
            raise CannotTell(f"midge-bench {arguments[0]}: {done.stderr.strip() or error}") from error
        self.environment = result["environment"]
        return result

    def one(self, directory, *arguments):
        """One run that has figures; it is given a second chance, since a machine can be too busy."""
        for _ in range(2):
            run = self.run(directory, *arguments, "--no-floor")["runs"][0]
            if run["failed"] is None:
                return run
        raise CannotTell(f"midge-bench {arguments[0]}: {run['failed']}")

    def measure(self, part):
        """{name: value or None} of all figures of a part."""
        with tempfile.TemporaryDirectory(prefix="midge-regress-") as directory:
            scenario, _, what = part.partition("-")
            if what == "count":
                return self.instructions(directory, scenario)
            if what == "allocations":
                return self.allocations(directory, scenario)
            if scenario in ("conns", "subs"):
                return self.memory(directory, scenario)
            return self.cpu(directory, scenario)

    def cpu(self, directory, scenario):
        arguments = ["compare", scenario, "--a", self.server, "--rounds", str(self.rounds), "--duration",
                     f"{self.duration_ms}ms", "--warmup", "100ms", "--place", "one", "--metric", "cpu"]
        for _ in range(2):  # a second chance, as in one()
            found = cpu_figures(scenario, self.run(directory, *arguments)["rounds"])
            if found is not None:
                return found
        raise CannotTell(f"midge-bench compare {scenario}: more than half of its rounds failed")

    def instructions(self, directory, scenario):
        run = self.one(directory, scenario, "--server-cmd", self.server, "--instructions", "--place", "one",
                       "--duration", f"{self.duration_ms}ms", "--warmup", "100ms")
        count = run["server"]["instructions_per_message"]
        kind = "user and kernel" if run["server"]["has_kernel_instructions"] else "user"
        return {f"{scenario}.instructions": count, f"{scenario}.instructions.note": count and kind}

    def count_calls(self, directory, scenario, duration_ms):
        """(messages, calls of the allocator) over the whole life of a server.

        It has one thread: with more, a busy one reads /proc/stat now and then to see whether to share its
        load, and a stream takes memory. That goes by the clock, not by messages.
        """
        path = os.path.join(directory, "calls")
        if os.path.exists(path):
            os.unlink(path)
        command = (f"env LD_PRELOAD={self.counter} MIDGE_ALLOCATIONS={path} {self.server} --threads 1 "
                   "-a 127.0.0.1 -p {port}")
        # One request in flight would take ten seconds.
        in_flight = ["--requesters", "4", "--in-flight", "16"] if scenario == "workers" else []
        run = self.one(directory, scenario, "--server-cmd", command, "--duration", f"{duration_ms}ms",
                       "--warmup", "200ms", *in_flight)
        try:
            with open(path, "rb") as file:
                return run["received"], struct.unpack("=Q", file.read())[0]
        except (OSError, struct.error) as error:
            raise CannotTell(f"the calls of the allocator were not counted: {error}") from error

    def allocations(self, directory, scenario):
        """Start, connections and end take the same number of calls in a short run and in a long one."""
        messages, calls = self.count_calls(directory, scenario, 100)
        for duration_ms in (1000, 2000, 4000, 8000):
            messages_long, calls_long = self.count_calls(directory, scenario, duration_ms)
            if messages_long - messages >= ALLOCATIONS_MESSAGES:
                return {f"{scenario}.allocations": max(0, calls_long - calls)}
        raise CannotTell(f"{scenario}: too slow for {ALLOCATIONS_MESSAGES} messages in 8 s")

    def memory(self, directory, scenario):
        count = {"conns": ["--connections", "2000"], "subs": ["--subscriptions", "200000"]}[scenario]
        run = self.one(directory, scenario, "--server-cmd", self.server, *count, "--duration", "100ms")
        return {f"{scenario}.bytes": run["scenario_figures"]["resident_each"]}


def cpu_figures(scenario, rounds):
    """Medians over the rounds in which server and relay were measured; None if those are too few."""
    over_relay, over_load, latencies, latencies_over = [], [], [], []
    for runs in rounds:
        relay = runs["floor"]
        for server in (runs["a"], runs["a-again"]):
            costs = [run["failed"] is None and run["server"]["cpu_per_message_ns"] for run in (server, relay)]
            if not all(costs):  # failed, or stood still all the time
                continue
            over_relay.append(costs[0] / costs[1])
            over_load.append(server["server"]["cpu_ns"] / server["load"]["cpu_ns"])
            both = [run["latency"] and run["latency"]["p50_ns"] for run in (server, relay)]
            if all(both):  # a publish at full speed has no latency, and a slow run too few samples
                latencies.append(both[0])
                latencies_over.append(both[0] / both[1])
    if len(over_relay) < len(rounds):
        return None
    found = {f"{scenario}.cpu_over_relay": statistics.median(over_relay),
             f"{scenario}.cpu_over_load": statistics.median(over_load)}
    if latencies:
        found[f"{scenario}.p50"] = statistics.median(latencies) / 1000
        found[f"{scenario}.p50_over_relay"] = statistics.median(latencies_over)
    return found


# --- baseline ---


def read_baseline(path):
    """The committed figures. Raises CannotTell for whatever cannot be compared with."""
    again = "write a new one with `./dev bench --regress --update`"
    try:
        with open(path, encoding="utf-8") as file:
            baseline = json.load(file)
    except OSError as error:
        raise CannotTell(f"{path}: {error.strerror}; {again}") from error
    except ValueError as error:
        raise CannotTell(f"{path}: not JSON: {error}; {again}") from error
    if not isinstance(baseline, dict) or baseline.get("format") != FORMAT:
        raise CannotTell(f"{path}: its format is not {FORMAT}; {again}")
    if not isinstance(baseline.get("machine"), dict) or not isinstance(baseline.get("figures"), dict):
        raise CannotTell(f"{path}: machine or figures are not there; {again}")
    figures = baseline["figures"]
    for name in BY_NAME:
        if name not in figures:
            raise CannotTell(f"{path}: {name} is not there; {again}")
    for name, entry in figures.items():
        if name not in BY_NAME:
            raise CannotTell(f"{path}: {name} is no figure that is measured; {again}")
        value = entry.get("value", False) if isinstance(entry, dict) else False
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        # A ratio to nothing says nothing; only counts with a bound may be 0, or less by chance.
        is_good = is_number and (value > 0 or BY_NAME[name].bound is not None)
        if not is_good and not (value is None and name in OPTIONAL):
            raise CannotTell(f"{path}: {name} has no value that can be compared with; {again}")
    return baseline


def baseline_of(values, notes, environment):
    """What is committed."""
    figures = {}
    for figure in FIGURES:
        figures[figure.name] = {"value": values[figure.name] and float(f"{values[figure.name]:.4g}"),
                                "unit": unit_of(figure), "how": figure.how}
        if notes.get(figure.name):
            figures[figure.name]["note"] = notes[figure.name]
    machine = {key: environment.get(key) for key in MACHINE_KEYS + ("kernel", "cpus_online")}
    return {"format": FORMAT, "commit": environment.get("commit"), "machine": machine, "figures": figures}


def write_baseline(path, baseline):
    with open(path, "w", encoding="utf-8") as file:
        json.dump(baseline, file, indent=2, ensure_ascii=False)
        file.write("\n")


# --- verdict ---


class Gate:
    """Decides about each figure, and measures again what looks lost.

    `measure(part)` gives {name: value or None} and may be called as often as it takes.
    """

    def __init__(self, baseline, measure, is_strict, tell=lambda text: None):
        self.baseline = baseline
        self.measure = measure
        self.is_strict = is_strict  # also on another machine than the baseline's
        self.tell = tell
        self.tries = {figure.name: [] for figure in FIGURES}
        self.notes = {}

    def limit(self, figure):
        """The most that is not a loss; None: there is nothing to compare with."""
        value = self.baseline["figures"][figure.name]["value"]
        if figure.bound is not None:
            return figure.bound
        return None if value is None else value * (1 + LOSS)

    def decides(self, figure, machine):
        """Can this figure fail?"""
        entry = self.baseline["figures"][figure.name]
        if figure.kind == "report" or self.limit(figure) is None or entry.get("note") != \
                self.notes.get(figure.name):
            return False
        return figure.kind == "any" or self.is_strict or is_same_machine(self.baseline["machine"], machine)

    def measure_part(self, part):
        values = self.measure(part)
        for figure in FIGURES:
            if figure.part == part:
                value = values.get(figure.name)
                if value is None and figure.name not in OPTIONAL:
                    raise CannotTell(f"{figure.name} was not measured")
                self.tries[figure.name].append(value)
                self.notes[figure.name] = values.get(figure.name + ".note")

    def looks_lost(self, figure, machine):
        """Every time up to now?"""
        tries = self.tries[figure.name]
        return (None not in tries and self.decides(figure, machine)
                and all(value > self.limit(figure) for value in tries))

    def run(self, machine_of):
        """All parts, then those again that look lost. `machine_of()` is asked after the first runs."""
        for part in parts():
            self.tell(f"{part}")
            self.measure_part(part)
        machine = machine_of()
        for index in range(2, TRIES + 1):
            again = {figure.part for figure in FIGURES if self.looks_lost(figure, machine)}
            for part in sorted(again):
                self.tell(f"{part}: looks lost, measured again ({index} of {TRIES})")
                self.measure_part(part)
        return [self.verdict(figure, machine) for figure in FIGURES]

    def verdict(self, figure, machine):
        """(figure, tries, limit, what is said, is it lost)"""
        tries = self.tries[figure.name]
        base = self.baseline["figures"][figure.name]["value"]
        limit = self.limit(figure)
        if tries[-1] is None:
            return figure, tries, limit, "not measured here", False
        if figure.kind == "report":
            return figure, tries, limit, "reported", False
        if limit is None:
            return figure, tries, limit, "the baseline has none", False
        if not self.decides(figure, machine):
            return figure, tries, limit, "reported: the baseline is of another machine", False
        if self.looks_lost(figure, machine):
            return figure, tries, limit, "LOST", True
        if len(tries) > 1 and max(tries) > limit:
            return figure, tries, limit, "kept: the loss did not repeat", False
        if figure.bound is None and max(tries) < base / (1 + LOSS):
            return figure, tries, limit, "gained: write a new baseline", False
        return figure, tries, limit, "kept", False


def parts():
    """Each part once, in the order of the figures."""
    return list(dict.fromkeys(figure.part for figure in FIGURES))


def is_same_machine(one, other):
    return all(one.get(key) == other.get(key) for key in MACHINE_KEYS)


# --- output ---


def unit_of(figure):
    return figure.unit or ("ratio" if figure.bound is None else "calls")


def number(value):
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}" if value else "0"


def table(baseline, verdicts):
    lines = ["| figure | baseline | now | change | at most | |", "|---|--:|--:|--:|--:|---|"]
    for figure, tries, limit, text, _ in verdicts:
        base = baseline["figures"][figure.name]["value"]
        now = ", ".join(number(value) for value in tries)
        change = "" if figure.bound is not None or base is None or tries[-1] is None else \
            f"{100 * (min(tries) / base - 1):+.0f} %"
        most = "" if figure.kind == "report" else number(limit)
        name = f"{figure.text} [{figure.unit}]" if figure.unit else figure.text
        lines.append(f"| {name} | {number(base)} | {now} | {change} | {most} | {text} |")
    return "\n".join(lines)


def spread_table(names, samples):
    lines = ["| figure | median | least | most | most / median |", "|---|--:|--:|--:|--:|"]
    for name in names:
        values = [value for value in samples[name] if value is not None]
        if not values:
            lines.append(f"| {name} | not measured | | | |")
            continue
        middle = statistics.median(values)
        share = f"{max(values) / middle:.2f}" if middle > 0 else ""
        lines.append(f"| {name} | {number(middle)} | {number(min(values))} | {number(max(values))} "
                     f"| {share} |")
    return "\n".join(lines)


def repeat(bench, times, tell):
    """{name: values} of so many measurements, and the notes of the last."""
    samples = {figure.name: [] for figure in FIGURES}
    notes = {}
    for index in range(times):
        tell(f"repeat {index + 1} of {times}")
        for part in parts():
            values = bench.measure(part)
            for figure in FIGURES:
                if figure.part == part:
                    samples[figure.name].append(values.get(figure.name))
                    notes[figure.name] = values.get(figure.name + ".note")
    return samples, notes


def update(bench, path, times, tell):
    """Write the medians of several repeats, and show old and new."""
    try:
        old = read_baseline(path)["figures"]
    except CannotTell:
        old = {}
    samples, notes = repeat(bench, times, tell)
    middle = {name: None if None in values else statistics.median(values)
              for name, values in samples.items()}
    new = baseline_of(middle, notes, bench.environment)
    write_baseline(path, new)
    print(spread_table(BY_NAME, samples) + "\n")
    print("| figure | old | new |\n|---|--:|--:|")
    for name, entry in new["figures"].items():
        print(f"| {name} | {number(old.get(name, {}).get('value'))} | {number(entry['value'])} |")
    print(f"\nWritten: {os.path.relpath(path)}. Commit it with the reason for what has changed.")


def check(bench, path, is_strict, tell):
    """@return exit status"""
    baseline = read_baseline(path)
    gate = Gate(baseline, bench.measure, is_strict, tell)
    verdicts = gate.run(lambda: bench.environment)
    print(table(baseline, verdicts) + "\n")
    if not is_same_machine(baseline["machine"], bench.environment):
        for key in MACHINE_KEYS:
            print(f"{key}: {bench.environment.get(key)}; of the baseline: {baseline['machine'].get(key)}")
    lost = [figure.text for figure, *_, is_lost in verdicts if is_lost]
    if not lost:
        print(f"No loss of more than {100 * LOSS:.0f} % against the baseline of {baseline['commit']}.")
        return 0
    print(f"Lost, {TRIES} times out of {TRIES}: {'; '.join(lost)}.")
    print("If that is the price of something better, say so and commit `./dev bench --regress --update`.")
    return 1


def parse_arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--build", default=os.path.join(HERE, "..", "build", "test"), metavar="DIR")
    parser.add_argument("--baseline", default=BASELINE, metavar="FILE")
    parser.add_argument("--server", metavar="COMMAND", help="instead of the build's midge-server")
    parser.add_argument("--update", action="store_true", help="measure and write a new baseline")
    parser.add_argument("--spread", action="store_true", help="only show how much the figures spread")
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="of --update and --spread")
    return parser.parse_args(argv)


def main(argv):
    arguments = parse_arguments(argv)

    def tell(text):
        print(f"regress: {text}", file=sys.stderr, flush=True)

    try:
        bench = Bench(os.path.abspath(arguments.build), arguments.server)
        if arguments.spread:
            print(spread_table(BY_NAME, repeat(bench, arguments.repeats, tell)[0]))
            return 0
        if arguments.update:
            update(bench, arguments.baseline, arguments.repeats, tell)
            return 0
        return check(bench, arguments.baseline, os.environ.get("CI") == "true", tell)
    except CannotTell as error:
        print(f"regress: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
