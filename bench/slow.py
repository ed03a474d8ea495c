#!/usr/bin/env python3
"""What a stalled subscriber costs the others.

Each round runs the same load twice against a fresh server: publishers and fast subscribers alone, and
with subscribers beside them that read nothing. The figure is the rate with over the rate without, within
the round. The server should close the stalled ones, keep the rate, and hold max_pending of memory for
each at most.
"""

import os
import statistics
import sys
import tempfile

sys.dont_write_bytecode = True
from measure import environment, report, stats, subjects  # noqa: E402

GOAL = 0.90  # rate of the fast subscribers with a stalled one beside them, over that without
MEBIBYTE = 1024 * 1024


def parse_arguments(argv):
    parser = report.parser(__doc__, "slow", 8)
    parser.add_argument("--count", type=int, default=500000, help="messages of each publisher")
    parser.add_argument("--size", type=int, default=128, help="payload bytes")
    parser.add_argument("--publishers", type=int, default=1)
    parser.add_argument("--subscribers", type=int, default=2, help="those that read")
    parser.add_argument("--stalled", type=int, default=1)
    parser.add_argument("--max-pending", type=int, default=8 * MEBIBYTE, help="bytes")
    parser.add_argument("--transport", choices=("tcp", "unix"), default="tcp")
    parser.add_argument("--subjects", default="midge,nats")
    return parser.parse_args(argv)


def one_run(subject, stalled, arguments, driver, ports, directory):
    load = ["pub", "--count", str(arguments.count), "--size", str(arguments.size), "--publishers",
            str(arguments.publishers), "--subscribers", str(arguments.subscribers), "--stalled",
            str(stalled), "--timeout-ms", "15000"]
    with subjects.Server(subject, arguments.transport, ports.take(), directory,
                         {arguments.cpu}) as server:
        result = server.run_load(driver, load)
        result["memory"] = environment.peak_memory(server.process.pid)
    result["cpu_ns"] = result["server_cpu_ns"] / result["delivered"]
    return result


def measure(chosen, arguments, driver):
    """Rounds as {"<name>": report, "<name> stalled": report}."""
    ports = subjects.Ports(arguments.ports)
    runs = [(subject, stalled) for subject in chosen for stalled in (0, arguments.stalled)]
    rounds = []
    with tempfile.TemporaryDirectory(prefix="midge-slow-") as directory:
        config = os.path.join(directory, "server.conf")
        with open(config, "w", encoding="utf-8") as file:
            file.write(f"max_pending: {arguments.max_pending}\n")
        for subject in chosen:
            subject.arguments += ["-c", config]
        for index in range(arguments.rounds):
            print(f"round {index + 1} of {arguments.rounds}", file=sys.stderr)
            done = {}
            for subject, stalled in stats.order(runs, index):
                key = subject.name + (" stalled" if stalled else "")
                done[key] = one_run(subject, stalled, arguments, driver, ports, directory)
            rounds.append(done)
    return rounds


def row(subject, rounds, arguments):
    """Cells of one server, and whether it meets both goals."""
    alone, beside = subject.name, subject.name + " stalled"
    kept = stats.compare(rounds, beside, alone, "delivered_per_s")
    more = statistics.median(one[beside]["memory"] - one[alone]["memory"] for one in rounds)
    closed = sum(one[beside]["stalled_closed"] for one in rounds)
    allowed = arguments.max_pending * arguments.stalled
    cells = [
        subject.label,
        *(f"{stats.middle(rounds, key, 'delivered_per_s') / 1e3:,.0f}" for key in (alone, beside)),
        report.ratio(kept),
        *(f"{stats.middle(rounds, key, 'gap_ns') / 1e6:.1f}" for key in (alone, beside)),
        *(f"{stats.middle(rounds, key, 'cpu_ns') / 1e3:.2f}" for key in (alone, beside)),
        f"{closed} of {arguments.stalled * len(rounds)}",
        f"{more / MEBIBYTE:.1f}",
    ]
    return cells, kept["median"] >= GOAL and more <= allowed


def whole(chosen, rounds, arguments):
    parts = [
        f"{arguments.publishers} publisher(s), {arguments.subscribers} fast and "
        f"{arguments.stalled} stalled subscriber(s), {arguments.count:,} messages of "
        f"{arguments.size} bytes from each publisher, {len(rounds)} rounds, max_pending "
        f"{arguments.max_pending / MEBIBYTE:.0f} MiB, server on CPU {arguments.cpu}, load on the "
        "others.\n",
        "| server | 1000 deliveries/s alone | beside stalled | ratio (95 %) | longest gap ms alone "
        "| beside | CPU µs/delivery alone | beside | stalled closed | memory more, MiB |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    verdicts = []
    for subject in chosen:
        cells, met = row(subject, rounds, arguments)
        parts.append("| " + " | ".join(cells) + " |")
        verdicts.append(f"{subject.label}: at least {GOAL:.0%} of the rate and at most max_pending of "
                        f"memory for each stalled one: {'met' if met else 'missed'}.")
    return "\n".join(parts) + "\n\n" + "\n".join(verdicts) + "\n"


def main(argv):
    arguments = parse_arguments(argv)
    try:
        driver = subjects.driver_path(arguments.build)
        found = [subjects.make(name, arguments.build) for name in arguments.subjects.split(",")]
        chosen = [subject for subject in found
                  if subject and arguments.transport in subject.transports]
        if not chosen:
            raise subjects.RunFailed("no server to measure")
        record = environment.describe(os.path.dirname(os.path.abspath(__file__)))
        environment.leave_cpu(arguments.cpu)
        rounds = measure(chosen, arguments, driver)
    except subjects.RunFailed as error:
        print(f"slow: {error}", file=sys.stderr)
        return 1
    report.write_json(arguments, {"environment": record, "rounds": rounds})
    report.publish(arguments, "slow", whole(chosen, rounds, arguments))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
