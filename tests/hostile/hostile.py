"""What the hostile tests share: a broker process that can be measured, a client on a plain socket that
reads strictly, traffic that proves itself, and the runner of a file's cases.

A case is a function whose name begins with `case_` (or `long_`); it fails by an exception. What it
measured goes out with note(). Memory is judged without a sanitizer only, which has memory of its own.
"""

import json
import os
import random
import re
import resource
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import traceback
import zlib
from pathlib import Path

START_TIMEOUT_S = 30
WAIT_TIMEOUT_S = 20
SKIPPED = 77
MIB = 1 << 20
SANITIZED = os.environ.get("MIDGE_SANITIZE", "none") != "none"
LISTENING = re.compile(r"Listening for client connections on (?!unix:)\S*:(\d+)$", re.MULTILINE)
# A broker on a busy machine may be late; it must not be late for ever.
SLOW = 4 if SANITIZED else 1


class Failure(Exception):
    """What a test found wrong, in words for its reader."""


class Skip(Exception):
    """Why a test cannot run here."""


def check(good, what):
    if not good:
        raise Failure(what)


def note(text):
    print(f"  {text}", flush=True)


def wait_until(condition, what, timeout_s=WAIT_TIMEOUT_S, step_s=0.02):
    """Poll until the condition holds; returns the seconds it took."""
    began = time.monotonic()
    while not condition():
        check(time.monotonic() - began < timeout_s, f"{what}: not within {timeout_s} s")
        time.sleep(step_s)
    return time.monotonic() - began


def find_broker():
    program = os.environ.get("MIDGE_SERVER")
    if not program or not os.access(program, os.X_OK):
        raise SystemExit(f"fail: MIDGE_SERVER={program} is not a program")
    return program


