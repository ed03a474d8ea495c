#!/usr/bin/env python3
"""Measure every row of the table of aims, and write it.

Each round starts every server afresh for each case, in an order that rotates. Servers are compared within
a round; the figure is the median of those ratios with its 95 % interval, and one server against itself
(A/A) shows what the method cannot tell apart. A run that lost, doubled or corrupted a message fails, and
its server has no figure in that case. The method and its limits are in docs/BENCHMARKS.md.
"""

import contextlib
import os
import shlex
import statistics
import sys
import tempfile
import time

sys.dont_write_bytecode = True
from measure import cases, report, rounds, stats, subjects  # noqa: E402

PACE_KEPT = 0.99  # of the rate asked for, in the median round; less, and the row says so
IDLE_SETTLE_SECONDS = 2
UNITS = {  # key: (unit, divisor, decimals)
    "p50_ns": ("µs", 1e3, 1), "p999_ns": ("µs", 1e3, 1), "cpu_ns": ("ns", 1, 0),
    "resident_each": ("B", 1, 0), "subscribed_per_s": ("/s", 1, 0), "cpu_share": ("%", 0.01, 3),
}
BASES = {"floor": "relay", "nats": "nats-server", "midge-threads1": "one shard"}


def parse_arguments(argv):
    parser = report.parser(__doc__, "table", None)
    parser.add_argument("--cpu-seconds", type=float, metavar="S",
                        help="CPU time of the server in each run of the CPU rows; default 0.2, 0.1 at a rate")
    return rounds.parse(parser, argv)


def places(cpu):
    """CPUs of the server and of the load for each place."""
    allowed = os.sched_getaffinity(0)
    pair = {cpu, *sorted(allowed - {cpu}, reverse=True)[:1]}
    return {"one": ({cpu}, {cpu}), "all": (allowed, allowed), "shards": (pair, (allowed - pair) or pair)}


def derive(result):
    """CPU time of one request, or of one message published or delivered."""
    if "server_cpu_ns" not in result:
        return
    if result["mode"] in ("rtt", "req"):
        units = result["count"]
    else:
        units = result["published"] + result.get("delivered", 0)
    result["cpu_ns"] = result["server_cpu_ns"] / units
    if result.get("rate"):
        result["rate_kept"] = result.get("published_per_s", result.get("requests_per_s"))


