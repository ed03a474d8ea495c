"""Clients that die at the worst moment, while traffic runs that proves itself: no receiver sees a gap, a
double, another order or a wrong byte, and at the end descriptors and memory are back."""

import os
import random
import select
import socket
import struct
import subprocess
import sys
import threading
import time

from hostile import (
    MIB, SANITIZED, Broker, Client, Failure, Ledger, Skip, check, connect_line, make_random, note, pub,
    sealed, run, wait_until,
)  # fmt: skip

CONNECT = connect_line()
# What a broker keeps once it was busy: reuse lists of 8 MiB, and receive buffers of 8 MiB that a start
# has not touched yet.
KEPT = 16 * MIB
ATTACK_SIZES = (10, 1000, 20000, 300000)


def receive_for_a_while(client):
    """Read once; False if nothing comes for half a second."""
    if not select.select([client.socket], [], [], 0.5)[0]:
        return False
    check(client.receive(1 << 18), f"closed ({client.closed})")
    return True


def take_messages(client):
    """Messages that have been read; PING is answered."""
    frames, client.waiting = client.waiting, []
    if b"PING\r\n" in frames:
        client.send(b"PONG\r\n")
    return [frame for frame in frames if isinstance(frame, tuple)]


class Traffic:
    """Three publishers and three subscribers on threads; every subscriber gets everything, in order."""

    def __init__(self, broker):
        self.ended = threading.Event()
        self.sent = [0, 0, 0]
        self.wrong = []
        self.ledgers = [Ledger() for _ in range(3)]
        self.subscribers = [broker.client() for _ in range(3)]
        for client in self.subscribers:
            client.send(b"SUB traffic.* 1\r\n")
            client.fence()
        self.publishers = [broker.client() for _ in range(3)]
        self.watcher = broker.client()
        self.watcher.send(b"SUB attack 1\r\n")
        self.watcher.fence()
        jobs = [(job, number) for job in (self.publish, self.receive) for number in range(3)]
        jobs.append((self.watch, 0))
        self.threads = [threading.Thread(target=self.guard, args=job, daemon=True) for job in jobs]
        for thread in self.threads:
            thread.start()

    def guard(self, job, number):
        try:
            job(number)
        except (Failure, OSError) as error:
            self.wrong.append(f"{job.__name__} {number}: {error}")
            self.ended.set()

    def publish(self, number):
        client = self.publishers[number]
        size = (20, 500, 20000)[number]
        while not self.ended.is_set():
            batch = []
            for _ in range(5):
                body = b"%d" % self.sent[number] * (self.sent[number] % size)
                batch.append(pub(b"traffic.%d" % number, sealed(number, self.sent[number], body[:size])))
                self.sent[number] += 1
            client.send(b"".join(batch))
            time.sleep(0.004)
        client.fence()

    def receive(self, number):
        client, ledger = self.subscribers[number], self.ledgers[number]
        while not self.ended.is_set() or ledger.count < sum(self.sent):
            if not receive_for_a_while(client):
                wanted = sum(self.sent)
                check(not self.ended.is_set() or ledger.count == wanted, f"{ledger.count} of {wanted} came")
            for message in take_messages(client):
                ledger.take(message[4])

    def watch(self, _):
        """What the attackers publish arrives whole, or not at all."""
        while not self.ended.is_set():
            receive_for_a_while(self.watcher)
            for message in take_messages(self.watcher):
                body = message[4]
                good = len(body) in ATTACK_SIZES and body.count(b"x") == len(body)
                check(good, f"{len(body)} bytes of an attacker that nobody sent so")

    def finish(self):
        self.ended.set()
        for thread in self.threads:
            thread.join(20)
        check(not self.wrong, "; ".join(self.wrong))
        check(not any(thread.is_alive() for thread in self.threads), "traffic does not come to its end")
        for ledger in self.ledgers:
            check(ledger.count == sum(self.sent), f"{ledger.count} of {sum(self.sent)} messages arrived")
        for client in [*self.publishers, *self.subscribers, self.watcher]:
            client.close()
        note(f"{sum(self.sent)} messages to each of 3 subscribers, all exact")


