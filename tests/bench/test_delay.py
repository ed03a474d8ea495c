"""A relay that burns 20 us a request must be found by a comparison, and a relay against itself must not.

Method: the real comparison, small, with relays in the place of servers: Unix socket, 9 rounds. The delay is
burnt, so it is a lower bound, and the plain relay takes 15-30 us; noise would have to slow that one alone in
most rounds to hide it. Of A/A only the middle is checked: one interval in twenty misses 1.
"""

import json
import os
import subprocess
import tempfile
import unittest

BENCH = os.environ["MIDGE_BENCH"]
FLOOR = os.environ["MIDGE_FLOOR"]
RELAY = FLOOR + " --engine epoll --listen unix:{socket}"


class Delay(unittest.TestCase):
    def test_20_us_are_found_and_nothing_is_not(self):
        with tempfile.TemporaryDirectory() as directory:
            path = os.path.join(directory, "delay.json")
            done = subprocess.run(
                [BENCH, "compare", "rtt", "--relay", "--transport", "unix", "--no-floor", "--a", RELAY,
                 "--b", RELAY + " --delay-us 20", "--rounds", "9", "--duration", "100ms", "--warmup",
                 "20ms", "--quiet", "--json", path],
                capture_output=True, text=True, timeout=100, check=False)
            self.assertEqual(done.returncode, 0, done.stderr)
            with open(path, encoding="utf-8") as file:
                ratios = {(one["subject"], one["base"]): one for one in json.load(file)["ratios"]
                          if one["metric"] == "p50"}
        delayed, again = ratios["a", "b"], ratios["a-again", "a"]
        self.assertEqual(delayed["verdict"], "less", done.stdout)
        self.assertLess(delayed["high"], 0.9, done.stdout)
        self.assertGreater(again["middle"], delayed["high"], done.stdout)


if __name__ == "__main__":
    unittest.main()