class Table(rounds.Rounds):
    """The measurement: servers, cases, and what came of each run so far."""

    name, kind = "table", "subject"
    units, bases = UNITS, BASES
    pace = ("min", 60, 1)

    def __init__(self, arguments, argv):
        self.sizes = cases.Sizes(arguments.short, arguments.cpu_seconds)
        super().__init__(arguments, argv, cases.make(self.sizes))
        self.has_idle = "idle".startswith(rounds.chosen(arguments))
        self.driver = subjects.driver_path(arguments.build)
        self.places = places(arguments.cpu)
        names = {name for case in self.cases for name in case.everybody()}
        names |= {"midge", "midge-again", "midge-tuned", "nats", "nats-tuned"}
        self.subjects = {name: subjects.make(name, arguments.build) for name in sorted(names)}
        if not self.subjects["midge"]:
            raise subjects.RunFailed("midge-server is not built")
        self.record["versions"] = {name: subject.version() for name, subject in self.subjects.items()
                                   if subject and name in ("midge", "nats")}

    def runs(self, name, case):
        subject = self.subjects[name]
        return subject and case.transport in subject.transports and (case.name, name) not in self.failed

    def planned_seconds(self):
        idle = (self.sizes.idle_seconds + IDLE_SETTLE_SECONDS) if self.has_idle else 0
        return idle + super().planned_seconds()

    def one_run(self, case, name, directory):
        server_cpus, load_cpus = self.places[case.place]
        with subjects.Server(self.subjects[name], case.transport, self.ports.take(), directory,
                             server_cpus) as server:
            result = server.watch_load(self.driver, case.load, load_cpus)
        derive(result)
        return result

    def measure(self, directory):
        super().measure(directory)
        if self.has_idle:
            rounds.say(f"table: {self.arguments.rounds} idle servers of each kind, "
                       f"{self.sizes.idle_seconds} s")
            self.measure_idle(directory)
            self.save()

    def measure_idle(self, directory):
        """As many servers of each kind as there are rounds, all at once: idle ones are in nobody's way."""
        names = [name for name in ("midge", "midge-again", "midge-tuned", "nats", "nats-tuned")
                 if self.subjects[name]]
        done = [{} for _ in range(self.arguments.rounds)]
        with contextlib.ExitStack() as stack:
            servers = []
            for index in range(self.arguments.rounds):
                for name in stats.order(names, index):
                    own = tempfile.mkdtemp(dir=directory)
                    server = subjects.Server(self.subjects[name], "tcp", self.ports.take(), own,
                                             self.places["all"][0])
                    servers.append((index, name, stack.enter_context(server)))
            time.sleep(IDLE_SETTLE_SECONDS)
            before = [(time.monotonic(), server.cpu_seconds()) for _, _, server in servers]
            time.sleep(self.sizes.idle_seconds)
            for (index, name, server), (at, used) in zip(servers, before):
                try:
                    server.check_alive()
                except subjects.RunFailed as error:
                    self.failed["idle", name] = str(error)
                    rounds.say(f"table: idle: {name}: FAILED: {error}")
                    continue
                elapsed = time.monotonic() - at
                done[index][name] = {"mode": "idle", "elapsed_s": elapsed, "command": server.command,
                                       "cpu_share": (server.cpu_seconds() - used) / elapsed}
        self.rounds["idle"] = done

    def noise(self):
        return report.noise([result for case, _, result in self.results() if case != "idle"])

    # What the tables say.

    def is_nothing(self, row):
        """A figure of 0: less is not possible, and a ratio neither."""
        return stats.middle(self.rounds.get(row.case, []), row.subject, row.key) == 0

    def verdict(self, row):
        """… and whether that is at the rate that was asked for."""
        found = super().verdict(row)
        return found + self.pace_note(row) if found in (rounds.MET, rounds.MISSED) else found

    def pace_note(self, row):
        """Server that did not keep the rate asked for: the comparison is not at that rate then."""
        behind = [self.subjects[name].label for name in (row.subject, row.base)
                  if (kept := self.kept(row.case, name)) is not None and kept[0] < PACE_KEPT]
        return f"; pace missed with {' and '.join(behind)}" if behind else ""

    def kept(self, case, name):
        """Share of the asked rate that was kept: median and least of the rounds; None without a rate."""
        shares = [one[name]["rate_kept"] / one[name]["rate"] for one in self.rounds.get(case, [])
                  if one.get(name, {}).get("rate_kept")]
        return (statistics.median(shares), min(shares)) if shares else None