def raise_descriptor_limit(wanted):
    """Descriptors of this test program; the broker inherits the hard limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise Skip(f"needs {wanted} descriptors, the hard limit is {hard}")
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class Broker:
    """One broker on a free port of loopback. Its end must be clean: sanitizers report there."""

    def __init__(
        self, *arguments, config="", prepare=None, pass_fds=(), stderr=None, log_path=None, expect_start=True
    ):
        self.folder = tempfile.TemporaryDirectory(prefix="midge-hostile-")
        self.log_path = Path(self.folder.name) / "stderr"
        command = [find_broker(), "-p", "-1", *os.environ.get("MIDGE_FLAGS", "").split(), *arguments]
        if config:
            config_path = Path(self.folder.name) / "server.conf"
            config_path.write_text(config + "\n", encoding="utf-8")
            command += ["-c", str(config_path)]
        with open(self.log_path, "wb") as log:
            # preexec_fn is safe: no thread runs when a broker is started.
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=stderr or log, preexec_fn=prepare,
                pass_fds=pass_fds,
            )  # fmt: skip
        self.log_path = log_path or self.log_path
        self.port = None
        self.stopped = False
        if expect_start:
            self.wait_ready()

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        try:
            if not self.stopped:
                self.stop(failed=error is not None)
        finally:
            if error is not None:
                print(f"  broker log:\n{self.log()[-4000:]}", flush=True)
            self.folder.cleanup()

    def wait_ready(self):
        wait_until(
            lambda: "Server is ready" in self.log() or self.process.poll() is not None,
            "the broker's start",
            START_TIMEOUT_S,
        )
        match = LISTENING.search(self.log())
        if self.process.poll() is not None or not match:
            self.kill()
            raise Failure(f"the broker did not start, status {self.process.poll()}:\n{self.log()}")
        self.port = int(match.group(1))

    def log(self):
        try:
            return self.log_path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return ""

    def count_log(self, text):
        return self.log().count(text)

    def expect_once(self, text):
        """The log says so, once; its thread may take a moment."""
        wait_until(lambda: text in self.log(), f"{text!r} in the log")
        check(self.count_log(text) == 1, f"{text!r} is in the log {self.count_log(text)} times")

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.stopped = True

    def stop(self, number=signal.SIGTERM, timeout_s=15, failed=False):
        """End it; returns the seconds that took. An exit status other than 0 is a failure."""
        began = time.monotonic()
        self.stopped = True
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            status = self.process.wait(timeout_s * SLOW)
        except subprocess.TimeoutExpired:
            self.kill()
            status = f"none: it still ran {timeout_s * SLOW} s after signal {number}"
        if not failed:
            check(status == 0, f"the broker's exit status is {status}:\n{self.log()[-6000:]}")
        return time.monotonic() - began

    def alive(self):
        return self.process.poll() is None

    def rss(self):
        """Resident bytes."""
        with open(f"/proc/{self.process.pid}/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")

    def cpu_s(self):
        """Seconds of processor time so far."""
        with open(f"/proc/{self.process.pid}/stat", encoding="ascii") as file:
            fields = file.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def fd_count(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def connect(self, **options):
        return Client(self.port, **options)

    def client(self, **connect):
        """A client that has sent CONNECT and seen its PONG."""
        client = Client(self.port)
        client.handshake(**connect)
        return client


def connect_line(**options):
    """CONNECT as a quiet client sends it; values are texts and booleans."""
    fields = {"verbose": False, "pedantic": False, "headers": True, "lang": "hostile", **options}
    return b"CONNECT " + json.dumps(fields).encode() + b"\r\n"


class Frames:
    """Strict reader of what a broker sends: everything must be a whole, well-formed frame."""

    OTHER = re.compile(rb"(PING|PONG|\+OK|INFO \{.*\} |-ERR '.*')\r\n", re.DOTALL)

    def __init__(self):
        self.data = bytearray()

    def feed(self, data):
        """The frames that are complete now, as tuples: ("MSG", subject, sid, reply, payload) or a line."""
        self.data += data
        frames = []
        at = 0
        while True:
            end = self.data.find(b"\r\n", at)
            if end < 0:
                break
            line = bytes(self.data[at : end + 2])
            if not line.startswith((b"MSG ", b"HMSG ")):
                check(self.OTHER.fullmatch(line), f"not a frame of a broker: {line[:200]!r}")
                frames.append(line)
                at = end + 2
                continue
            fields = line[:-2].split(b" ")
            size = int(fields[-1])
            if len(self.data) < end + 2 + size + 2:
                break
            payload = bytes(self.data[end + 2 : end + 2 + size])
            check(self.data[end + 2 + size : end + 4 + size] == b"\r\n", f"no CRLF behind {line!r}")
            sizes = 2 if fields[0] == b"HMSG" else 1
            reply = fields[3] if len(fields) == 4 + sizes else b""
            check(len(fields) in (3 + sizes, 4 + sizes), f"not a message frame: {line!r}")
            frames.append(("MSG", fields[1], fields[2], reply, payload))
            at = end + 4 + size
        del self.data[:at]
        return frames

    def at_boundary(self):
        return not self.data


class Client:
    """A blocking client. What it reads is checked frame by frame."""

    def __init__(self, port=None, path=None, receive_buffer=None, host="127.0.0.1"):
        family = socket.AF_UNIX if path else socket.AF_INET6 if ":" in host else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_STREAM)
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        if not path:
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.settimeout(WAIT_TIMEOUT_S)
        self.socket.connect(str(path) if path else (host, port))
        self.frames = Frames()
        self.waiting = []
        self.closed = None  # how the other side ended: "EOF", "RST"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def fileno(self):
        return self.socket.fileno()

    def close(self):
        self.socket.close()

    def reset(self):
        """Close with a RST instead of a FIN."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def send(self, data):
        self.socket.sendall(data)

    def send_part(self, data):
        """Send without blocking; returns the bytes taken, 0 when the socket is full, None if closed."""
        self.socket.setblocking(False)
        try:
            return self.socket.send(data)
        except BlockingIOError:
            return 0
        except OSError:
            return None
        finally:
            self.socket.settimeout(WAIT_TIMEOUT_S)

    def receive(self, length=65536):
        """Read once and keep the frames; False at the end of the stream."""
        try:
            data = self.socket.recv(length)
        except (ConnectionResetError, BrokenPipeError):
            self.closed = "RST"
            return False
        except TimeoutError as error:
            raise Failure("nothing came within the time limit") from error
        if not data:
            self.closed = "EOF"
            return False
        self.waiting += self.frames.feed(data)
        return True

    def next_frame(self):
        """The next frame, None at the end of the stream. PING is answered and left out."""
        while True:
            while not self.waiting:
                if not self.receive():
                    return None
            frame = self.waiting.pop(0)
            if frame != b"PING\r\n":
                return frame
            self.send(b"PONG\r\n")

    def expect(self, start):
        """Skip to the first line that starts so."""
        while (frame := self.next_frame()) is not None:
            if isinstance(frame, bytes) and frame.startswith(start):
                return frame
        raise Failure(f"closed ({self.closed}) before {start!r} came")

    def handshake(self, **connect):
        self.send(connect_line(**connect) + b"PING\r\n")
        self.expect(b"PONG")

    def fence(self):
        """PING, and the frames that came before its PONG."""
        self.send(b"PING\r\n")
        frames = []
        while True:
            frame = self.next_frame()
            check(frame is not None, f"closed ({self.closed}) while waiting for PONG")
            if frame == b"PONG\r\n":
                return frames
            frames.append(frame)

    def messages(self):
        """Messages up to now."""
        return [frame for frame in self.fence() if isinstance(frame, tuple)]

    def read_to_end(self, timeout_s=WAIT_TIMEOUT_S):
        """Everything up to the end of the stream."""
        self.socket.settimeout(timeout_s)
        while self.receive():
            pass
        frames, self.waiting = self.waiting, []
        return frames

    def is_closed(self):
        """True if the broker has ended this connection; what has arrived is thrown away."""
        self.socket.setblocking(False)
        try:
            while self.socket.recv(1 << 20):
                pass
            return True
        except BlockingIOError:
            return False
        except OSError:
            return True
        finally:
            self.socket.settimeout(WAIT_TIMEOUT_S)

    def is_hung_up(self):
        """True if the connection has ended, without reading anything from it."""
        poll = select.poll()
        poll.register(self.socket, select.POLLRDHUP)
        return any(event & (select.POLLHUP | select.POLLRDHUP | select.POLLERR) for _, event in poll.poll(0))


