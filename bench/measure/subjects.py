"""The servers under test: how each is started, where it listens, and how the load is run against it."""

import json
import os
import re
import signal
import socket
import subprocess
import time

from . import environment

STOP_SECONDS = 5
LOAD_SECONDS_MAX = 300


class RunFailed(Exception):
    """A round that gave no figure; the text says which server and why."""


def cpu_clock(pid):
    """Clock id of a process's CPU time. Source: Linux, include/linux/posix-timers.h (CPUCLOCK_SCHED)."""
    return (~pid << 3) | 2


def find_program(name, build, variable, *extra):
    """A program by environment variable, in the build directory, in build/peers/bin, or None."""
    places = [os.environ.get(variable), *(os.path.join(build, sub, name) for sub in ("", "broker"))]
    for place in [*places, *extra]:
        if place and os.path.isfile(place) and os.access(place, os.X_OK):
            return os.path.abspath(place)
    return None


class Ports:
    """Free TCP ports: of the range "A-B" in turn, or what the kernel picks without one."""

    def __init__(self, text=None):
        self.range = None
        self.next = 0
        if text:
            first, last = (int(part) for part in text.split("-"))
            self.range = list(range(first, last + 1))

    def take(self):
        for _ in range(len(self.range) if self.range else 16):
            port = 0
            if self.range:
                port = self.range[self.next % len(self.range)]
                self.next += 1
            with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError:
                    continue
                return probe.getsockname()[1]
        raise RunFailed("no free TCP port")


class Subject:
    """One server: its label in the table, its transports, its command line."""

    def __init__(self, name, label, program, transports, is_relay=False, arguments=(), variables=()):
        self.name = name
        self.label = label
        self.program = program
        self.transports = transports
        self.is_relay = is_relay
        self.arguments = list(arguments)
        self.variables = dict(variables)  # of its environment, beside ours

    def command(self, transport, port, path):
        listen = f"unix:{path}" if transport == "unix" else f"tcp:{port}"
        if self.is_relay:
            return [self.program, *self.arguments, "--listen", listen]
        command = [self.program, "-a", "127.0.0.1", "-p", str(port), *self.arguments]
        return command + ["--unix", path] if transport == "unix" else command

    def url(self, transport, port, path):
        return f"unix://{path}" if transport == "unix" else f"nats://127.0.0.1:{port}"

    def version(self):
        return None if self.is_relay else environment.output_of([self.program, "--version"])


# Flags and environment of the servers that do not run as they come.
VARIANTS = {
    "midge": {"tuned": (["--spin-us", "0"], {}), "spinning": (["--spin-us", "200"], {}),
              "threads1": (["--threads", "1"], {}),
              "threads1-tuned": (["--threads", "1", "--spin-us", "0"], {}),
              "threads2": (["--threads", "2"], {}),
              "threads2-tuned": (["--threads", "2", "--spin-us", "0"], {})},
    "nats": {"tuned": ([], {"GOGC": "400"}), "lean": ([], {"GOGC": "50"})},
}


def make_relay(name, build):
    kind, _, variant = name.partition("-")
    delayed = re.fullmatch(r"floor\+(\d+)us", kind)
    if variant not in ("", "again", "io_uring") or (kind != "floor" and (variant or not delayed)):
        raise RunFailed(f"unknown subject {name!r}")
    relay = find_program("midge-floor", build, "MIDGE_FLOOR")
    engine = "io_uring" if variant == "io_uring" else "epoll"
    label = f"bare relay, {engine}" + (" (A/A)" if variant == "again" else "")
    flags = ["--engine", engine]
    if delayed:
        label += f", + {delayed[1]} us"
        flags += ["--delay-us", delayed[1]]
    return relay and Subject(name, label, relay, ("tcp", "unix"), True, flags)


