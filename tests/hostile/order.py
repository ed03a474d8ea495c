"""Operations in every order, before and after CONNECT, with and without credentials: the broker answers
as a small model says, and nothing that came before authentication reaches anybody."""

import itertools
import json

from hostile import Broker, Client, check, note, run, wait_until

AUTH = {
    "none": ("", {}),
    "user": ("authorization { user: u, password: p }", {"user": "u", "pass": "p"}),
    "token": ("authorization { token: t }", {"auth_token": "t"}),
}
WRONG = {"user": "u", "pass": "wrong", "auth_token": "wrong"}
VERBS = (
    "GOOD", "WRONG", "EMPTY", "PUB", "HPUB", "SUB", "UNSUB", "PING", "PONG", "INFO", "+OK", "-ERR", "JUNK",
)  # fmt: skip


def connect(fields):
    text = json.dumps({"verbose": False, "pedantic": False, "headers": True, **fields})
    return b"CONNECT " + text.encode() + b"\r\n"


def line_of(verb, good, payload):
    """What the client sends for one verb."""
    if verb in ("PUB", "HPUB"):
        head = b"NATS/1.0\r\n\r\n"
        if verb == "PUB":
            return b"PUB order.any %d\r\n%s\r\n" % (len(payload), payload)
        sizes = (len(head), len(head) + len(payload))
        return b"HPUB order.any %d %d\r\n%s%s\r\n" % (*sizes, head, payload)
    return {
        "GOOD": connect(good),
        "WRONG": connect(WRONG),
        "EMPTY": connect({}),
        "SUB": b"SUB order.any 1\r\n",
        "UNSUB": b"UNSUB 1\r\n",
        "PING": b"PING\r\n",
        "PONG": b"PONG\r\n",
        "INFO": b"INFO {}\r\n",
        "+OK": b"+OK\r\n",
        "-ERR": b"-ERR 'x'\r\n",
        "JUNK": b"JUNK\r\n",
    }[verb]


class Model:
    """What one connection may do. Source: nats-server v2.15.2, server/parser.go:137, client.go:2274."""

    def __init__(self, needs_auth):
        self.needs_auth, self.authenticated, self.headers = needs_auth, not needs_auth, False
        self.open, self.delivered, self.pongs = True, 0, 0

    def take(self, verb):
        if not self.open:
            return
        if verb in ("GOOD", "WRONG", "EMPTY"):
            # A CONNECT keeps what an earlier one said and it does not.
            good = not self.needs_auth or verb == "GOOD" or (verb == "EMPTY" and self.authenticated)
            self.open = self.authenticated = good
            self.headers = good
        elif not self.authenticated or verb in ("-ERR", "JUNK") or (verb == "HPUB" and not self.headers):
            self.open = False
        elif verb in ("PUB", "HPUB"):
            self.delivered += 1
        elif verb == "PING":
            self.pongs += 1


def sequences(prefix):
    for length in (1, 2, 3):
        for verbs in itertools.product(VERBS, repeat=length):
            yield prefix + verbs


def run_sequence(broker, verbs, good, model, number):
    """Send all at once, and PING behind it; check what comes back."""
    payload = b"%d" % number
    with Client(broker.port) as client:
        try:
            client.send(b"".join(line_of(verb, good, payload) for verb in verbs) + b"PING\r\n")
        except OSError:
            pass  # the broker may close while we still send
        model.take("PING")
        pongs = 0
        while not (model.open and pongs == model.pongs):
            frame = client.next_frame()
            if frame is None:
                break
            pongs += frame == b"PONG\r\n"
    closed = client.closed is not None
    check(closed != model.open, f"{verbs}: {'closed' if closed else 'open'}, the model says otherwise")
    check(pongs == model.pongs, f"{verbs}: {pongs} PONG, {model.pongs} expected")


def all_orders(mode, prefix):
    config, good = AUTH[mode]
    expected = {}
    with Broker(config=config) as broker:
        observer = broker.client(**good)
        observer.send(b"SUB order.> 1\r\n")
        observer.fence()
        received = {}
        count = 0
        for count, verbs in enumerate(sequences(prefix), 1):
            model = Model(mode != "none")
            for verb in verbs:
                model.take(verb)
            if model.delivered:
                expected[b"%d" % count] = model.delivered
            run_sequence(broker, verbs, good, model, count)
            if count % 200 == 0:
                collect(observer, received)
        collect(observer, received)
        note(f"{mode}, behind {prefix or 'nothing'}: {count} orders, {sum(received.values())} messages")
        wrong = {key for key in expected.keys() | received.keys() if expected.get(key) != received.get(key)}
        check(not wrong, f"deliveries differ from the model in connections {sorted(wrong)[:5]}")


def collect(observer, received):
    for message in observer.messages():
        payload = message[4].removeprefix(b"NATS/1.0\r\n\r\n")
        received[payload] = received.get(payload, 0) + 1


def case_without_credentials():
    all_orders("none", ())
    all_orders("none", ("GOOD",))


def case_user_and_password():
    all_orders("user", ())
    all_orders("user", ("GOOD",))


def case_token():
    all_orders("token", ())
    all_orders("token", ("GOOD",))


def case_nothing_but_a_whole_connect_stops_the_auth_timeout():
    """Each verb cut at each byte, then silence: closed at once, or at the timeout; never later."""
    config = 'authorization { user: u, password: p, timeout: "1s" }'
    good = {"user": "u", "pass": "p"}
    with Broker(config=config) as broker:
        base = broker.fd_count()
        clients = []
        for verb in VERBS:
            line = line_of(verb, good, b"x")
            # Of a CONNECT enough bytes to cut it in the verb, between, and in the JSON.
            for length in range(1, min(len(line), 60)):
                client = Client(broker.port)
                client.send(line[:length])
                clients.append(client)
        took = wait_until(lambda: broker.fd_count() == base, "the end of all")
        note(f"{len(clients)} cut operations: the last closed {took:.2f} s after it was sent")
        for client in clients:
            last = client.read_to_end()[-1]
            good = last in (b"-ERR 'Authentication Timeout'\r\n", b"-ERR 'Authorization Violation'\r\n",
                            b"-ERR 'Unknown Protocol Operation'\r\n")  # fmt: skip
            check(good, f"closed with {last!r}")
            client.close()


if __name__ == "__main__":
    run(globals())
