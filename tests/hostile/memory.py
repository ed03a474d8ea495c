"""Memory that peers make the broker use: bounded by max_memory, small before authentication, and given
back afterwards. Who uses most pays first; the others lose nothing."""

import socket
import tempfile
import threading
import time
from pathlib import Path

from hostile import (
    MIB, SANITIZED, Broker, Client, Failure, check, connect_line, note, pub,
    raise_descriptor_limit, run, wait_until,
)  # fmt: skip

KIB = 1 << 10
# Resident bytes for one connection that has not authenticated: slot, line buffer, and their share.
PREAUTH_MAX = 12 * KIB
MAX_SUBS = b"-ERR 'maximum subscriptions exceeded'\r\n"


def stalled_subscriber(broker, subject):
    client = Client(broker.port, receive_buffer=4096)
    client.handshake()
    client.send(b"SUB %s 1\r\n" % subject)
    client.fence()
    return client


class Pair:
    """Two clients that must not notice anything."""

    def __init__(self, broker):
        self.publisher, self.subscriber = broker.client(), broker.client()
        self.subscriber.send(b"SUB pair 1\r\n")
        self.subscriber.fence()
        self.number = 0

    def exchange(self, count=20):
        for _ in range(count):
            payload = b"%d" % self.number
            self.publisher.send(pub(b"pair", payload))
            frame = self.subscriber.next_frame()
            check(frame == ("MSG", b"pair", b"1", b"", payload), f"{payload!r} did not come: {frame!r}")
            self.number += 1


def case_who_holds_most_is_closed_first():
    config = "max_memory: 32MB\nmax_pending: 32MB\nno_fast_producer_stall: true"
    with Broker(config=config) as broker:
        pair = Pair(broker)
        stalled = {name: stalled_subscriber(broker, name) for name in (b"small", b"middle", b"large")}
        publisher = broker.client()
        # The kernel takes up to 7 MiB of each; what is over waits in the broker.
        for name, count in ((b"small", 800), (b"middle", 1200), (b"large", 1600)):
            publisher.send(pub(name, b"x" * 8000) * count)
            publisher.fence()
            pair.exchange()
        check("max_memory of" not in broker.log(), "max_memory was reached too early")
        fd_count = broker.fd_count()
        for _ in range(5000):
            publisher.send(pub(b"large", b"x" * 8000) + pub(b"small", b"x" * 80))
            if "max_memory of" in broker.log():
                break
        wait_until(lambda: "max_memory of" in broker.log(), "the log line of max_memory")
        wait_until(lambda: broker.fd_count() < fd_count, "the end of a connection")
        time.sleep(0.1)
        pair.exchange()
        check(broker.fd_count() == fd_count - 1, "more than one connection was closed")
        line = next(line for line in broker.log().split("\n") if "max_memory of" in line)
        port = stalled[b"large"].socket.getsockname()[1]
        check(f"127.0.0.1:{port} " in line, f"another than the one that holds most was closed: {line}")
        note(line[line.index("max_memory") :])
        publisher.fence()
        pair.exchange()


def subscribe_until_refused(client, limit):
    """Subscribe in batches until the broker says no; returns how many it took."""
    count = 0
    while count < limit:
        lines = b"".join(b"SUB fill.%d.%d.>.x 1%d\r\n" % (count + i, i, count + i) for i in range(500))
        client.send(lines.replace(b".>.x", b".>"))
        answers = client.fence()
        refused = answers.count(MAX_SUBS)
        others = [answer for answer in answers if answer != MAX_SUBS]
        check(not others, f"answers to SUB: {others[:3]}")
        count += 500 - refused
        if refused:
            return count
    raise Failure(f"{limit} subscriptions were taken")


def case_subscriptions_over_max_memory_are_refused_and_nobody_else_pays():
    with Broker(config="max_memory: 16MB") as broker:
        pair = Pair(broker)
        others = [broker.client() for _ in range(5)]
        before = broker.rss()
        filler = broker.client()
        count = subscribe_until_refused(filler, 1000000)
        grown = broker.rss() - before
        note(f"{count} subscriptions, RSS grew by {grown / MIB:.1f} MiB ({grown / count:.0f} bytes each)")
        check(grown < 64 * MIB or SANITIZED, "the index grew far beyond max_memory")
        for _ in range(10):
            pair.exchange()
            for other in others:
                other.fence()
            time.sleep(0.01)
        others[0].send(b"SUB another 1\r\n")
        check(others[0].fence() == [MAX_SUBS], "a subscription was not refused")
        # A client that fills its own output is none of the others either.
        check("closing the connection" not in broker.log(), "connections were closed")
        filler.close()
        wait_until(lambda: subscribed(others[0]), "room for subscriptions after the filler has gone")
        pair.exchange()


