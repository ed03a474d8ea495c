#!/usr/bin/env python3
"""Compare the round trip of one request through several servers.

Each round starts every server afresh, in an order that rotates, pins server and load to one core, and
sends the same bytes over blocking sockets. Servers are compared within a round; the figure is the median
of those ratios with its 95 % interval, and the relay against itself (A/A) shows what the method cannot
tell apart. The method and its limits are in docs/BENCHMARKS.md.
"""

import argparse
import json
import os
import resource
import shlex
import sys
import tempfile
import time

sys.dont_write_bytecode = True
from measure import document, environment, stats, subjects  # noqa: E402

BASE = "floor"
DEFAULT_SUBJECTS = "floor,floor-again,floor-io_uring,midge,nats"
GOAL = 1.15  # midge-server over the bare relay, p50
NOISY_SHARE = 0.05  # of the measuring core, by others, before the figures are marked as noisy
TRANSPORT_NAMES = {"tcp": "TCP", "unix": "Unix socket"}


def parse_arguments(argv):
    here = os.path.dirname(os.path.abspath(__file__))
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--build", default=os.path.join(here, "..", "build", "release"),
                        help="directory of midge-raw, midge-floor, midge-server")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--count", type=int, default=20000, help="measured requests of each run")
    parser.add_argument("--warmup", type=int, default=2000)
    parser.add_argument("--size", type=int, default=16, help="payload bytes")
    parser.add_argument("--inbox", choices=("unique", "fixed"), default="unique")
    parser.add_argument("--transports", default="tcp,unix")
    parser.add_argument("--subjects", default=DEFAULT_SUBJECTS,
                        help="of floor, floor-again, floor-io_uring, floor+<N>us, midge, nats")
    parser.add_argument("--cpu", type=int, default=max(os.sched_getaffinity(0)),
                        help="core for server and load; default: the last one allowed")
    parser.add_argument("--ports", help="A-B; default: what the kernel picks")
    parser.add_argument("--json", help="where every run and the record of the machine go")
    parser.add_argument("--write", metavar="FILE",
                        help="put the result between the `compare` markers of a Markdown file")
    parser.add_argument("--full", action="store_true",
                        help="100,000 requests a run, enough for p99.9")
    arguments = parser.parse_args(argv)
    if arguments.full:
        arguments.count = max(arguments.count, 100000)
    return arguments


def children_seconds():
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def one_run(subject, transport, arguments, driver, ports, directory):
    """Start the server, run the load, and return what it reported plus what else the machine did."""
    load = ["rtt", "--count", str(arguments.count), "--warmup", str(arguments.warmup), "--size",
            str(arguments.size), "--cpu", str(arguments.cpu), "--inbox", arguments.inbox]
    with subjects.Server(subject, transport, ports.take(), directory, {arguments.cpu}) as server:
        before, load_before = environment.cpu_times(), children_seconds()
        server_before, begin = server.cpu_seconds(), time.monotonic()
        result = server.run_load(driver, load)
        elapsed = time.monotonic() - begin
        if subject.is_relay:
            server.wait_end()  # with its peers; from then on it counts among the children
            own = children_seconds() - load_before
        else:
            server.check_alive()
            own = children_seconds() - load_before + server.cpu_seconds() - server_before
        result["foreign"] = environment.foreign(before, environment.cpu_times(), arguments.cpu, own)
        result["foreign"]["elapsed_s"] = elapsed
        result["command"] = server.command
    if result["server_cpu_ns"] == 0:
        raise subjects.RunFailed(f"{subject.name}: used no CPU time; did another server answer?")
    result["cpu_ns"] = result["server_cpu_ns"] / result["count"]
    return result


def measure(chosen, transport, arguments, driver, progress):
    """All rounds over one transport: a list of {subject name: report}."""
    names = [subject.name for subject in chosen if transport in subject.transports]
    by_name = {subject.name: subject for subject in chosen}
    ports = subjects.Ports(arguments.ports)
    rounds = []
    with tempfile.TemporaryDirectory(prefix="midge-bench-") as directory:
        for index in range(arguments.rounds):
            progress(f"{transport}: round {index + 1} of {arguments.rounds}")
            done = {}
            for name in stats.order(names, index):
                done[name] = one_run(by_name[name], transport, arguments, driver, ports, directory)
            rounds.append(done)
    return rounds


def microseconds(ns):
    return "unknown" if ns is None else f"{ns / 1000:.1f}"


def ratio(result):
    if result is None:
        return ""
    if result["low"] is None:
        return f"{result['median']:.2f}"
    return f"{result['median']:.2f} ({result['low']:.2f}–{result['high']:.2f})"


