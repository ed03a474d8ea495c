"""midge-server as it is measured: a fresh one, pinned, and ended by its own pid."""

import os
import signal
import socket
import subprocess
import time

from . import environment

STOP_SECONDS = 5


class RunFailed(Exception):
    """A run that gave no figure; the text says why."""


def cpu_clock(pid):
    """Clock id of a process's CPU time. Source: Linux, include/linux/posix-timers.h (CPUCLOCK_SCHED)."""
    return (~pid << 3) | 2


def find_program(name, build, variable):
    """A program by environment variable or in the build directory. Raises RunFailed if it is not there."""
    for place in (os.environ.get(variable), os.path.join(build, name)):
        if place and os.path.isfile(place) and os.access(place, os.X_OK):
            return os.path.abspath(place)
    raise RunFailed(f"{name} is not built: see docs/BENCHMARKS.md")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """A started server, pinned to `cpu`; a context manager that ends it."""

    def __init__(self, program, directory, cpu):
        self.address = ("127.0.0.1", free_port())
        self.log_path = os.path.join(directory, "server.log")
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(
                [program, "-a", self.address[0], "-p", str(self.address[1])], stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, cwd=directory, preexec_fn=lambda: os.sched_setaffinity(0, {cpu}))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait()

    def check_alive(self):
        if self.process.poll() is not None:
            log = environment.read(self.log_path) or ""
            raise RunFailed(f"midge-server died after the load: {log[-400:]}")

    def cpu_seconds(self):
        return time.clock_gettime(cpu_clock(self.process.pid))
