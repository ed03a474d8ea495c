"""The loads through client libraries, and the rows that are read from them.

A case is one load and the libraries that get it. Every run has a server of its own, started afresh. A row
takes one figure of a case, says what it is compared with, and what it should be.
"""

from . import rounds, subjects

SPIN_US = "200"  # longer than a round trip: what is on its way comes before anybody sleeps

LOADS = {  # name: (program, label, flags)
    "raw": ("midge-load-raw", "blocking sockets", ()),
    "midge": ("midge-load-libmidge", "libmidge", ()),
    "natsc": ("midge-load-natsc", "nats.c", ()),
    "natsc-asap": ("midge-load-natsc", "nats.c (SendAsap)", ("--send-asap",)),
    "relay": ("midge-raw", "relay, blocking sockets", ()),
}


class Load:
    """One program that makes load. A name that ends in `-again` is the same once more (A/A)."""

    def __init__(self, name, build):
        plain = name.removesuffix("-again")
        program, label, flags = LOADS[plain]
        self.name = name
        self.label = label + (" (A/A)" if name != plain else "")
        self.program = subjects.find_program(program, build, program.upper().replace("-", "_"))
        self.flags = list(flags)
        self.is_relay = plain == "relay"


class Sizes:
    """How much each run does: in full, or just enough to see that everything works."""

    def __init__(self, is_short=False):
        self.trips = 500 if is_short else 20000
        self.requests = 2000 if is_short else 200000
        self.messages = 20000 if is_short else 2000000
        self.warmup = 200 if is_short else 2000
        self.clients = 20 if is_short else 200
        self.trips_each = 100  # of each client whose memory is read


class Case:
    """`is_apart`: the server has a core of its own, and both sides watch for bytes instead of sleeping. A
    relay and its load share one core all the same."""

    def __init__(self, name, load, names, is_apart=False, seconds=1.0):
        self.name = name
        self.load = [str(word) for word in load]
        self.names = list(names)
        self.is_apart = is_apart
        self.seconds = seconds  # of one run, roughly

    def arguments(self, load):
        """Of that program in this case."""
        own = ["--responder", "own", "--spin-us", SPIN_US] if self.is_apart and not load.is_relay else []
        return [*self.load, *own, *load.flags]

    def everybody(self):
        return self.names

    def turn(self, _):
        """Names that run in a round: all in each."""
        return self.names

    def planned_seconds(self, rounds):
        return self.seconds * rounds * len(self.names)


def make(sizes):
    """All cases, in the order in which a round runs them."""
    warmup = ["--warmup", sizes.warmup]
    trip = ["rtt", *warmup, "--size", 16, "--count", sizes.trips]
    trip_seconds = 0.3 + 60e-6 * sizes.trips
    return [
        Case("rtt", [*trip, "--alternate"], ("raw", "midge", "midge-again", "natsc-asap", "natsc"),
             seconds=2 * trip_seconds),
        Case("req", ["req", *warmup, "--size", 16, "--in-flight", 64, "--count", sizes.requests],
             ("raw", "midge", "midge-again", "natsc", "natsc-asap"), seconds=0.3 + 6e-6 * sizes.requests),
        Case("sub", ["sub", *warmup, "--size", 16, "--count", sizes.messages],
             ("raw", "midge", "midge-again", "natsc"), seconds=0.3 + 0.6e-6 * sizes.messages),
        Case("pair", trip, ("relay", "relay-again", "midge", "midge-again", "natsc-asap"), is_apart=True,
             seconds=trip_seconds),
        Case("mem", ["mem", "--size", 16, "--clients", sizes.clients, "--count", sizes.trips_each],
             ("midge", "midge-again", "natsc"), seconds=0.3 + 50e-6 * sizes.clients * sizes.trips_each),
    ]


def derive(result):
    """What a run says beyond what it reported."""
    if "client_cpu_ns" in result:
        result["cpu_ns"] = result["client_cpu_ns"] / result["count"]
        result["per_cpu_s"] = 1e9 / result["cpu_ns"]
    if result.get("socket_p50_ns") is not None:
        result["added_ns"] = result["p50_ns"] - result["socket_p50_ns"]


class Row(rounds.Row):
    """… with the columns of no library and of nats.c; its figure is libmidge's."""

    def __init__(self, text, case, key, base, limit=None, is_floor=False, is_value=False,
                 neutral="raw", neutral_key=None, other="natsc", again=("midge-again", "midge")):
        super().__init__(text, case, key, base, limit, is_floor, is_value, "midge", again)
        self.neutral = neutral  # in the column without a library
        self.neutral_key = neutral_key or key
        self.other = other  # in the column of nats.c


def rows():
    return [
        Row("blocking request: time added at p50", "rtt", "added_ns", "natsc-asap", 0.2,
            neutral_key="socket_p50_ns", other="natsc-asap", again=("raw", "natsc-asap")),
        Row("same, nats.c without SendAsap", "rtt", "added_ns", "natsc", neutral_key="socket_p50_ns",
            again=("raw", "natsc")),
        Row("same: client CPU per request", "rtt", "cpu_ns", "natsc-asap", other="natsc-asap"),
        Row("64 requests in flight: client CPU per request", "req", "cpu_ns", "natsc", 0.3333),
        Row("same, nats.c with SendAsap", "req", "cpu_ns", "natsc-asap", other="natsc-asap"),
        Row("16 B, counted: messages per client CPU second", "sub", "per_cpu_s", "natsc", 2, is_floor=True),
        Row("requester and responder in one thread, server on the other core: p50", "pair", "p50_ns",
            "relay", 0.9, neutral="relay", other="natsc-asap", again=("relay-again", "relay")),
        Row("connected client: VmRSS each", "mem", "resident_each", "natsc", 64 * 1024, is_value=True,
            neutral=""),
    ]
