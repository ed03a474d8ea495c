"""Byte vectors: what a server answers to given bytes, recorded from nats-server 2.15.2 (record.py).

    run_golden.py midge|nats-server whole|bytes|split|pairs [--every N] [FILE...]

One vector is one line of JSON (a character is a byte):
    send     what the client sends after CONNECT; a PING always follows
    out      everything that the server answers after its INFO line; later INFO lines read `INFO {} `
    closed   whether the server then closes the connection
    connect  the CONNECT that goes first; null: none. Absent: DEFAULT_CONNECT
    config   server configuration; absent: none
    out_split_1byte, note   where nats-server's own answer depends on how the bytes are cut
    midge    {"out", "closed", "why"}: the broker's answer where it differs on purpose; docs/PROTOCOL.md
             lists these

whole sends each vector in one piece; bytes sends one byte at a time; split cuts it once, at every offset;
pairs cuts short ones twice, at every pair of offsets. The broker's answer must be the same each time.
--every N takes one in N of the conversations of split and pairs, another one for each vector; golden.jsonl
is always taken in full.
"""

import argparse
import contextlib
import itertools
import json
import sys
from pathlib import Path

import exchange
from wire import Failure, Server, encode, find_server, show

DEFAULT_CONNECT = '{"verbose":false,"pedantic":false,"headers":true,"no_responders":true}'
PAIRS_LENGTH_MAX = 24
SERVERS_MAX = 8
LONG_LENGTH = 384  # longer vectors are cut at every offset up to EDGE_LENGTH from an end of a line, and
EDGE_LENGTH = 48  # at every STRIDEth in between
STRIDE = 53
FINDINGS_SHOWN_MAX = 30


class Vector:
    """One recorded vector."""

    def __init__(self, label, record, server):
        answer = record.get("midge", record) if server == "midge" else record
        self.label = label
        self.config = record.get("config", "")
        self.out = encode(answer["out"])
        self.closed = answer["closed"]
        connect = record.get("connect", DEFAULT_CONNECT)
        self.connect = b"" if connect is None else encode(f"CONNECT {connect}\r\n")
        self.send = encode(record["send"])

    def exchange(self, cuts, name):
        """The conversation in which the bytes sent are cut at these offsets of `send`."""
        ends = [0, *cuts, len(self.send)]
        pieces = [self.send[start:end] for start, end in itertools.pairwise(ends)]
        pieces[0] = self.connect + pieces[0]
        pieces[-1] += exchange.FENCE
        label = f"{self.label} {name}"
        closed = self.closed
        return exchange.Exchange(label, pieces, expect=self.out, closes=closed, fence=not closed)

    def offsets(self):
        """Where to cut: everywhere, but in the long runs of long vectors."""
        length = len(self.send)
        if length <= LONG_LENGTH:
            return range(1, length)
        line_ends = [0] + [place for place in range(length) if self.send[place : place + 1] == b"\n"]
        near = {edge + step for edge in [*line_ends, length] for step in range(-EDGE_LENGTH, EDGE_LENGTH)}
        near.update(range(1, length, STRIDE))
        return sorted(offset for offset in near if 0 < offset < length)


def read_vectors(paths, server):
    vectors = []
    for path in paths:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                vectors.append(Vector(f"{path.name}:{number}", json.loads(line), server))
    return vectors


def make_exchanges(vector, mode):
    if mode == "whole":
        yield vector.exchange([], "whole")
    elif mode == "bytes":
        yield vector.exchange(vector.offsets(), "byte by byte")
    elif mode == "split":
        for offset in vector.offsets():
            yield vector.exchange([offset], f"cut at {offset}")
    elif len(vector.send) <= PAIRS_LENGTH_MAX:
        for cuts in itertools.combinations(range(1, len(vector.send)), 2):
            yield vector.exchange(cuts, f"cut at {cuts[0]} and {cuts[1]}")


def choose_exchanges(vector, number, arguments):
    """All conversations of one vector, or one in N, beginning with another one for each vector."""
    every = arguments.every if arguments.mode in ("split", "pairs") else 1
    if vector.label.startswith("golden.jsonl:"):
        every = 1
    return itertools.islice(make_exchanges(vector, arguments.mode), number % every, None, every)


def compare(done):
    """A sentence about what differs, or None."""
    expected = done.expect
    if not done.greeted:
        return "no INFO line"
    if done.out != expected:
        return f"expected {show(expected)}, got {show(done.out)}" + (" and the end" if done.closed else "")
    if done.closed != done.closes:
        return f"{show(expected)} as expected, but " + ("closed" if done.closed else "not closed")
    return None


def run_config(program, config, vectors, arguments):
    findings = []
    exchanges = []
    for number, vector in enumerate(vectors):
        exchanges += choose_exchanges(vector, number, arguments)
    if exchanges:
        alone = sum(done.is_alone() for done in exchanges)
        with contextlib.ExitStack() as stack:
            servers = [Server(program, config) for _ in range(max(1, min(alone, SERVERS_MAX)))]
            ports = [stack.enter_context(server).port for server in servers]
            exchange.run(ports, exchanges)
    for done in exchanges:
        if difference := compare(done):
            findings.append(f"{done.label}: sent {show(b''.join(done.pieces))}: {difference}")
    return len(exchanges), findings


def parse_arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("server", choices=["midge", "nats-server"])
    parser.add_argument("mode", choices=["whole", "split", "bytes", "pairs"])
    parser.add_argument("--every", type=int, default=1, metavar="N")
    parser.add_argument("files", nargs="*", type=Path)
    arguments = parser.parse_args()
    if not arguments.files:
        arguments.files = sorted(Path(__file__).resolve().parent.glob("golden*.jsonl"))
    return arguments


def main():
    arguments = parse_arguments()
    program = find_server(arguments.server)
    vectors = read_vectors(arguments.files, arguments.server)
    if not vectors:
        raise SystemExit("fail: no vectors")
    total, findings = 0, []
    for config in sorted({vector.config for vector in vectors}):
        chosen = [vector for vector in vectors if vector.config == config]
        count, found = run_config(program, config, chosen, arguments)
        total += count
        findings += found
    for finding in findings[:FINDINGS_SHOWN_MAX]:
        print(finding)
    print(f"{len(vectors)} vectors, {total} conversations ({arguments.mode}), {len(findings)} differ")
    return 1 if findings or total == 0 else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failure as failure:
        sys.exit(f"fail: {failure}")
