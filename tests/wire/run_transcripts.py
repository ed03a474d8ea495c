"""Transcripts: what several connections of one server see, byte for byte.

    run_transcripts.py midge|nats-server [FILE...]

A file of transcripts/ is a server configuration and the lines of a conversation, one step each:

    config TEXT           one line of the server's configuration; only at the top
    A open [KEY=JSON...]  connect; the INFO line must have the keys and types of INFO_TYPES and those given
    A refused             connect; INFO, then the following `<` lines, then the end
    A > TEXT              send TEXT and CRLF
    A >> TEXT             send TEXT as it is, escapes \\r \\n \\t \\\\ \\xNN and {x*1000} resolved
    A flood N TEXT        send TEXT (with escapes) N times
    A < TEXT              the next bytes that A receives are TEXT and CRLF
    A << TEXT             the same without the CRLF, escapes resolved
    A info [KEY=JSON...]  the next line is an INFO, with the keys and types of INFO_TYPES and those given
    A fence               PING, and the next bytes are PONG: nothing else was on its way to A
    A closed              the next thing that A sees is the end
    A cut                 the end comes, after whatever else; none of it is an -ERR
    A close               end the connection
    A any TEXT | TEXT     fence on A; what came are these texts (escapes resolved) in any order
    A,B once TEXT         fence on all; together they got exactly TEXT (escapes resolved), one of them
    A,B once TEXT xN      as often as that, each time one of them
    # ...                 a comment
    only midge|nats-server: STEP   a step of one server alone; a comment above says why

`fence` works because a server handles what one connection sends in order: when B has its PONG, what B
published is queued to A, and A's own PONG comes after it.
"""

import concurrent.futures
import itertools
import json
import re
import socket
import sys
import time
from pathlib import Path

from wire import Failure, Server, find_server, show

TIMEOUT_S = 15
AT_ONCE = 4
INFO_TYPES = {
    "server_id": str, "server_name": str, "version": str, "proto": int, "go": str, "host": str, "port": int,
    "headers": bool, "max_payload": int, "client_id": int, "client_ip": str,
}  # fmt: skip
# Keys that only one of the servers sends; docs/PROTOCOL.md says why.
OWN_KEYS = {"midge": {"midge"}, "nats-server": {"git_commit", "api_lvl", "xkey", "jetstream"}}
ESCAPE = re.compile(r"\\(r|n|t|\\|x[0-9a-fA-F]{2})")

REPEAT = re.compile(r"\{(.)\*(\d+)\}")


def unescape(text):
    plain = {"r": "\r", "n": "\n", "t": "\t", "\\": "\\"}

    def resolve(match):
        name = match.group(1)
        return plain[name] if name in plain else chr(int(name[1:], 16))

    text = REPEAT.sub(lambda match: match.group(1) * int(match.group(2)), text)
    return ESCAPE.sub(resolve, text).encode("latin-1")


def parse_extras(text):
    """KEY=JSON pairs; a value of `*` takes anything."""
    extras = {}
    for word in text.split():
        key, _, value = word.partition("=")
        extras[key] = "*" if value == "*" else json.loads(value)
    return extras


