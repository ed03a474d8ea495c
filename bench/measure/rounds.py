"""Rounds of cases: what the measurement of the table of aims and that of client libraries share."""

import os
import shlex
import sys
import tempfile
import time

from . import environment, report, stats, subjects


MET, MISSED = "met", "**missed**"


def parse(parser, argv):
    """Add the options of such a measurement, and parse."""
    parser.add_argument("--cases", help="only those whose names begin with one of these: A,B,...")
    parser.add_argument("--short", action="store_true",
                        help="3 rounds of small counts: shows that everything runs, not how fast")
    parser.add_argument("--plan", action="store_true", help="print cases and expected time, and end")
    arguments = parser.parse_args(argv)
    arguments.rounds = arguments.rounds or (3 if arguments.short else 20)
    return arguments


def chosen(arguments):
    """Prefixes of the names of the cases that are asked for."""
    return tuple(arguments.cases.split(",")) if arguments.cases else ("",)


def say(text):
    print(text, file=sys.stderr, flush=True)


class Row:
    """One line of a table: a figure of a case, its base, its aim.

    `limit`, if there is an aim, is what the ratio to `base` may be at most, or, with `is_floor`, must be at
    least; with `is_value` it is what the figure itself may be at most. `again` are the two subjects whose
    ratio shows what the method cannot tell apart.
    """

    def __init__(self, text, case, key, base, limit, is_floor, is_value, subject, again):
        self.text = text
        self.case = case
        self.key = key
        self.base = base
        self.limit = limit
        self.is_floor = is_floor
        self.is_value = is_value
        self.subject = subject
        self.again = again


class Rounds:
    """Cases, who takes part in them, and what came of each run so far.

    A subclass says how it is called (`name`), what those are that take part (`kind`), how their figures are
    shown (`units`, key: unit, divisor, decimals; `bases`), and in which unit time goes by; and it has
    runs() and one_run(). Of a case it needs name, load, everybody(), turn() and planned_seconds().
    """

    name = kind = None
    units = bases = None
    pace = ("s", 1, 0)  # unit, seconds in it, decimals

    def __init__(self, arguments, argv, cases):
        self.arguments = arguments
        self.cases = [case for case in cases if case.name.startswith(chosen(arguments))]
        self.rounds = {case.name: [] for case in self.cases}
        self.failed = {}  # (case, who): why
        self.ports = subjects.Ports(arguments.ports)
        self.record = environment.describe(os.path.dirname(os.path.abspath(__file__)))
        self.record["command"] = shlex.join([f"{self.name}.py", *argv])

    def runs(self, name, case):
        """True if it can take part, and has not failed."""
        raise NotImplementedError

    def one_run(self, case, name, directory):
        """What came of it. Raises RunFailed."""
        raise NotImplementedError

    def planned_seconds(self):
        return sum(case.planned_seconds(self.arguments.rounds) for case in self.cases)

    def one_round(self, index, directory):
        for case in self.cases:
            done = {}
            names = case.turn(index)
            for name in stats.order(names, index) if names else []:
                if not self.runs(name, case):
                    continue
                try:
                    done[name] = self.one_run(case, name, directory)
                except subjects.RunFailed as error:
                    self.failed[case.name, name] = str(error)
                    say(f"{self.name}: {case.name}: {name}: FAILED: {error}")
            self.rounds[case.name].append(done)

    def measure(self, directory):
        begin = time.monotonic()
        unit, seconds, decimals = self.pace
        for index in range(self.arguments.rounds):
            self.one_round(index, directory)
            spent = (time.monotonic() - begin) / seconds
            left = spent / (index + 1) * (self.arguments.rounds - index - 1)
            say(f"{self.name}: round {index + 1} of {self.arguments.rounds} done after "
                f"{spent:.{decimals}f} {unit}, about {left:.{decimals}f} {unit} left")
            self.save()

    def results(self):
        """Every run so far: (case name, who, report)."""
        return [(case, name, result) for case, rounds in self.rounds.items()
                for one in rounds for name, result in one.items()]

    def noise(self):
        return report.noise([result for _, _, result in self.results()])

    def save(self):
        report.write_json(self.arguments, {
            "environment": self.record, "noise": self.noise(), "rounds": self.rounds,
            "failed": [{"case": case, self.kind: name, "why": why}
                       for (case, name), why in self.failed.items()]})

    # What the tables say.

    def value(self, case, name, key):
        """Median over the rounds as text, with its unit."""
        if (case, name) in self.failed:
            return "failed"
        found = stats.middle(self.rounds.get(case, []), name, key)
        unit, divisor, decimals = self.units[key]
        return "" if found is None else f"{found / divisor:,.{decimals}f} {unit}"

    def ratio(self, case, name, base, key):
        if (case, name) in self.failed or (case, base) in self.failed:
            return None
        return stats.compare(self.rounds.get(case, []), name, base, key)

    def verdict(self, row):
        """MET, MISSED, or why neither can be said."""
        if (row.case, row.subject) in self.failed or \
                (not row.is_value and (row.case, row.base) in self.failed):
            return "failed"
        if row.limit is None:
            return ""
        if row.is_value:
            found = stats.middle(self.rounds.get(row.case, []), row.subject, row.key)
        else:
            compared = self.ratio(row.case, row.subject, row.base, row.key)
            found = compared and compared["median"]
        if found is None:
            return "unknown"
        return MET if (found >= row.limit if row.is_floor else found <= row.limit) else MISSED

    def aim(self, row):
        if row.limit is None:
            return ""
        if row.is_value:
            unit, divisor, _ = self.units[row.key]
            return f"≤ {row.limit / divisor:,g} {unit}"
        return f"{'≥' if row.is_floor else '≤'} {row.limit:.3g} × {self.bases[row.base]}"


def run(kind, arguments, argv, whole):
    """Plan or measure with a subclass of Rounds, and publish what whole() makes of it, in Markdown.

    Returns the exit status.
    """
    try:
        measured = kind(arguments, argv)
        say(f"{kind.name}: {arguments.rounds} rounds of {len(measured.cases)} cases, about "
            f"{measured.planned_seconds() / 60:.0f} min")
        if arguments.plan:
            for case in measured.cases:
                say(f"  {case.name}: {case.planned_seconds(arguments.rounds):.0f} s: "
                    f"{', '.join(case.everybody())}: {shlex.join(case.load)}")
            return 0
        environment.leave_cpu(arguments.cpu)
        with tempfile.TemporaryDirectory(prefix=f"midge-{kind.name}-") as directory:
            measured.measure(directory)
    except subjects.RunFailed as error:
        print(f"{kind.name}: {error}", file=sys.stderr)
        return 1
    measured.record["load_after"] = environment.read("/proc/loadavg")
    measured.save()
    report.publish(arguments, kind.name, whole(measured))
    return 1 if measured.failed else 0
