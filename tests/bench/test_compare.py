"""The report of compare.py and slow.py.

Method: made-up rounds whose table is known; and one round with the relays that checks form, not figures.
"""

import json
import os
import subprocess
import sys
import tempfile
import unittest
from types import SimpleNamespace

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "bench"))
import compare  # noqa: E402
import slow  # noqa: E402
from measure import document, environment, report, subjects  # noqa: E402

BOTH = ("tcp", "unix")


def subject(name, transports=BOTH):
    return subjects.Subject(name, name + "-label", "/bin/true", transports)


def run(p50, p999=None):
    return {"p50_ns": p50, "p99_ns": 2 * p50, "p999_ns": p999, "cpu_ns": p50 / 2}


def rounds_of(**p50):
    return [{name: run(value) for name, value in p50.items()} for _ in range(8)]


class Table(unittest.TestCase):
    def test_base_is_one_and_others_are_ratios_with_interval(self):
        text = compare.table([subject("floor"), subject("midge")], "tcp",
                             rounds_of(floor=20000, midge=22000))
        self.assertIn("| floor-label | 20.0 | 1 | 40.0 | 1 | unknown | 10.0 | 1 |", text)
        self.assertIn("| midge-label | 22.0 | 1.10 (1.10–1.10) | 44.0 | 1.10 (1.10–1.10) "
                      "| unknown | 11.0 | 1.10 (1.10–1.10) |", text)

    def test_server_without_unix_socket_says_so(self):
        text = compare.table([subject("floor"), subject("nats", ("tcp",))], "unix",
                             rounds_of(floor=20000))
        self.assertIn("| nats-label | has no Unix socket |", text)

    def test_every_row_has_as_many_cells_as_the_head(self):
        text = compare.table([subject("floor"), subject("midge"), subject("nats", ("tcp",))], "unix",
                             rounds_of(floor=20000, midge=1))
        self.assertEqual({line.count("|") for line in text.split("\n")}, {9})


class Verdict(unittest.TestCase):
    def test_goal_is_met_up_to_and_including_its_limit(self):
        chosen = [subject("floor"), subject("midge")]
        for p50, expected in ((22900, "met"), (23000, "met"), (23100, "missed")):
            text = compare.verdicts(chosen, "tcp", rounds_of(floor=20000, midge=p50))[0]
            self.assertIn(f": {expected}, ", text)

    def test_without_midge_there_is_none(self):
        chosen = [subject("floor"), subject("nats", ("tcp",))]
        self.assertEqual(compare.verdicts(chosen, "tcp", rounds_of(floor=1, nats=2)), [])


class Noise(unittest.TestCase):
    def test_others_are_what_is_left_after_our_own_time(self):
        before = {0: (100.0, 1.0), 1: (200.0, 1.0)}
        after = {0: (100.5, 1.0), 1: (202.0, 1.25)}
        self.assertEqual(environment.foreign(before, after, {1}, 1.5),
                         {"here_s": 0.5, "elsewhere_s": 0.5, "steal_s": 0.25})

    def test_noisy_rounds_are_marked(self):
        quiet = {"here": 0.01, "elsewhere": 0.01, "steal": 0.0}
        self.assertNotIn("not quiet", report.noise_text(quiet))
        for key in quiet:
            self.assertIn("not quiet", report.noise_text({**quiet, key: 0.2}))


class Slow(unittest.TestCase):
    def verdict(self, rate, memory):
        def one(per_s, resident):
            return {"delivered_per_s": per_s, "gap_ns": 1000, "cpu_ns": 500, "memory": resident,
                    "stalled_closed": 1}

        arguments = SimpleNamespace(max_pending=8 << 20, stalled=1)
        rounds = [{"midge": one(1e6, 10 << 20), "midge stalled": one(rate, memory)}] * 8
        return slow.row(subject("midge"), rounds, arguments)[1]

    def test_both_rate_and_memory_must_hold(self):
        self.assertTrue(self.verdict(0.91e6, 18 << 20))
        self.assertFalse(self.verdict(0.89e6, 18 << 20))
        self.assertFalse(self.verdict(0.91e6, 19 << 20))


