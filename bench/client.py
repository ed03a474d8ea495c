#!/usr/bin/env python3
"""Measure what a client library costs a program: libmidge beside nats.c and plain blocking sockets.

Each round starts a server afresh for each run, in an order that rotates, with the same responder and the
same publisher on raw sockets. Libraries are compared within a round; the figure is the median of those
ratios with its 95 % interval, and one program against itself (A/A) shows what the method cannot tell
apart. A run in which a reply belongs to another request, or a count is not that of what was published,
fails, and its library has no figure in that case. The method and its limits are in docs/BENCHMARKS.md.
"""

import os
import shlex
import sys
import tempfile
import time

sys.dont_write_bytecode = True
from measure import clients, report, rounds, subjects  # noqa: E402

UNITS = {  # key: (unit, divisor, decimals)
    "p50_ns": ("µs", 1e3, 1), "socket_p50_ns": ("µs", 1e3, 1),
    "added_ns": ("µs", 1e3, 2), "cpu_ns": ("ns", 1, 0),
    "per_cpu_s": ("/s", 1, 0), "resident_each": ("B", 1, 0),
}
BASES = {"natsc": "nats.c", "natsc-asap": "nats.c", "relay": "relay"}


def parse_arguments(argv):
    parser = report.parser(__doc__, "client", None)
    parser.add_argument("--server", choices=("midge", "nats"), default="midge",
                        help="against midge-server or nats-server")
    return rounds.parse(parser, argv)


class Clients(rounds.Rounds):
    """The measurement: a server, cases, libraries, and what came of each run so far."""

    name, kind = "client", "load"
    units, bases = UNITS, BASES

    def __init__(self, arguments, argv):
        super().__init__(arguments, argv, clients.make(clients.Sizes(arguments.short)))
        self.loads = {name: clients.Load(name, arguments.build)
                      for name in sorted({name for case in self.cases for name in case.names})}
        self.missing = sorted({load.label for load in self.loads.values() if not load.program})
        self.server = subjects.make(arguments.server, arguments.build)
        self.apart = subjects.make("midge-spinning" if arguments.server == "midge" else "nats",
                                   arguments.build)
        self.relay = subjects.make("floor", arguments.build)
        if not self.server or not self.relay:
            raise subjects.RunFailed(f"{arguments.server}-server or midge-floor is not built")
        others = sorted(os.sched_getaffinity(0) - {arguments.cpu}, reverse=True)
        self.other_cpu = others[0] if others else arguments.cpu
        self.record["server"] = self.server.version()

    def runs(self, name, case):
        return self.loads[name].program and (case.name, name) not in self.failed

    def one_run(self, case, name, directory):
        """The load always has the measuring core; the server shares it, or has the other one."""
        cpu = self.arguments.cpu
        load = self.loads[name]
        subject, server_cpu = self.server, cpu
        if load.is_relay:
            subject = self.relay
        elif case.is_apart:
            subject, server_cpu = self.apart, self.other_cpu
        with subjects.Server(subject, "tcp", self.ports.take(), directory, {server_cpu}) as server:
            result = server.watch_load(load.program, case.arguments(load), {cpu})
        clients.derive(result)
        return result


def table(measured, wanted):
    lines = ["| measure | no library | libmidge | nats.c | ratio (95 %) | A/A (95 %) | aim | result |",
             "|---|--:|--:|--:|--:|--:|---|---|"]
    for row in wanted:
        if row.case not in measured.rounds:
            continue
        cells = [
            row.text,
            measured.value(row.case, row.neutral, row.neutral_key) if row.neutral else "",
            measured.value(row.case, "midge", row.key),
            measured.value(row.case, row.other, row.key),
            report.ratio(measured.ratio(row.case, "midge", row.base, row.key)),
            report.ratio(measured.ratio(row.case, *row.again, row.key)),
            measured.aim(row),
            measured.verdict(row),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def describe(measured):
    record, arguments = measured.record, measured.arguments
    libraries = sorted({result["library"] for _, _, result in measured.results() if "library" in result})
    lines = [f"{report.machine(record)}; load on CPU {arguments.cpu}; {arguments.rounds} rounds; "
             f"commit {record['commit']}.",
             f"Command: `{record['command']}`.",
             f"Server: `{record['server']}`. Libraries: {', '.join(libraries)}."]
    if measured.missing:
        lines.append(f"Not built, left out: {', '.join(measured.missing)}.")
    return "\n".join(lines)


def whole(measured):
    """The whole result as Markdown."""
    parts = [describe(measured), table(measured, clients.rows())]
    parts += [f"No figure for {measured.loads[name].label} in {case}: {why}"
              for (case, name), why in measured.failed.items()]
    parts.append(report.noise_text(measured.noise()))
    if measured.arguments.short:
        parts.append("**Short runs: these figures only show that the tool runs.**")
    return "\n\n".join(parts) + "\n"


def main(argv):
    return rounds.run(Clients, parse_arguments(argv), argv, whole)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
