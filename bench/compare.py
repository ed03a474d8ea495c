#!/usr/bin/env python3
"""Compare the round trip of one request through several servers.

Each round starts every server afresh, in an order that rotates, pins server and load to one core, and
sends the same bytes over blocking sockets. Servers are compared within a round; the figure is the median
of those ratios with its 95 % interval, and the relay against itself (A/A) shows what the method cannot
tell apart. The method and its limits are in docs/BENCHMARKS.md.
"""

import os
import shlex
import sys
import tempfile

sys.dont_write_bytecode = True
from measure import environment, report, stats, subjects  # noqa: E402

BASE = "floor"
DEFAULT_SUBJECTS = "floor,floor-again,floor-io_uring,midge,nats"
GOAL = 1.15  # midge-server over the bare relay, p50
TRANSPORT_NAMES = {"tcp": "TCP", "unix": "Unix socket"}


def parse_arguments(argv):
    parser = report.parser(__doc__, "compare", 20)
    parser.add_argument("--count", type=int, default=20000, help="measured requests of each run")
    parser.add_argument("--warmup", type=int, default=2000)
    parser.add_argument("--size", type=int, default=16, help="payload bytes")
    parser.add_argument("--inbox", choices=("unique", "fixed"), default="unique")
    parser.add_argument("--transports", default="tcp,unix")
    parser.add_argument("--subjects", default=DEFAULT_SUBJECTS,
                        help="of floor, floor-again, floor-io_uring, floor+<N>us, midge, nats")
    parser.add_argument("--full", action="store_true",
                        help="100,000 requests a run, enough for p99.9")
    arguments = parser.parse_args(argv)
    if arguments.full:
        arguments.count = max(arguments.count, 100000)
    return arguments


def one_run(subject, transport, arguments, driver, ports, directory):
    """Start the server, run the load, and return what it reported plus what else the machine did."""
    load = ["rtt", "--count", str(arguments.count), "--warmup", str(arguments.warmup), "--size",
            str(arguments.size), "--inbox", arguments.inbox]
    cpus = {arguments.cpu}
    with subjects.Server(subject, transport, ports.take(), directory, cpus) as server:
        result = server.watch_load(driver, load, cpus)
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
                cells.append("1" if name == BASE else report.ratio(known))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def verdicts(chosen, transport, rounds):
    """Sentences under a table: the goal, midge-server against nats-server, what the A/A row allows."""
    names = {subject.name for subject in chosen if transport in subject.transports}
    lines = []
    if {"midge", BASE} <= names:
        result = stats.compare(rounds, "midge", BASE, "p50_ns")
        met = "met" if result["median"] <= GOAL else "missed"
        lines.append(f"Goal, at most {GOAL} × the bare relay at the median: {met}, {report.ratio(result)}.")
    if {"midge", "nats"} <= names:
        shares = [f"{text} {report.ratio(stats.compare(rounds, 'midge', 'nats', key))}"
                  for text, key in (("p50", "p50_ns"), ("p99", "p99_ns"), ("CPU", "cpu_ns"))]
        lines.append("midge-server over nats-server: " + ", ".join(shares) + ".")
    return lines


def noise(rounds_by_transport):
    return report.noise([run for rounds in rounds_by_transport.values()
                         for one in rounds for run in one.values()])


def describe(arguments, chosen, missing, record):
    lines = [f"{report.machine(record)}; server and load on CPU {arguments.cpu}; "
             f"{arguments.rounds} rounds of {arguments.count:,} requests of {arguments.size} bytes, "
             f"one in flight, {arguments.inbox} reply subjects; commit {record['commit']}."]
    lines.append(f"Command: `{record['command']}`.")
    lines += [f"{subject.label}: `{version}`." for subject in chosen
              if (version := record["versions"].get(subject.name))]
    lines += [f"{name}: not found, left out." for name in missing]
    return lines


def whole(arguments, chosen, missing, record, rounds_by_transport):
    """The whole result as Markdown."""
    parts = ["\n".join(describe(arguments, chosen, missing, record))]
    for transport, rounds in rounds_by_transport.items():
        parts.append(f"### {TRANSPORT_NAMES[transport]}")
        parts.append(table(chosen, transport, rounds))
        parts += verdicts(chosen, transport, rounds)
    parts.append(report.noise_text(noise(rounds_by_transport)))
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
    report.write_json(arguments, {"environment": record, "noise": noise(rounds), "rounds": rounds})
    report.publish(arguments, "compare", whole(arguments, chosen, missing, record, rounds))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