def case_a_second_connect_gives_back_what_its_subscriptions_cost():
    """As many can be made again, and again; nobody else notices, and nothing old is delivered."""
    with Broker(config="max_memory: 16MB") as broker:
        pair = Pair(broker)
        filler, publisher = broker.client(), broker.client()
        count = subscribe_until_refused(filler, 1000000)
        for _ in range(3):
            filler.send(connect_line())
            filler.fence()
            for number in range(count):
                publisher.send(pub(b"fill.%d.%d.x" % (number, number % 500), b"old"))
                if number % 1000 == 0:
                    pair.exchange(1)
            publisher.fence()
            messages = filler.messages()
            check(messages == [], f"delivered after the CONNECT: {messages[:3]}")
            wait_until(lambda: subscribed(publisher), "room for subscriptions")
            publisher.send(b"UNSUB 7\r\n")
            again = subscribe_until_refused(filler, 1000000)
            note(f"{count} subscriptions, then {again}")
            check(again > count * 9 // 10, f"only {again} after {count} were dropped")
        check("closing the connection" not in broker.log(), "connections were closed")


def case_long_sids_count_against_max_memory():
    """The index holds one subject; the subscriptions hold 4 KB each."""
    with Broker(config="max_memory: 16MB") as broker, broker.client() as filler:
        pair = Pair(broker)
        before = broker.rss()
        count = 0
        while True:
            filler.send(b"".join(b"SUB a %s%d\r\n" % (b"s" * 4000, count + i) for i in range(500)))
            answers = filler.fence()
            count += 500 - len(answers)
            if answers:
                break
            check(count < 20000, f"{count} subscriptions of 4 KB were taken")
        grown = broker.rss() - before
        note(f"{count} subscriptions of 4 KB, RSS grew by {grown / MIB:.1f} MiB")
        check(grown <= 24 * MIB or SANITIZED, f"RSS grew by {grown / MIB:.1f} MiB")
        pair.exchange()


def subscribed(client):
    client.send(b"SUB later 7\r\n")
    return client.fence() == []


def case_half_connects_cost_little():
    count = 5000
    raise_descriptor_limit(count + 1000)
    for name, data in (("nothing", b""), ("half a CONNECT", b'CONNECT {"user":"' + b"u" * 1000)):
        with Broker("--user", "u", "--pass", "p", config="authorization { timeout: 60 }") as broker:
            warm = [broker.connect() for _ in range(10)]
            before = broker.rss()
            sockets = connect_many(broker.port, count, data)
            wait_until(lambda: broker.fd_count() > count, "all connections")
            time.sleep(0.3)
            each = (broker.rss() - before) / count
            note(f"{count} connections that sent {name}: {each / KIB:.2f} KiB each")
            check(each <= PREAUTH_MAX or SANITIZED, f"{each / KIB:.1f} KiB for each connection")
            for item in [*sockets, *(client.socket for client in warm)]:
                item.close()
            wait_until(lambda: broker.fd_count() < 20, "the end of all connections")


def case_subscriptions_that_left_give_their_memory_back_to_the_system():
    count = 20000 if SANITIZED else 300000
    with Broker() as broker, broker.client() as pair:
        before = broker.rss()
        with broker.client() as client:
            for first in range(0, count, 10000):
                numbers = range(first, first + 10000)
                client.send(b"".join(b"SUB fleet.%d.state %d\r\n" % (i, i) for i in numbers))
            client.fence()
            grown = broker.rss() - before
        if not SANITIZED:
            took = wait_until(lambda: broker.rss() <= before + grown / 4, "memory back", 20)
            note(f"{grown / count:.0f} bytes for each of {count}, back after {took:.1f} s")
        pair.fence()


def connect_many(port, count, data):
    sockets = []
    for _ in range(count):
        item = socket.create_connection(("127.0.0.1", port))
        if data:
            item.send(data)
        sockets.append(item)
    return sockets


def case_slowloris_ends_at_the_auth_timeout():
    """One byte at a time keeps nobody in: the timeout counts from the first moment."""
    count = 300
    config = 'authorization { user: u, password: p, timeout: "1s" }'
    with Broker(config=config) as broker, broker.client(user="u", **{"pass": "p"}) as other:
        line = b'CONNECT {"verbose":false,"user":"u","pass":"p"}\r\n'
        fd_count = broker.fd_count()
        sockets = connect_many(broker.port, count, b"")
        began = time.monotonic()
        sent = 0
        while (left := broker.fd_count() - fd_count) > 0 or sent == 0:
            # Twice the timeout for the whole line, and more on a slow machine: a count, not a time.
            check(sent < len(line), f"{left} are still open, and have sent all of it")
            for item in sockets:
                try:
                    item.send(line[sent : sent + 1])
                except OSError:
                    pass
            sent += 1
            other.fence()
            time.sleep(0.05)
        took = time.monotonic() - began
        note(f"{count} connections closed after {took:.2f} s and {sent} bytes each; timeout 1 s")
        check(took >= 0.7, f"closed after {took:.2f} s already")
        sockets[0].settimeout(5)
        data = b""
        try:
            while more := sockets[0].recv(4096):
                data += more
        except ConnectionResetError:
            pass
        check(data.endswith(b"-ERR 'Authentication Timeout'\r\n"), f"closed with {data[-60:]!r}")


MALFORMED = (
    b"CONNECT {\r\n",
    b'CONNECT {"user":"' + b"u" * 3000 + b"\r\n",
    b'CONNECT {"user":' + b"[" * 300 + b"\r\n",
    b'CONNECT {"user":"\\ud800","pass":"\\u00"}\r\n',
    b'CONNECT {"protocol":99999999999999999999}\r\n',
    b'CONNECT {"protocol":7,"name":"' + b"n" * 2000 + b'"}\r\n',
    b'CONNECT {"account":"a","new_account":true}\r\n',
    b"CONNECT " + b"x" * 5000 + b"\r\n",
    b"CONNECT \xff\xfe\x00\r\n",
    b'CONNECT {"name":"' + b"n" * 2000 + b'","no_responders":true}\r\n',
)


def malformed_connects(count):
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "socket")
        with Broker("--unix", path) as broker:

            def attack(first, last):
                for number in range(first, last):
                    with socket.socket(socket.AF_UNIX) as item:
                        item.connect(path)
                        item.sendall(MALFORMED[number % len(MALFORMED)])
                        try:
                            while item.recv(65536):
                                pass
                        except ConnectionResetError:
                            pass

            attack(0, 1000)
            before = broker.rss()
            began = time.monotonic()
            attack(1000, count)
            grown = broker.rss() - before
            rate = (count - 1000) / (time.monotonic() - began)
            note(f"{count} malformed CONNECTs, {rate:.0f}/s: RSS grew by {grown / KIB:.0f} KiB")
            check(grown <= 4 * MIB or SANITIZED, f"RSS grew by {grown / MIB:.1f} MiB")
            with broker.client():
                pass