def reset(item):
    item.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    item.close()


def attack_once(port, rng):
    """One short life that ends in the middle of something."""
    item = socket.create_connection(("127.0.0.1", port), timeout=10)
    body = b"x" * rng.choice(ATTACK_SIZES)
    whole = {
        "connect": CONNECT,
        "publish": CONNECT + b"PUB attack %d\r\n%s\r\n" % (len(body), body) * 2,
        "subscribe": CONNECT + b"SUB traffic.> 1\r\nSUB attack 2 3\r\n" + b"SUB traffic.* q 4\r\n",
        "large": CONNECT + b"SUB traffic.> 1\r\n" + b"PUB attack %d\r\n%s\r\n" % (len(body), body),
        "info": b"",
    }[rng.choice(("connect", "publish", "subscribe", "large", "info"))]
    data = whole[: rng.randrange(len(whole) + 1)] if rng.random() < 0.7 else whole
    try:
        item.sendall(data)
        if rng.random() < 0.5:
            item.recv(rng.choice((1, 100, 5000)))
        if rng.random() < 0.1:
            time.sleep(rng.random() * 0.02)
        if rng.random() < 0.1:
            item.shutdown(rng.choice((socket.SHUT_RD, socket.SHUT_WR, socket.SHUT_RDWR)))
    except OSError:
        pass
    if rng.random() < 0.6:
        reset(item)
    else:
        item.close()


def attacker(port, seed):
    """A process of its own: short lives without end, until it is killed."""
    rng = random.Random(seed)
    while True:
        attack_once(port, rng)
        os.write(1, b".")


def back_to_start(broker, fd_count, rss):
    took = wait_until(lambda: broker.fd_count() <= fd_count, "the descriptors of the dead")
    if not SANITIZED:
        wait_until(lambda: broker.rss() <= rss + KEPT, "memory back to what a broker keeps")
    grown = (broker.rss() - rss) / MIB
    note(f"descriptors back after {took:.2f} s, RSS {grown:+.1f} MiB")


class Attackers:
    """Processes that attack, each killed by SIGKILL wherever it happens to be, and replaced."""

    def __init__(self, port, count, rng):
        self.port, self.rng = port, rng
        self.lives = self.kills = 0
        self.running = [self.start() for _ in range(count)]

    def start(self):
        command = [sys.executable, __file__, "attacker", str(self.port), str(self.rng.randrange(1 << 32))]
        return subprocess.Popen(command, stdout=subprocess.PIPE)

    def kill(self, process):
        process.kill()
        self.lives += len(process.stdout.read())
        process.wait()
        self.kills += 1

    def replace_one(self):
        index = self.rng.randrange(len(self.running))
        self.kill(self.running[index])
        self.running[index] = self.start()

    def end(self):
        for process in self.running:
            self.kill(process)


def short_lives(seconds):
    rng = make_random()
    with Broker() as broker:
        with broker.client() as client:
            client.fence()
        fd_count, rss = broker.fd_count(), broker.rss()
        traffic = Traffic(broker)
        attackers = Attackers(broker.port, 3, rng)
        began = time.monotonic()
        half_way = None
        while time.monotonic() - began < seconds:
            time.sleep(rng.uniform(0.05, 0.4))
            attackers.replace_one()
            if half_way is None and time.monotonic() - began > seconds / 2:
                half_way = broker.rss()
            check(not traffic.ended.is_set(), f"traffic: {traffic.wrong}")
        attackers.end()
        note(f"{attackers.lives} lives cut short in {seconds} s, {attackers.kills} processes killed")
        traffic.finish()
        back_to_start(broker, fd_count, rss)
        slope = (broker.rss() - half_way) / MIB
        note(f"RSS {slope:+.2f} MiB since half-time")
        # A short run is still warming up.
        check(slope <= 4 or seconds < 60 or SANITIZED, f"RSS grows: {slope:.2f} MiB in the second half")


def case_short_lives():
    short_lives(8)


