"""The benchmark of the index: it matches what it says it does, and its report can be made and written."""

import json
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

sys.dont_write_bytecode = True
BENCH = Path(__file__).resolve().parent.parent.parent / "bench"
sys.path.insert(0, str(BENCH))
import index  # noqa: E402

PROGRAM = os.environ["MIDGE_BENCH_SUBINDEX"]
COUNT = 512


def run(*arguments):
    return subprocess.run([PROGRAM, *arguments], capture_output=True, text=True, check=False, timeout=120)


def measure(mix, changes="0", count=COUNT):
    done = run("--subscriptions", str(count), "--mix", mix, "--changes", changes, "--rounds", "2",
               "--round-ms", "2", "--queries", "20000", "--hot", "16", "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


class Program(unittest.TestCase):
    def test_every_query_finds_the_subscription_that_it_was_drawn_from(self):
        for mix in ("literal", "tenth", "half", "tails"):
            for name in ("uniform", "hot"):
                self.assertEqual(measure(mix)["rates"][0][name]["found"], 1, mix)

    def test_literals_have_no_nodes_and_wildcards_have(self):
        self.assertEqual(measure("literal")["rates"][0]["uniform"]["visits"], 0)
        uniform = measure("half")["rates"][0]["uniform"]
        self.assertGreater(uniform["visits"] / (1 - uniform["hits"]), 3)

    def test_a_bomb_makes_a_match_look_at_all_of_it_for_nothing(self):
        uniform = measure("bomb")["rates"][0]["uniform"]
        self.assertEqual(uniform["found"], 0)
        # A binary tree and the root, but not the end of a.a.a...x: that one is a literal.
        self.assertEqual(uniform["visits"], 2 * COUNT - 2)

    def test_hot_queries_are_answered_by_the_cache(self):
        rate = measure("tenth")["rates"][0]
        self.assertGreater(rate["hot"]["hits"], 0.25)
        self.assertLessEqual(rate["hot"]["hits"], 1)

    def test_changes_are_made_beside_the_matches(self):
        report = measure("half", changes="0,1000000")
        self.assertEqual([rate["changes_wanted"] for rate in report["rates"]], [0, 1000000])
        self.assertEqual(report["rates"][0]["changes"], 0)
        self.assertGreater(report["rates"][1]["changes"], 0)

    def test_wrong_arguments_are_refused(self):
        for wrong in (["--mix", "none"], ["--changes", "1,"], ["--changes", "x"], ["--rounds", "0"],
                      ["--subscriptions", "1"], ["--hot", "2", "--queries", "1"], ["more"], ["--no"]):
            done = run(*wrong)
            self.assertEqual(done.returncode, 1, wrong)
            self.assertIn("usage:", done.stderr)

    def test_help_and_a_table_for_people(self):
        self.assertIn("--mix", run("--help").stdout)
        done = run("--subscriptions", "64", "--rounds", "1", "--round-ms", "1", "--queries", "1024")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("64 subscriptions, tenth", done.stdout)


class Report(unittest.TestCase):
    def test_all_of_it_runs_short_and_replaces_its_section(self):
        with tempfile.TemporaryDirectory() as folder:
            document, record = Path(folder) / "page.md", Path(folder) / "index.json"
            document.write_text("a\n<!-- index: begin -->\nold\n<!-- index: end -->\nb\n", encoding="utf-8")
            done = subprocess.run(
                [sys.executable, BENCH / "index.py", "--short", "--json", record, "--write", document],
                capture_output=True, text=True, check=False, timeout=250)
            self.assertEqual(done.returncode, 0, done.stderr)
            text = document.read_text(encoding="utf-8")
            self.assertNotIn("old", text)
            self.assertTrue(text.startswith("a\n") and text.endswith("b\n"))
            runs = json.loads(record.read_text(encoding="utf-8"))["runs"]
            # Three rates for each run, then one row for the close.
            rows = [line for line in text.split("\n")
                    if line.startswith("| ") and "subscriptions" not in line]
            self.assertEqual(len(rows), 3 * len(runs) + 1)
            self.assertEqual({run["mix"] for run in runs}, {*index.MIXES, "bomb"})

    def test_the_page_has_a_place_for_it(self):
        page = (BENCH.parent / "docs" / "BENCHMARKS.md").read_text(encoding="utf-8")
        self.assertEqual(page.count("<!-- index: begin -->"), 1)

    def test_huge_sizes_run_on_request_only(self):
        self.assertLess(max(size for size, _ in index.plan(index.parse_arguments([]))), index.HUGE)
        self.assertIn((index.HUGE, "half"), index.plan(index.parse_arguments(["--huge"])))


if __name__ == "__main__":
    unittest.main()
