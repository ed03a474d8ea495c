"""A relay that burns 20 us a request must be found, and a relay against itself must not.

Method: the real comparison, small: Unix socket, 9 rounds. The delay is burnt, so it is a lower bound, and
the floor takes 15-30 us; noise would have to slow the plain relay alone in most rounds to hide it. Of
the A/A row only the median is checked, with a wide margin: its interval may miss 1 once in 20 runs.
"""

import json
import os
import subprocess
import sys
import tempfile
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
BENCH = os.path.join(HERE, "..", "..", "bench")
sys.dont_write_bytecode = True
sys.path.insert(0, BENCH)
from measure import stats  # noqa: E402


class Delay(unittest.TestCase):
    def test_20_us_are_found_and_nothing_is_not(self):
        with tempfile.TemporaryDirectory() as directory:
            path = os.path.join(directory, "delay.json")
            done = subprocess.run(
                [sys.executable, os.path.join(BENCH, "compare.py"), "--transports", "unix",
                 "--subjects", "floor,floor-again,floor+20us", "--rounds", "9", "--count", "2000",
                 "--warmup", "200", "--json", path],
                capture_output=True, text=True, timeout=100, check=False)
            self.assertEqual(done.returncode, 0, done.stderr)
            with open(path, encoding="utf-8") as file:
                rounds = json.load(file)["rounds"]["unix"]
        delayed = stats.compare(rounds, "floor+20us", "floor", "p50_ns")
        again = stats.compare(rounds, "floor-again", "floor", "p50_ns")
        self.assertGreater(delayed["low"], 1.1, done.stdout)
        self.assertLess(again["median"], delayed["low"], done.stdout)


if __name__ == "__main__":
    unittest.main()