def table(chosen, transport, rounds):
    """The Markdown table of one transport."""
    lines = [
        "| server | p50 µs | × relay (95 %) | p99 µs | × relay (95 %) | p99.9 µs | CPU µs/request "
        "| × relay (95 %) |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for subject in chosen:
        name = subject.name
        if transport not in subject.transports:
            lines.append(f"| {subject.label} | has no Unix socket | | | | | | |")
            continue
        cells = [subject.label]
        for key in ("p50_ns", "p99_ns", "p999_ns", "cpu_ns"):
            cells.append(microseconds(stats.middle(rounds, name, key)))
            if key != "p999_ns":
                known = stats.compare(rounds, name, BASE, key) if name != BASE else None
                cells.append("1" if name == BASE else ratio(known))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def verdicts(chosen, transport, rounds):
    """Sentences under a table: the goal, midge-server against nats-server, what the A/A row allows."""
    names = {subject.name for subject in chosen if transport in subject.transports}
    lines = []
    if {"midge", BASE} <= names:
        result = stats.compare(rounds, "midge", BASE, "p50_ns")
        met = "met" if result["median"] <= GOAL else "missed"
        lines.append(f"Goal, at most {GOAL} × the bare relay at the median: {met}, {ratio(result)}.")
    if {"midge", "nats"} <= names:
        shares = [f"{text} {ratio(stats.compare(rounds, 'midge', 'nats', key))}"
                  for text, key in (("p50", "p50_ns"), ("p99", "p99_ns"), ("CPU", "cpu_ns"))]
        lines.append("midge-server over nats-server: " + ", ".join(shares) + ".")
    return lines


def noise(rounds_by_transport):
    """How much of the measuring time others had: on the measuring core, and on the other cores."""
    runs = [run["foreign"] for rounds in rounds_by_transport.values()
            for one in rounds for run in one.values()]
    elapsed = sum(run["elapsed_s"] for run in runs) or 1.0
    return {
        "here": sum(run["here_s"] for run in runs) / elapsed,
        "elsewhere": sum(run["elsewhere_s"] for run in runs) / elapsed,
        "steal": sum(run["steal_s"] for run in runs) / elapsed,
    }


def noise_text(shares):
    text = (f"Others used {shares['here']:.1%} of the measuring core and {shares['elsewhere']:.1%} "
            f"of one core elsewhere; the hypervisor kept {shares['steal']:.1%}.")
    if max(shares["here"], shares["elsewhere"], shares["steal"]) > NOISY_SHARE:
        text += " **The machine was not quiet: these figures only show that the tool runs.**"
    return text


def describe(arguments, chosen, missing, record):
    lines = [f"{record['cpu_model']}, {record['cpu_online']} CPUs"
             f"{' (virtual machine)' if record['hypervisor'] else ''}, Linux {record['kernel']}; "
             f"server and load on CPU {arguments.cpu}; {arguments.rounds} rounds of "
             f"{arguments.count:,} requests of {arguments.size} bytes, one in flight, "
             f"{arguments.inbox} reply subjects; commit {record['commit']}."]
    lines.append(f"Command: `{record['command']}`.")
    lines += [f"{subject.label}: `{version}`." for subject in chosen
              if (version := record["versions"].get(subject.name))]
    lines += [f"{name}: not found, left out." for name in missing]
    return lines


def report(arguments, chosen, missing, record, rounds_by_transport):
    """The whole result as Markdown."""
    parts = ["\n".join(describe(arguments, chosen, missing, record))]
    for transport, rounds in rounds_by_transport.items():
        parts.append(f"### {TRANSPORT_NAMES[transport]}")
        parts.append(table(chosen, transport, rounds))
        parts += verdicts(chosen, transport, rounds)
    parts.append(noise_text(noise(rounds_by_transport)))
    return "\n\n".join(parts) + "\n"


def main(argv):
    arguments = parse_arguments(argv)
    names = arguments.subjects.split(",")
    transports = arguments.transports.split(",")
    if BASE not in names or not set(transports) <= set(TRANSPORT_NAMES):
        print("compare: --subjects needs floor; --transports are tcp and unix", file=sys.stderr)
        return 2
    try:
        driver = subjects.driver_path(arguments.build)
        found = {name: subjects.make(name, arguments.build) for name in names}
        chosen = [found[name] for name in names if found[name]]
        missing = [name for name in names if not found[name]]
        if BASE in missing:
            raise subjects.RunFailed("midge-floor is not built")
        record = environment.describe(os.path.dirname(os.path.abspath(__file__)))
        record["versions"] = {subject.name: subject.version() for subject in chosen}
        record["command"] = shlex.join([os.path.basename(__file__), *argv])
        environment.leave_cpu(arguments.cpu)
        rounds = {transport: measure(chosen, transport, arguments, driver,
                                     lambda text: print(text, file=sys.stderr))
                  for transport in transports}
    except subjects.RunFailed as error:
        print(f"compare: {error}", file=sys.stderr)
        return 1
    record["load_after"] = environment.read("/proc/loadavg")
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump({"environment": record, "noise": noise(rounds), "rounds": rounds}, file,
                      indent=1)
            file.write("\n")
    text = report(arguments, chosen, missing, record, rounds)
    print(text, end="")
    if arguments.write:
        document.write(arguments.write, "compare", text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