def case_malformed_connects_leak_nothing():
    malformed_connects(10000)


def long_malformed_connects_leak_nothing():
    malformed_connects(100000)


def case_announced_payloads_cost_what_was_sent():
    """Each connection announces 1 MiB and sends 100 bytes of it."""
    count = 1000
    raise_descriptor_limit(count + 1000)
    with Broker() as broker:
        pair = Pair(broker)
        before = broker.rss()
        sockets = connect_many(broker.port, count, b"PUB a 1048576\r\n" + b"x" * 100)
        wait_until(lambda: broker.fd_count() > count, "all connections")
        time.sleep(0.3)
        each = (broker.rss() - before) / count
        note(f"{each / KIB:.1f} KiB for each of {count} connections")
        check(each <= 24 * KIB or SANITIZED, f"{each / KIB:.1f} KiB for each connection")
        pair.exchange()
        for item in sockets:
            item.close()
        wait_until(lambda: broker.fd_count() < 20, "the end of all connections")
        pair.exchange()


def case_announced_payloads_count_against_max_memory():
    count = 200
    with Broker(config="max_memory: 64MB") as broker:
        pair = Pair(broker)
        base = broker.fd_count()
        sockets = connect_many(broker.port, count, b"PUB a 1048576\r\n" + b"x" * 100)
        wait_until(lambda: "max_memory of" in broker.log(), "the log line of max_memory")
        # Nothing comes in meanwhile: the broker goes on for itself.
        time.sleep(0.5)
        took = wait_until(lambda: broker.fd_count() - base <= 64, "the end of those over max_memory")
        time.sleep(0.5)
        pair.exchange()
        left = broker.fd_count() - base
        note(f"{left} of {count} connections left under max_memory of 64 MiB after {took + 0.5:.1f} s")
        check(left >= 16, f"only {left} connections left: more were closed than needed")
        for item in sockets:
            item.close()


def hold_and_release(broker, publisher):
    stalled = [stalled_subscriber(broker, b"burst") for _ in range(4)]
    for _ in range(400):
        publisher.send(pub(b"burst", b"x" * 8000) * 10)
    publisher.fence()
    highest = broker.rss()
    for client in stalled:
        client.close()
    return highest


def returns_after_burst(background_s):
    """RSS after a burst; with background traffic every background_s, or none if it is 0."""
    with Broker(config="no_fast_producer_stall: true") as broker:
        pair = Pair(broker)
        publisher = broker.client()
        before = broker.rss()
        highest = hold_and_release(broker, publisher)
        ended = threading.Event()

        def chatter():
            while not ended.wait(background_s):
                pair.exchange(1)

        if background_s:
            thread = threading.Thread(target=chatter, daemon=True)
            thread.start()
        allowed = before + 24 * MIB
        try:
            if not SANITIZED:
                took = wait_until(lambda: broker.rss() <= allowed, "memory back", 10)
                note(f"{before / MIB:.0f} MiB before, {highest / MIB:.0f} at most, back after {took:.1f} s")
        finally:
            note(f"RSS now {broker.rss() / MIB:.0f} MiB")
            ended.set()


def case_memory_comes_back_after_a_burst():
    returns_after_burst(0)


def case_memory_comes_back_after_a_burst_under_light_traffic():
    returns_after_burst(0.1)


if __name__ == "__main__":
    run(globals())