def long_short_lives():
    short_lives(100)


def storm(count):
    """ss -K: the kernel aborts a connection, at the broker's end or at the client's."""
    rng = make_random()
    with Broker() as broker:
        if not can_destroy(broker):
            raise Skip("no ss -K here (iproute2, CAP_NET_ADMIN, INET_DIAG_DESTROY)")
        fd_count, rss = broker.fd_count(), broker.rss()
        traffic = Traffic(broker)
        body = pub(b"attack", b"x" * 300000)
        for _ in range(count):
            victim = broker.connect()
            victim.send(CONNECT + b"SUB traffic.> 1\r\n" + body[: rng.randrange(len(body))])
            victim.expect(b"INFO")
            destroy(broker, victim, rng.random() < 0.5)
            try:
                victim.send(b"x")
            except OSError:
                pass
            victim.close()
            check(not traffic.ended.is_set(), f"traffic: {traffic.wrong}")
        note(f"{count} connections aborted by ss -K")
        traffic.finish()
        back_to_start(broker, fd_count, rss)


def destroy(broker, victim, at_broker):
    own = victim.socket.getsockname()[1]
    source, target = (broker.port, own) if at_broker else (own, broker.port)
    command = ["ss", "-K", "-Hnt", "src", f"127.0.0.1:{source}", "dst", f"127.0.0.1:{target}"]
    return subprocess.run(command, capture_output=True, text=True, timeout=20)


def can_destroy(broker):
    try:
        with broker.client() as victim:
            destroy(broker, victim, True)
            return victim.receive() is False
    except (FileNotFoundError, Failure):
        return False


def case_storm_of_resets():
    storm(200)


def long_storm_of_resets():
    storm(1000)


def case_close_in_the_middle_of_a_payload_delivers_nothing():
    """Every length that can be missing from a message of three packets, by FIN and by RST."""
    with Broker() as broker, broker.client() as watcher:
        watcher.send(b"SUB half 1\r\n")
        watcher.fence()
        body = b"y" * 20000
        whole = CONNECT + pub(b"half", body)
        lengths = [*range(len(CONNECT), len(CONNECT) + 40), *range(len(CONNECT) + 40, len(whole), 499),
                   *range(len(whole) - 20, len(whole))]  # fmt: skip
        for length in lengths:
            for end in (Client.close, Client.reset):
                client = broker.connect()
                client.send(whole[:length])
                end(client)
        client = broker.connect()
        client.send(whole + b"PING\r\n")
        client.expect(b"PONG")
        messages = watcher.messages()
        check(messages == [("MSG", b"half", b"1", b"", body)], f"{len(messages)} messages were delivered")
        note(f"{len(lengths) * 2} messages cut, none delivered")
        client.close()


def case_queue_group_serves_each_message_once_and_forgets_its_dead():
    count = 20000
    with Broker() as broker, broker.client() as publisher:
        members = [broker.client() for _ in range(12)]
        for member in members:
            member.send(b"SUB work group 1\r\n")
            member.fence()
        fd_count = broker.fd_count()
        for member in members[10:]:
            member.reset()
        wait_until(lambda: broker.fd_count() == fd_count - 2, "the end of two members")
        for first in range(0, count, 500):
            publisher.send(b"".join(pub(b"work", b"%d" % (first + i)) for i in range(500)))
        publisher.fence()
        shares = [[int(message[4]) for message in member.messages()] for member in members[:10]]
        got = sorted(number for share in shares for number in share)
        check(got == list(range(count)), f"{len(got)} deliveries of {count} messages, or not each one once")
        check(all(share == sorted(share) for share in shares), "a member got its messages out of order")
        sizes = sorted(len(share) * 100 / count for share in shares)
        note(f"shares of 10 members: {sizes[0]:.1f} to {sizes[-1]:.1f} %")
        check(8 <= sizes[0] and sizes[-1] <= 12, f"shares are uneven: {sizes}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["attacker"]:
        attacker(int(sys.argv[2]), int(sys.argv[3]))
    else:
        run(globals())
