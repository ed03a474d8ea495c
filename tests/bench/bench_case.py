"""What tests of midge-bench have in common: running it, and a folder of their own."""

import os
import subprocess
import tempfile
import unittest

BENCH = os.environ["MIDGE_BENCH"]
SERVER = os.environ["MIDGE_SERVER"]
TIMEOUT_S = 120


def run_bench(*arguments, **others):
    return subprocess.run([BENCH, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          timeout=TIMEOUT_S, check=False, **others)


class BenchCase(unittest.TestCase):
    def setUp(self):
        self.directory = tempfile.TemporaryDirectory()
        self.addCleanup(self.directory.cleanup)

    def path(self, name):
        return os.path.join(self.directory.name, name)