class Peer:
    """One client connection."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), TIMEOUT_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""

    def send(self, data):
        try:
            self.socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            pass  # closed by the server; the steps that follow say whether that was right

    def fill(self):
        """Receive more; False at the end of the stream."""
        try:
            data = self.socket.recv(1 << 16)
        except ConnectionResetError:
            return False
        except TimeoutError:
            raise Failure(f"nothing more after {show(self.buffer)}") from None
        self.buffer += data
        return bool(data)

    def read_line(self):
        while b"\n" not in self.buffer:
            if not self.fill():
                raise Failure(f"the end, after {show(self.buffer)}")
        line, _, self.buffer = self.buffer.partition(b"\n")
        return line + b"\n"

    def expect(self, data):
        while len(self.buffer) < len(data):
            if not data.startswith(self.buffer):
                break
            if not self.fill():
                raise Failure(f"expected {show(data)}, got {show(self.buffer)} and the end")
        if not self.buffer.startswith(data):
            raise Failure(f"expected {show(data)}, got {show(self.buffer)}")
        self.buffer = self.buffer[len(data) :]

    def expect_end(self):
        if self.buffer or self.fill():
            raise Failure(f"expected the end, got {show(self.buffer)}")

    def read_to_end(self):
        while self.fill():
            pass
        return self.buffer

    def read_to_pong(self):
        while not self.buffer.endswith(b"PONG\r\n"):
            if not self.fill():
                raise Failure(f"the end, after {show(self.buffer)}")
        data, self.buffer = self.buffer.removesuffix(b"PONG\r\n"), b""
        return data


class Transcript:
    """One file, played against one server."""

    def __init__(self, path, kind):
        self.kind = kind
        self.peers = {}
        self.port = None
        self.config = []
        self.steps = []
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if match := re.match(r"only (midge|nats-server): (.*)", line):
                if match.group(1) != kind:
                    continue
                line = match.group(2)
            if line.startswith("config "):
                self.config.append(line.removeprefix("config "))
            elif line.strip() and not line.startswith("#"):
                self.steps.append((number, line))

    def play(self, program):
        with Server(program, "\n".join(self.config)) as server:
            self.port = server.port
            for number, line in self.steps:
                try:
                    self.step(line)
                except Failure as failure:
                    raise Failure(f"line {number}: {line}: {failure}") from None
            for name, peer in self.peers.items():
                peer.socket.close()

    def step(self, line):
        name, _, rest = line.partition(" ")
        verb, _, text = rest.partition(" ")
        steps = {
            "open": self.step_open, "refused": self.step_refused, ">": self.step_send_line,
            ">>": self.step_send_bytes, "flood": self.step_flood, "<": self.step_expect_line,
            "<<": self.step_expect_bytes, "info": self.step_info, "fence": self.step_fence,
            "closed": self.step_closed, "cut": self.step_cut, "close": self.step_close,
            "once": self.step_once, "any": self.step_any,
        }  # fmt: skip
        if verb not in steps:
            raise SystemExit(f"fail: unknown step {line!r}")
        steps[verb](name, text)

    def step_open(self, name, text):
        self.peers[name] = Peer(self.port)
        self.step_info(name, text)

    def step_refused(self, name, _text):
        self.peers[name] = Peer(self.port)
        self.step_info(name, "")

    def step_info(self, name, text):
        line = self.peers[name].read_line()
        if not line.startswith(b"INFO {") or not line.endswith(b"} \r\n"):
            raise Failure(f"expected an INFO line, got {show(line)}")
        info = json.loads(line[len("INFO ") :])
        extras = parse_extras(text)
        for key, wanted in INFO_TYPES.items():
            if key not in extras and type(info.get(key)) is not wanted:
                raise Failure(f"INFO {key} is {info.get(key)!r}, not of type {wanted.__name__}")
        for key, wanted in extras.items():
            if key not in info or (wanted != "*" and info[key] != wanted):
                raise Failure(f"INFO {key} is {info.get(key)!r}, not {wanted!r}")
        if unknown := info.keys() - INFO_TYPES.keys() - extras.keys() - OWN_KEYS[self.kind]:
            raise Failure(f"INFO has unexpected keys {sorted(unknown)}")

    def step_send_line(self, name, text):
        self.peers[name].send(text.encode("latin-1") + b"\r\n")

    def step_send_bytes(self, name, text):
        self.peers[name].send(unescape(text))

    def step_flood(self, name, text):
        count, _, text = text.partition(" ")
        data = unescape(text)
        for _ in range(int(count)):
            self.peers[name].send(data)

    def step_expect_line(self, name, text):
        self.peers[name].expect(text.encode("latin-1") + b"\r\n")

    def step_expect_bytes(self, name, text):
        self.peers[name].expect(unescape(text))

    def step_fence(self, name, _text):
        self.peers[name].send(b"PING\r\n")
        self.peers[name].expect(b"PONG\r\n")

    def step_closed(self, name, _text):
        self.peers[name].expect_end()

    def step_cut(self, name, _text):
        if b"-ERR" in self.peers[name].read_to_end():
            raise Failure("an -ERR before the end")

    def step_close(self, name, _text):
        """The server has seen the end when this returns."""
        self.peers[name].socket.shutdown(socket.SHUT_WR)
        self.peers[name].expect_end()
        self.peers[name].socket.close()

    def step_any(self, name, text):
        parts = [unescape(part.strip()) for part in text.split(" | ")]
        self.peers[name].send(b"PING\r\n")
        got = self.peers[name].read_to_pong()
        if got not in (b"".join(order) for order in itertools.permutations(parts)):
            raise Failure(f"got {show(got)}")

    def step_once(self, names, text):
        text, _, times = text.partition(" x")
        data, count = unescape(text), int(times or 1)
        got = []
        for name in names.split(","):
            self.peers[name].send(b"PING\r\n")
            got.append(self.peers[name].read_to_pong())
        if b"".join(got) != data * count:
            raise Failure(f"expected {count} times {show(data)}, got {[show(part) for part in got]}")


def play_one(path, kind, program):
    """True if it passed; prints one line."""
    started = time.monotonic()
    try:
        Transcript(path, kind).play(program)
        verdict = "passed"
    except Failure as failure:
        verdict = f"FAILED: {failure}"
    print(f"{path.stem}: {verdict} ({time.monotonic() - started:.2f} s)", flush=True)
    return verdict == "passed"


def main(kind, names):
    program = find_server(kind)
    folder = Path(__file__).resolve().parent / "transcripts"
    paths = [Path(name) for name in names] or sorted(folder.glob("*.txt"))
    # The slow ones wait for timers; several at once cost little.
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as executor:
        passed = list(executor.map(lambda path: play_one(path, kind, program), paths))
    print(f"{len(paths)} transcripts, {passed.count(False)} failed")
    return 0 if paths and all(passed) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