def pub(subject, payload, reply=b""):
    reply = reply + b" " if reply else b""
    return b"PUB %s %s%d\r\n%s\r\n" % (subject, reply, len(payload), payload)


# A message that proves itself: publisher, sequence, checksum over both and what follows.
HEADER = struct.Struct("<IQI")


def sealed(publisher, sequence, body=b""):
    checksum = zlib.crc32(body, zlib.crc32(struct.pack("<IQ", publisher, sequence)))
    return HEADER.pack(publisher, sequence, checksum) + body


class Ledger:
    """What one subscriber received: every message whole, each publisher's without gap, twice or turn."""

    def __init__(self, gapless=True):
        self.next = {}
        self.count = 0
        self.gapless = gapless

    def take(self, payload):
        check(len(payload) >= HEADER.size, f"a message of {len(payload)} bytes that nobody sent")
        publisher, sequence, checksum = HEADER.unpack_from(payload)
        body = payload[HEADER.size :]
        wanted = zlib.crc32(body, zlib.crc32(struct.pack("<IQ", publisher, sequence)))
        check(checksum == wanted, f"corrupt: publisher {publisher}, sequence {sequence}")
        expected = self.next.get(publisher, 0)
        good = sequence == expected if self.gapless else sequence >= expected
        check(good, f"publisher {publisher}: sequence {sequence} where {expected} was next")
        self.next[publisher] = sequence + 1
        self.count += 1


def make_random(name="MIDGE_SEED"):
    seed = int(os.environ.get(name) or random.SystemRandom().randrange(1 << 32))
    note(f"seed {seed} ({name})")
    return random.Random(seed)


def run(cases):
    """Run the cases named on the command line, or all; those called long_* with the word `long`. Exit 1
    if one fails."""
    names = sys.argv[1:]
    prefix = "long_" if names == ["long"] else "case_"
    functions = {name[5:]: item for name, item in cases.items() if name.startswith(prefix)}
    names = list(functions) if names in ([], ["long"]) else names
    failed = skipped = 0
    for name in names:
        began = time.monotonic()
        print(f"{name}", flush=True)
        try:
            functions[name]()
        except Skip as reason:
            skipped += 1
            print(f"  not run: {reason}", flush=True)
        except Exception:
            failed += 1
            traceback.print_exc(file=sys.stdout)
            print(f"  FAILED: {name}", flush=True)
        print(f"  {time.monotonic() - began:.1f} s", flush=True)
    if failed:
        sys.exit(1)
    if skipped == len(names):
        print("skipped: nothing of it can run here")
        sys.exit(SKIPPED)
