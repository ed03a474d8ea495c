"""What the wire tests share: a server process, and the escaping of bytes in files.

A server is any program that takes nats-server's flags -a, -p and -c and logs its address: the broker, or
nats-server itself, against which the recorded vectors and transcripts are proved.
"""

import os
import re
import signal
import subprocess
import tempfile
import time
from pathlib import Path

START_TIMEOUT_S = 30
STOP_TIMEOUT_S = 30
LISTENING = re.compile(r"Listening for client connections on (\S+):(\d+)")
INFO_LINE = re.compile(rb"(?<![^\n])INFO \{[^\r\n]*\} \r\n")
INFO_MASK = b"INFO {} \r\n"


class Failure(Exception):
    """What a test found wrong, in words for its reader."""


def find_server(kind):
    """Path of the program under test: `midge`, or `nats-server` as the reference."""
    variable = "MIDGE_SERVER" if kind == "midge" else "NATS_SERVER"
    program = os.environ.get(variable)
    if not program or not os.access(program, os.X_OK):
        raise SystemExit(f"fail: {variable}={program} is not a program")
    return program


class Server:
    """One server process on a free port of 127.0.0.1; its end must be clean (sanitizers report there)."""

    def __init__(self, program, config=""):
        self.folder = tempfile.TemporaryDirectory(prefix="midge-wire-")
        self.log_path = Path(self.folder.name) / "log"
        config_path = Path(self.folder.name) / "server.conf"
        config_path.write_text(config + "\n", encoding="utf-8")
        command = [program, "-a", "127.0.0.1", "-p", "-1", "-c", str(config_path)]
        if program == os.environ.get("MIDGE_SERVER"):
            command += os.environ.get("MIDGE_FLAGS", "").split()
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.port = None

    def __enter__(self):
        self.port = self.wait_for_port()
        return self

    def __exit__(self, kind, error, trace):
        self.stop(failed=error is not None)

    def log(self):
        return self.log_path.read_text(encoding="utf-8", errors="replace")

    def wait_for_port(self):
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            if match := LISTENING.search(self.log()):
                return int(match.group(2))
            if self.process.poll() is not None:
                break
            time.sleep(0.01)
        self.process.kill()
        raise Failure(f"the server did not start, exit status {self.process.wait()}:\n{self.log()}")

    def stop(self, failed=False):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            status = self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            status = "none: it did not end after SIGINT"
        log = self.log()
        self.folder.cleanup()
        if status != 0:
            print(f"server log:\n{log}")
            if not failed:
                raise Failure(f"the server's exit status is {status}")


def mask_info(data):
    """INFO lines without what differs from run to run."""
    return INFO_LINE.sub(INFO_MASK, data)


def encode(text):
    """Bytes of a vector's string: one character is one byte."""
    return text.encode("latin-1")


def show(data, length_max=300):
    """Bytes for a human reader, long ones with their middle left out."""
    text = data.decode("latin-1").encode("unicode_escape").decode("ascii")
    if len(text) > length_max:
        text = f"{text[: length_max // 2]}…({len(data)} bytes)…{text[-length_max // 2 :]}"
    return f'"{text}"'