class OneRound(unittest.TestCase):
    def test_runs_over_both_transports_and_records_the_machine(self):
        with tempfile.TemporaryDirectory() as directory:
            path = os.path.join(directory, "compare.json")
            done = subprocess.run(
                [sys.executable, compare.__file__, "--build", directory, "--rounds", "1", "--count",
                 "300", "--warmup", "50", "--subjects", "floor,floor-io_uring,midge", "--json", path],
                capture_output=True, text=True, timeout=60, check=False,
                env={**os.environ, "MIDGE_SERVER": ""})
            self.assertEqual(done.returncode, 0, done.stderr)
            with open(path, encoding="utf-8") as file:
                result = json.load(file)
        self.assertIn("midge: not found, left out.", done.stdout)
        for heading in ("### TCP", "### Unix socket", "| bare relay, io_uring |"):
            self.assertIn(heading, done.stdout)
        for key in ("cpu_model", "kernel", "mitigations", "load_before", "load_after", "command"):
            self.assertIn(key, result["environment"])
        for transport in ("tcp", "unix"):
            run_of_floor = result["rounds"][transport][0]["floor"]
            self.assertEqual(run_of_floor["count"], 300)
            self.assertGreater(run_of_floor["cpu_ns"], 0)

    def test_without_the_relay_there_is_no_comparison(self):
        done = subprocess.run(
            [sys.executable, compare.__file__, "--subjects", "nats"], capture_output=True, text=True,
            timeout=60, check=False)
        self.assertEqual(done.returncode, 2)


class Document(unittest.TestCase):
    text = "a\n<!-- x: begin -->\nold\n<!-- x: end -->\nb\n"

    def test_only_what_stands_between_the_markers_changes(self):
        self.assertEqual(document.replaced(self.text, "x", "new\n"),
                         "a\n<!-- x: begin -->\n\nnew\n\n<!-- x: end -->\nb\n")

    def test_missing_or_doubled_markers_are_an_error(self):
        for text, name in ((self.text, "y"), (self.text * 2, "x")):
            with self.assertRaises(ValueError):
                document.replaced(text, name, "new")

    def test_the_document_of_this_tree_has_all_pairs(self):
        path = os.path.join(os.path.dirname(compare.__file__), "..", "docs", "BENCHMARKS.md")
        with open(path, encoding="utf-8") as file:
            text = file.read()
        for name in ("compare", "slow", "table"):
            self.assertIn("new", document.replaced(text, name, "new"))


class Subject(unittest.TestCase):
    def test_broker_gets_flags_and_relay_gets_listen(self):
        self.assertEqual(subject("midge").command("unix", 1, "/s"),
                         ["/bin/true", "-a", "127.0.0.1", "-p", "1", "--unix", "/s"])
        self.assertEqual(subject("nats").command("tcp", 1, "/s"),
                         ["/bin/true", "-a", "127.0.0.1", "-p", "1"])
        relay = subjects.Subject("floor", "", "/f", BOTH, True, ["--engine", "epoll"])
        self.assertEqual(relay.command("tcp", 5, "/s"), ["/f", "--engine", "epoll", "--listen", "tcp:5"])

    def test_version_is_all_that_the_program_prints(self):
        """midge-server names the level it is compatible with first, and itself second."""
        self.assertEqual(environment.output_of(["printf", "a: 1\\nb: 2\\n"]), "a: 1, b: 2")
        self.assertIsNone(environment.output_of(["/nonexistent"]))

    def test_program_that_is_not_there_leaves_its_row_out(self):
        os.environ.pop("MIDGE_SERVER", None)
        self.assertIsNone(subjects.make("midge", "/nonexistent"))

    def test_unknown_name_is_an_error(self):
        with self.assertRaises(subjects.RunFailed):
            subjects.make("other", "/nonexistent")


if __name__ == "__main__":
    unittest.main()