def aims_table(table, wanted):
    lines = ["| measure | relay or one shard | midge-server | nats-server | ratio (95 %) | A/A (95 %) "
             "| tuned ratio (95 %) | aim | result |", "|---|--:|--:|--:|--:|--:|--:|---|---|"]
    for row in wanted:
        if row.case not in table.rounds:
            continue
        nats = table.value(row.case, "nats", row.key)
        if shown := row.base == "floor" and table.ratio(row.case, "nats", "floor", row.key):
            nats += f" = {report.ratio(shown)} × relay"
        tuned = row.tuned and table.ratio(*row.tuned, row.key)
        cells = [
            row.text,
            table.value(row.case, row.base, row.key) if row.base != "nats" else "",
            table.value(row.case, row.subject, row.key),
            nats,
            report.ratio(table.ratio(row.case, row.subject, row.base, row.key)),
            report.ratio(table.ratio(row.case, *row.again, row.key)),
            report.ratio(tuned),
            table.aim(row),
            table.verdict(row),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def spin_verdict(found):
    """Automatic spinning lost if even the low end of its interval is above no spinning."""
    if found is None or found["low"] is None:
        return "unknown"
    return "**lost**" if found["low"] > 1 else "did not lose"


def spread_table(table, wanted):
    lines = ["| measure | midge-server | nats-server | midge-server / nats-server (95 %) | A/A (95 %) "
             "| spinning auto / 0 (95 %) | auto |", "|---|--:|--:|--:|--:|--:|---|"]
    for row in wanted:
        if row.case not in table.rounds:
            continue
        spin = table.ratio(row.case, row.subject, row.still, row.key)
        cells = [
            row.text,
            table.value(row.case, row.subject, row.key),
            table.value(row.case, "nats", row.key),
            report.ratio(table.ratio(row.case, row.subject, "nats", row.key)),
            report.ratio(table.ratio(row.case, *row.again, row.key)),
            report.ratio(spin),
            "did not lose" if table.is_nothing(row) else spin_verdict(spin),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def describe(table):
    record, sizes = table.record, table.sizes
    lines = [f"{report.machine(record)}; {table.arguments.rounds} rounds; commit {record['commit']}.",
             f"Command: `{record['command']}`."]
    lines += [f"{name}-server: `{version}`." for name, version in record["versions"].items()]
    lines += [f"{name}-server: not found, left out." for name in ("midge", "nats")
              if not table.subjects[name]]
    flags = [f"{kind} `{shlex.join([*arguments, *(f'{key}={value}' for key, value in variables.items())])}`"
             for kind, variant in (("midge-server", "tuned"), ("nats-server", "tuned"),
                                   ("nats-server", "lean"))
             for arguments, variables in [subjects.VARIANTS[kind.split("-")[0]][variant]]]
    lines.append(f"Tuned: {flags[0]} and {flags[1]}, for memory {flags[2]}; every third round.")
    lines.append(f"{sizes.requests:,} requests a run on one core, {sizes.requests_p50:,} with tuned servers; "
                 f"{sizes.connections:,} connections, {sizes.subscriptions:,} subscriptions.")
    return lines


def cpu_note(table):
    """How much CPU time stands behind the CPU figures."""
    spent = {}
    for case, name, result in table.results():
        if result["mode"] in ("req", "pub", "subs"):
            spent.setdefault((case, name), []).append(result["server_cpu_ns"] / 1e9)
    if not spent:
        return []
    every = {key: used for key, used in spent.items() if len(used) == table.arguments.rounds} or spent
    return [f"CPU time of a server behind a figure: at least {min(sum(used) for used in every.values()):.2f} "
            f"s over its rounds, {min(min(used) for used in spent.values()):.2f} s in a run."]


def pace_notes(table):
    lines = []
    for case, done in table.rounds.items():
        texts = []
        for name in ("midge", "nats"):
            kept = table.kept(case, name)
            if kept:
                late = statistics.median(one[name]["late_ns"] for one in done if name in one)
                texts.append(f"{name}-server {kept[0]:.1%}, in the worst round {kept[1]:.1%}, "
                             f"at most {late / 1e6:.1f} ms late")
        if texts:
            lines.append(f"{case}: " + "; ".join(texts) + ".")
    return ["Rate kept, of what was asked for: " + " ".join(lines)] if lines else []


def whole(table):
    """The whole result as Markdown."""
    parts = ["\n".join(describe(table)), "### With aims", aims_table(table, cases.rows()),
             "### Unpinned, all cores", spread_table(table, cases.spread_rows())]
    parts += cpu_note(table) + pace_notes(table)
    parts += [f"No figure for {name} in {case}: {why}" for (case, name), why in table.failed.items()]
    parts.append(report.noise_text(table.noise()))
    if table.arguments.short:
        parts.append("**Short runs: these figures only show that the tool runs.**")
    return "\n\n".join(parts) + "\n"


def main(argv):
    return rounds.run(Table, parse_arguments(argv), argv, whole)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
