"""The table of aims: one row for each, with what midge-bench judged of it.

Method: a comparison that midge-bench makes for real, in two rounds, and one whose judgements are made up.
"""

import copy
import json
import os
import subprocess
import sys
import unittest

sys.dont_write_bytecode = True
from bench_case import SERVER, BenchCase, run_bench  # noqa: E402

AIMS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "bench", "aims.py")


class Aims(BenchCase):
    def rows(self, *paths):
        done = subprocess.run([sys.executable, AIMS, *paths], stdout=subprocess.PIPE, text=True, check=True)
        lines = done.stdout.splitlines()[2:]
        return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]

    def test_rows_say_what_midge_bench_said(self):
        path = self.path("one.json")
        done = run_bench("compare", "rtt", "--a", SERVER, "--rounds", "2", "--duration", "100ms", "--warmup",
                         "20ms", "--quiet", "--title", "A title", "--aim", "rss<=1099511627776", "--aim",
                         "p50<=1.5*floor", "--json", path)
        self.assertEqual(done.returncode, 0, done.stderr)
        with open(path, encoding="utf-8") as text:
            file = json.load(text)
        absolute, ratio = self.rows(path)
        self.assertEqual((absolute[:2], absolute[6:]), (["A title", "rss"], ["≤ 1,048,576.0 MiB", "met"]))
        self.assertEqual((ratio[1], ratio[6:]), ("p50", ["≤ 1.5 × bare relay, epoll", "unknown"]))
        self.assertTrue(absolute[2].endswith(" MiB") and ratio[2].endswith(" µs"), (absolute, ratio))
        self.assertIn("bare relay, epoll", ratio[3])
        # Judgements are midge-bench's.
        for judged, failed, said in ((False, False, "**missed**"), (True, False, "met"),
                                     (None, True, "unknown: runs failed")):
            other = copy.deepcopy(file)
            other["aims"][1].update(is_met=judged, is_failed=failed)
            with open(self.path("other.json"), "w", encoding="utf-8") as text:
                json.dump(other, text)
            self.assertEqual(self.rows(path, self.path("other.json"))[3][7], said)


if __name__ == "__main__":
    unittest.main()