def make(name, build):
    """The subject of that name, or None if its program is not there.

    `floor+20us` is a delayed relay. `<server>-<variant>` has the flags of VARIANTS; a name that ends in
    `-again` is the same once more (A/A).
    """
    if name.startswith("floor"):
        return make_relay(name, build)
    kind, *marks = name.split("-")
    is_again = marks[-1:] == ["again"]
    variant = "-".join(marks[:-1] if is_again else marks)
    if kind not in VARIANTS or variant not in ("", *VARIANTS[kind]):
        raise RunFailed(f"unknown subject {name!r}")
    flags, variables = VARIANTS[kind][variant] if variant else ([], {})
    label = f"{kind}-server" + (f" ({variant})" if variant else "") + (" (A/A)" if is_again else "")
    if kind == "midge":
        program = find_program("midge-server", build, "MIDGE_SERVER")
        return program and Subject(name, label, program, ("tcp", "unix"), False, flags, variables)
    peers = os.path.join(os.path.dirname(os.path.abspath(build)), "peers", "bin", "nats-server")
    program = find_program("nats-server", build, "NATS_SERVER", peers)
    return program and Subject(name, label, program, ("tcp",), False, flags, variables)


class Server:
    """A started server, pinned to `cpus`; a context manager that ends it by its own pid."""

    def __init__(self, subject, transport, port, directory, cpus):
        path = os.path.join(directory, "server.sock")
        if os.path.exists(path):
            os.unlink(path)
        self.subject = subject
        self.cpus = cpus
        self.url = subject.url(transport, port, path)
        self.command = subject.command(transport, port, path)
        self.log_path = os.path.join(directory, "server.log")
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=directory,
                env={**os.environ, **subject.variables},
                preexec_fn=lambda: os.sched_setaffinity(0, cpus))

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

    def wait_end(self):
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise RunFailed(f"{self.subject.name}: did not end with its peers") from error

    def check_alive(self):
        if self.process.poll() is not None:
            raise RunFailed(f"{self.subject.name}: died after the load: {self.log_tail()}")

    def cpu_seconds(self):
        return time.clock_gettime(cpu_clock(self.process.pid))

    def log_tail(self):
        return (environment.read(self.log_path) or "")[-400:]

    def run_load(self, driver, arguments, cpus=None):
        """Run midge-raw against this server, on `cpus` or where we are, and return its JSON report."""
        to = "--relay" if self.subject.is_relay else "--url"
        command = [driver, arguments[0], to, self.url, *arguments[1:], "--json", "--server-pid",
                   str(self.process.pid)]
        place = (lambda: os.sched_setaffinity(0, cpus)) if cpus else None
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False,
                                  timeout=LOAD_SECONDS_MAX, preexec_fn=place)
        except subprocess.TimeoutExpired as error:
            raise RunFailed(f"{self.subject.name}: load took too long") from error
        if done.returncode != 0:
            raise RunFailed(f"{self.subject.name}: {done.stderr.strip()} {self.log_tail()}")
        report = json.loads(done.stdout)
        report["load_command"] = command
        return report

    def watch_load(self, driver, arguments, cpus=None):
        """run_load, and what else the machine did meanwhile. The server must survive, a relay end."""
        before, load_before = environment.cpu_times(), environment.children_seconds()
        server_before, begin = self.cpu_seconds(), time.monotonic()
        report = self.run_load(driver, arguments, cpus)
        elapsed = time.monotonic() - begin
        if self.subject.is_relay:
            self.wait_end()  # with its peers; from then on it counts among the children
            own = environment.children_seconds() - load_before
        else:
            self.check_alive()
            own = environment.children_seconds() - load_before + self.cpu_seconds() - server_before
        report["foreign"] = environment.foreign(before, environment.cpu_times(),
                                                self.cpus | (cpus or set()), own)
        report["foreign"]["elapsed_s"] = elapsed
        report["command"] = self.command
        report["variables"] = self.subject.variables
        if report.get("server_cpu_ns") == 0:
            raise RunFailed(f"{self.subject.name}: used no CPU time; did another server answer?")
        return report


def driver_path(build):
    found = find_program("midge-raw", build, "MIDGE_RAW")
    if found is None:
        raise RunFailed("midge-raw is not built: run bench/run, or give --build")
    return found
