"""What every interop test shares: finding the programs, one server process, the way a test is skipped.

A server is any program that takes nats-server's `-a` and `-p` flags and writes its log lines: the
broker, or nats-server itself, against which the tests prove themselves.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

SKIPPED = 77
START_TIMEOUT_S = 20
PROBE_TIMEOUT_S = 60
STOP_TIMEOUT_S = 10

SOURCE_DIR = Path(__file__).resolve().parents[2]
PEERS_DIR = Path(os.environ.get("MIDGE_PEERS_DIR") or SOURCE_DIR / "build" / "peers")


def skip(reason):
    """End the test because something it needs is absent; a failure where MIDGE_INTEROP_STRICT is set."""
    if os.environ.get("MIDGE_INTEROP_STRICT"):
        sys.exit(f"fail: {reason}, and MIDGE_INTEROP_STRICT forbids to skip")
    print(f"skipped: {reason}", flush=True)
    sys.exit(SKIPPED)


def find_program(variable, name, *places):
    """Path of a peer program: the environment variable, `places`, PATH, then where `go install` puts it."""
    named = os.environ.get(variable)
    if named:
        if not os.access(named, os.X_OK):
            sys.exit(f"fail: {variable}={named} is not a program")
        return named
    for place in [*places, PEERS_DIR / "bin"]:
        if os.access(Path(place) / name, os.X_OK):
            return str(Path(place) / name)
    go_bin = os.environ.get("GOBIN") or Path(os.environ.get("GOPATH") or Path.home() / "go") / "bin"
    return shutil.which(name) or shutil.which(name, path=str(go_bin))


def find_server(kind):
    """Path of the server under test: `midge`, or `nats-server` as the reference."""
    if kind == "midge":
        return find_program("MIDGE_SERVER", "midge-server") or skip("MIDGE_SERVER is not set")
    return find_program("NATS_SERVER", "nats-server") or skip("no nats-server (NATS_SERVER)")


def python_with_clients():
    """A Python interpreter that has the packages of requirements.txt."""
    candidates = [
        os.environ.get("MIDGE_PYTHON"),
        SOURCE_DIR / "build" / "venv" / "bin" / "python",
        sys.executable,
    ]
    for candidate in candidates:
        if candidate and os.access(candidate, os.X_OK):
            probe = [str(candidate), "-c", "import nats"]
            if subprocess.run(probe, stderr=subprocess.DEVNULL, timeout=PROBE_TIMEOUT_S).returncode == 0:
                return str(candidate)
    return skip("no Python with nats-py (MIDGE_PYTHON)")


class ServerError(Exception):
    """The server did not start."""


class Server:
    """One server process on 127.0.0.1. A restart keeps the port that the first start found free."""

    def __init__(self, program, *flags):
        self.program = program
        self.flags = flags
        self.port = -1
        self.log = []
        self._process = None
        self._ready = False
        self._started = None
        self._reader = None

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_exception):
        self.kill()

    @property
    def url(self):
        return f"nats://127.0.0.1:{self.port}"

    def start(self):
        self._ready = False
        self._started = threading.Event()
        self._process = subprocess.Popen(
            [self.program, "-a", "127.0.0.1", "-p", str(self.port), *self.flags],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        self._reader = threading.Thread(target=self._read_log, args=(self._process,), daemon=True)
        self._reader.start()
        self._started.wait(START_TIMEOUT_S)
        if not self._ready:
            self.kill()
            raise ServerError(f"{self.program} did not become ready:\n{self.log_text()}")

    def _read_log(self, process):
        for line in process.stderr:
            self.log.append(line)
            found = re.search(r"Listening for client connections on .*:(\d+)\s*$", line)
            if found:
                self.port = int(found.group(1))
            if "Server is ready" in line:
                self._ready = True
                self._started.set()
        self._started.set()  # end of file: nobody need wait for a server that has ended

    def log_text(self):
        return "".join(self.log[-200:])

    def kill(self):
        """End it as a crash would: SIGKILL, no goodbye to the clients."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._reader.join(STOP_TIMEOUT_S)

    def restart(self):
        self.kill()
        self.start()

    def stop(self):
        """Ask for an orderly end. Returns None, or what was wrong with it."""
        if self._process.poll() is not None:
            return f"ended by itself with status {self._process.returncode}"
        self._process.send_signal(signal.SIGINT)
        try:
            status = self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return f"still ran {STOP_TIMEOUT_S} s after SIGINT"
        return None if status == 0 else f"ended with status {status} after SIGINT"
