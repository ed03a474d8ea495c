"""The table: every row has runs to read, a failed run gives no figure, and all of it runs."""

import json
import os
import subprocess
import sys
import tempfile
import unittest
from types import SimpleNamespace

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "bench"))
import table  # noqa: E402
from measure import cases  # noqa: E402


def table_of(rounds, failed=()):
    """A table that has measured already."""
    one = table.Table.__new__(table.Table)
    one.rounds = rounds
    one.failed = {key: "why" for key in failed}
    one.subjects = {name: SimpleNamespace(label=name) for name in ("midge", "nats")}
    return one


def rounds_of(key, **values):
    return [{name: {key: value} for name, value in values.items()} for _ in range(8)]


class Rows(unittest.TestCase):
    def test_every_row_reads_servers_that_its_case_runs(self):
        made = {case.name: case for case in cases.make(cases.Sizes())}
        spread = cases.spread_rows()
        for row in cases.rows() + spread:
            if row.case == "idle":
                continue
            runs = made[row.case].names + made[row.case].sometimes
            for name in (row.subject, *row.again):
                self.assertIn(name, runs, row.text)
            if row in spread:
                self.assertIn(row.still, runs, row.text)
            if row.tuned:
                case, *names = row.tuned
                for name in names:
                    self.assertIn(name, made[case].names + made[case].sometimes, row.text)

    def test_full_runs_have_samples_enough_for_the_highest_percentile(self):
        for row in cases.rows():
            if row.key == "p999_ns":
                case = next(case for case in cases.make(cases.Sizes()) if case.name == row.case)
                self.assertGreaterEqual(int(case.load[case.load.index("--count") + 1]), 100000)

    def test_tuned_servers_run_in_some_rounds(self):
        case = cases.Case("x", [], ("a",), ("b",))
        self.assertEqual([case.turn(index) for index in range(4)],
                         [["a", "b"], ["a"], ["a"], ["a", "b"]])


class Verdict(unittest.TestCase):
    row = cases.Row("text", "req", "cpu_ns", "nats", 0.5)

    def test_ratio_is_met_up_to_and_including_its_limit(self):
        for value, expected in ((499, "met"), (500, "met"), (501, "**missed**")):
            rounds = {"req": rounds_of("cpu_ns", midge=value, nats=1000)}
            self.assertEqual(table_of(rounds).verdict(self.row), expected)

    def test_least_ratio_is_met_from_its_limit_on(self):
        row = cases.Row("text", "subs", "subscribed_per_s", "nats", 5, is_floor=True)
        for value, expected in ((50, "met"), (49, "**missed**")):
            rounds = {"subs": rounds_of("subscribed_per_s", midge=value, nats=10)}
            self.assertEqual(table_of(rounds).verdict(row), expected)

    def test_value_needs_no_other_server(self):
        row = cases.Row("text", "conns", "resident_each", "nats", 4096, is_value=True)
        rounds = {"conns": rounds_of("resident_each", midge=4097)}
        self.assertEqual(table_of(rounds).verdict(row), "**missed**")
        self.assertEqual(table_of(rounds, [("conns", "nats")]).verdict(row), "**missed**")

    def test_server_that_failed_once_has_no_figure(self):
        rounds = {"req": rounds_of("cpu_ns", midge=1, nats=1000)}
        for name in ("midge", "nats"):
            one = table_of(rounds, [("req", name)])
            self.assertEqual(one.verdict(self.row), "failed")
            self.assertEqual(one.value("req", name, "cpu_ns"), "failed")
            self.assertIsNone(one.ratio("req", "midge", "nats", "cpu_ns"))
            self.assertEqual(table.aims_table(one, [self.row]).count("0.00"), 0)

    def test_rate_that_was_not_kept_is_named(self):
        rounds = {"req": [{"midge": {"cpu_ns": 1, "rate": 100, "rate_kept": 100},
                           "nats": {"cpu_ns": 9, "rate": 100, "rate_kept": 98}}] * 8}
        self.assertEqual(table_of(rounds).verdict(self.row), "met; pace missed with nats")

    def test_spinning_loses_only_where_all_of_the_interval_says_so(self):
        for low, expected in ((None, "unknown"), (0.99, "did not lose"), (1.01, "**lost**")):
            self.assertEqual(table.spin_verdict({"median": 1.1, "low": low, "high": 2}), expected)


    def test_broker_that_uses_no_time_at_rest_did_not_lose(self):
        rounds = {"idle": rounds_of("cpu_share", **{"midge": 0.0, "midge-tuned": 0.0, "nats": 0.1})}
        rest = [row for row in cases.spread_rows() if row.case == "idle"]
        self.assertIn("| did not lose |", table.spread_table(table_of(rounds), rest))


class Derived(unittest.TestCase):
    def test_publish_costs_what_comes_in_and_what_goes_out(self):
        result = {"mode": "pub", "server_cpu_ns": 900, "published": 1, "delivered": 8}
        table.derive(result)
        self.assertEqual(result["cpu_ns"], 100)


class OneRound(unittest.TestCase):
    def run_table(self, *arguments):
        return subprocess.run([sys.executable, table.__file__, *arguments], capture_output=True, text=True,
                              timeout=120, check=False, env={**os.environ, "NATS_SERVER": ""})

    def test_every_kind_of_load_runs(self):
        with tempfile.TemporaryDirectory() as directory:
            path = os.path.join(directory, "table.json")
            done = self.run_table("--build", directory, "--short", "--rounds", "1", "--json", path, "--cases",
                                  "unix-16,req,pub-1-8,shards,conns,subs,idle")
            self.assertEqual(done.returncode, 0, done.stderr)
            with open(path, encoding="utf-8") as file:
                result = json.load(file)
        self.assertEqual(result["failed"], [])
        self.assertIn("nats-server: not found, left out.", done.stdout)
        for case in ("unix-16", "req", "pub-1-8", "subs"):
            self.assertGreater(result["rounds"][case][0]["midge"]["cpu_ns"], 0, case)
        for case in ("conns", "subs"):
            self.assertIn("resident_each", result["rounds"][case][0]["midge"])
        self.assertIn("cpu_share", result["rounds"]["idle"][0]["midge"])
        for block in done.stdout.split("\n\n"):
            if block.startswith("|"):
                self.assertEqual(len({line.count("|") for line in block.split("\n")}), 1)

    def test_plan_measures_nothing(self):
        with tempfile.TemporaryDirectory() as directory:
            done = self.run_table("--build", directory, "--plan")
        self.assertEqual((done.returncode, done.stdout), (0, ""))
        self.assertIn("subs --subscriptions 1000000", done.stderr)


if __name__ == "__main__":
    unittest.main()
