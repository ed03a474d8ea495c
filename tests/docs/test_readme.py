"""The commands of the README as they stand there, from top to bottom in one folder, against one broker.

What serves (`midge reply`, `midge sub`) goes on behind the following ones, as in another terminal. A remark
`prints X` says what must come. What installs or compiles is the business of the tests of `install`.

    test_readme.py      with MIDGE_COMMAND and MIDGE_SERVER
"""

import os
import re
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

SOURCE_DIR = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(SOURCE_DIR / "tests" / "interop"))
import harness  # noqa: E402

TIMEOUT_S = 30
COMMAND = os.environ.get("MIDGE_COMMAND") or sys.exit("fail: MIDGE_COMMAND is not set")
README = (SOURCE_DIR / "README.md").read_text()
SECTION = README.split("\n## A first request\n")[1].split("\n## ")[0]
OURS = re.compile(r"(?:.*[|] )?(?:build/release/)?midge (\w+).*")


def shell_lines():
    """The lines of the first section that run our command."""
    blocks = re.findall(r"```sh\n(.*?)```", SECTION, re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if OURS.fullmatch(line)]


class Readme(unittest.TestCase):
    def setUp(self):
        self.server = harness.Server(harness.find_server("midge"))
        self.server.start()
        self.addCleanup(self.server.kill)
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        for place in ("build/release/midge", "bin/midge"):
            (self.folder / place).parent.mkdir(parents=True)
            (self.folder / place).symlink_to(COMMAND)
        self.environment = {**os.environ, "NATS_URL": self.server.url, "HOME": folder.name,
                            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}"}

    def begin(self, line):
        process = subprocess.Popen(["sh", "-c", f"exec {line}"], cwd=self.folder, env=self.environment,
                                   stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)

    def run_line(self, line):
        """Run one that ends. Returns its status and what it printed."""
        done = subprocess.run(["sh", "-c", line], cwd=self.folder, env=self.environment, text=True,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, timeout=TIMEOUT_S)
        return done.returncode, done.stdout

    def test_the_shell_lines(self):
        lines = shell_lines()
        self.assertEqual([OURS.fullmatch(line).group(1) for line in lines],
                         ["reply", "req", "sub", "pub", "pub", "rtt", "server"])
        for line in lines:
            if OURS.fullmatch(line).group(1) in ("reply", "sub"):
                self.begin(line)
                continue
            status, said = self.run_line(line)
            while status == 3:  # until the responder is there; bounded by the time limit of the test
                time.sleep(0.02)
                status, said = self.run_line(line)
            self.assertEqual(status, 0, line)
            wanted = re.search(r"# prints (.*)", line)
            if wanted:
                self.assertEqual(said, f"{wanted.group(1)}\n", line)

    def test_the_python_program(self):
        # The echo of the first request serves meanwhile, and must not get in its way.
        self.begin(shell_lines()[0])
        (program,) = re.findall(r"```python\n(.*?)```", SECTION, re.DOTALL)
        (wanted,) = re.findall(r"print\(.*\) +# (.*)", program)
        program = program.replace("nats://localhost:4222", self.server.url)
        said = subprocess.check_output([harness.python_with_clients(), "-c", program], text=True,
                                       timeout=TIMEOUT_S)
        self.assertEqual(said, f"{wanted}\n")

    def test_what_it_says_about_statuses(self):
        self.assertIn("3 no responders, 4 no answer in time,\n5 no connection", SECTION)
        self.assertEqual(self.run_line("midge req nobody.there x")[0], 3)
        self.assertEqual(self.run_line("midge sub nothing.comes --timeout 10ms")[0], 4)
        self.assertEqual(self.run_line("midge pub a b --server nats://127.0.0.1:1")[0], 5)


if __name__ == "__main__":
    unittest.main()
