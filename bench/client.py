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
from measure import clients, environment, report, stats, subjects  # noqa: E402

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
    parser.add_argument("--cases", help="only those whose names begin with one of these: A,B,...")
    parser.add_argument("--short", action="store_true",
                        help="3 rounds of small counts: shows that everything runs, not how fast")
    parser.add_argument("--plan", action="store_true", help="print cases and expected time, and end")
    arguments = parser.parse_args(argv)
    arguments.rounds = arguments.rounds or (3 if arguments.short else 20)
    return arguments


def say(text):
    print(text, file=sys.stderr, flush=True)


class Clients:
    """The measurement: a server, cases, libraries, and what came of each run so far."""

    def __init__(self, arguments, argv):
        self.arguments = arguments
        prefixes = tuple(arguments.cases.split(",")) if arguments.cases else ("",)
        self.cases = [case for case in clients.make(clients.Sizes(arguments.short))
                      if case.name.startswith(prefixes)]
        self.rounds = {case.name: [] for case in self.cases}
        self.failed = {}  # (case, load): why
        self.loads = {name: clients.Load(name, arguments.build)
                      for name in sorted({name for case in self.cases for name in case.names})}
        self.missing = sorted({load.label for load in self.loads.values() if not load.program})
        self.ports = subjects.Ports(arguments.ports)
        self.server = subjects.make(arguments.server, arguments.build)
        self.apart = subjects.make("midge-spinning" if arguments.server == "midge" else "nats",
                                   arguments.build)
        self.relay = subjects.make("floor", arguments.build)
        if not self.server or not self.relay:
            raise subjects.RunFailed(f"{arguments.server}-server or midge-floor is not built")
        others = sorted(os.sched_getaffinity(0) - {arguments.cpu}, reverse=True)
        self.other_cpu = others[0] if others else arguments.cpu
        self.record = environment.describe(os.path.dirname(os.path.abspath(__file__)))
        self.record["command"] = shlex.join([os.path.basename(__file__), *argv])
        self.record["server"] = self.server.version()

    def runs(self, name, case):
        return self.loads[name].program and (case.name, name) not in self.failed

    def one_run(self, case, load, directory):
        """The load always has the measuring core; the server shares it, or has the other one."""
        cpu = self.arguments.cpu
        subject, server_cpu = self.server, cpu
        if load.is_relay:
            subject = self.relay
        elif case.is_apart:
            subject, server_cpu = self.apart, self.other_cpu
        with subjects.Server(subject, "tcp", self.ports.take(), directory, {server_cpu}) as server:
            result = server.watch_load(load.program, case.arguments(load), {cpu})
        clients.derive(result)
        return result

    def one_round(self, index, directory):
        for case in self.cases:
            done = {}
            for name in stats.order(case.names, index):
                if not self.runs(name, case):
                    continue
                try:
                    done[name] = self.one_run(case, self.loads[name], directory)
                except subjects.RunFailed as error:
                    self.failed[case.name, name] = str(error)
                    say(f"client: {case.name}: {name}: FAILED: {error}")
            self.rounds[case.name].append(done)

    def measure(self, directory):
        begin = time.monotonic()
        for index in range(self.arguments.rounds):
            self.one_round(index, directory)
            spent = time.monotonic() - begin
            left = spent / (index + 1) * (self.arguments.rounds - index - 1)
            say(f"client: round {index + 1} of {self.arguments.rounds} done after {spent:.0f} s, "
                f"about {left:.0f} s left")
            self.save()

    def planned_seconds(self):
        return sum(case.planned_seconds(self.arguments.rounds) for case in self.cases)

    def noise(self):
        return report.noise([result for rounds in self.rounds.values() for one in rounds
                             for result in one.values()])

    def save(self):
        report.write_json(self.arguments, {
            "environment": self.record, "noise": self.noise(), "rounds": self.rounds,
            "failed": [{"case": case, "load": name, "why": why}
                       for (case, name), why in self.failed.items()]})

    # What the table says.

    def value(self, case, name, key):
        """Median over the rounds as text, with its unit."""
        if (case, name) in self.failed:
            return "failed"
        found = stats.middle(self.rounds.get(case, []), name, key)
        unit, divisor, decimals = UNITS[key]
        return "" if found is None else f"{found / divisor:,.{decimals}f} {unit}"

    def ratio(self, case, name, base, key):
        if (case, name) in self.failed or (case, base) in self.failed:
            return None
        return stats.compare(self.rounds.get(case, []), name, base, key)

    def verdict(self, row):
        """`met`, `missed`, or why neither can be said."""
        if (row.case, "midge") in self.failed or (not row.is_value and (row.case, row.base) in self.failed):
            return "failed"
        if row.limit is None:
            return ""
        if row.is_value:
            found = stats.middle(self.rounds.get(row.case, []), "midge", row.key)
        else:
            compared = self.ratio(row.case, "midge", row.base, row.key)
            found = compared and compared["median"]
        if found is None:
            return "unknown"
        return "met" if (found >= row.limit if row.is_floor else found <= row.limit) else "**missed**"


def aim(row):
    if row.limit is None:
        return ""
    if row.is_value:
        unit, divisor, _ = UNITS[row.key]
        return f"≤ {row.limit / divisor:,g} {unit}"
    return f"{'≥' if row.is_floor else '≤'} {row.limit:.3g} × {BASES[row.base]}"


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
            aim(row),
            measured.verdict(row),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def describe(measured):
    record, arguments = measured.record, measured.arguments
    libraries = sorted({result["library"] for rounds in measured.rounds.values() for one in rounds
                        for result in one.values() if "library" in result})
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
    arguments = parse_arguments(argv)
    try:
        measured = Clients(arguments, argv)
        say(f"client: {arguments.rounds} rounds of {len(measured.cases)} cases, about "
            f"{measured.planned_seconds() / 60:.0f} min")
        if arguments.plan:
            for case in measured.cases:
                say(f"  {case.name}: {case.planned_seconds(arguments.rounds):.0f} s: "
                    f"{', '.join(case.names)}: {shlex.join(case.load)}")
            return 0
        environment.leave_cpu(arguments.cpu)
        with tempfile.TemporaryDirectory(prefix="midge-client-") as directory:
            measured.measure(directory)
    except subjects.RunFailed as error:
        print(f"client: {error}", file=sys.stderr)
        return 1
    measured.record["load_after"] = environment.read("/proc/loadavg")
    measured.save()
    report.publish(arguments, "client", whole(measured))
    return 1 if measured.failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
