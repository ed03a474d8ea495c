"""The command of midge-floor: what it refuses, and that it ends with its peers.

What it relays is in tests/unit/bench/test_floor.c.
"""

import os
import socket
import subprocess
import tempfile
import time
import unittest

FLOOR = os.environ["MIDGE_FLOOR"]
TIMEOUT_S = 60


def connect(path):
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        peer = socket.socket(socket.AF_UNIX)
        peer.settimeout(TIMEOUT_S)
        try:
            peer.connect(path)
            return peer
        except (ConnectionRefusedError, FileNotFoundError):
            peer.close()
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


class Floor(unittest.TestCase):
    def test_bad_options_are_refused(self):
        for bad in (["--engine", "poll"], ["--listen", "nowhere"], ["--delay-us", "-1"], ["--delay-us", ""],
                    ["--delay-us", "1000001"], ["--sides", "1"], ["--sides", "65"], ["--read-len", "63"],
                    ["--stall-ms", "x"], ["--stall-at-ms", "1s"], ["--no"], ["more"], []):
            # All but the last would do with a place to listen.
            place = ["--listen", "tcp:1"] if bad else []
            done = subprocess.run([FLOOR, *place, *bad], capture_output=True, text=True, check=False,
                                  timeout=TIMEOUT_S)
            self.assertEqual((done.returncode, done.stdout), (1, ""), bad)
            self.assertIn("usage:", done.stderr, bad)

    def test_io_uring_relays_between_two_only(self):
        done = subprocess.run([FLOOR, "--engine", "io_uring", "--sides", "3", "--listen", "tcp:1"],
                              capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
        self.assertEqual((done.returncode, done.stderr),
                         (1, "midge-floor: more than two sides need --engine epoll\n"))

    def test_it_ends_with_its_peers(self):
        with tempfile.TemporaryDirectory() as directory:
            path = os.path.join(directory, "floor.sock")
            with subprocess.Popen([FLOOR, "--engine", "epoll", "--listen", f"unix:{path}", "--read-len", "64",
                                   "--delay-us", "1"]) as floor:
                try:
                    with connect(path) as first, connect(path) as second:
                        first.sendall(b"hop" * 100)
                        with second.makefile("rb") as relayed:
                            self.assertEqual(relayed.read(300), b"hop" * 100)
                    self.assertEqual(floor.wait(TIMEOUT_S), 0)
                finally:
                    if floor.poll() is None:
                        floor.kill()


if __name__ == "__main__":
    unittest.main()
