"""Many short conversations with a server at once, each sent in pieces of the caller's choice.

One conversation: connect, read the INFO line, send the pieces one by one, read what comes. Conversations
of a batch advance in step, with a short time between two pieces, so that the server sees them as separate
reads.

Conversations on one server share its subjects. Those that both subscribe and publish would hear each
other, so of these a server holds one at a time, and several servers share the work.
"""

import re
import select
import socket
import time

from wire import mask_info

BATCH_SIZE = 250
ROUND_S_MIN = 0.0003  # shortest time between two pieces of one conversation
RTT_PING_S_MIN = 1.9  # a server sends its first PING two seconds after CONNECT, or a little later
RTT_PING = re.compile(rb"(?<![^\n])PING\r\n")
END_TIMEOUT_S = 20
FENCE = b"PING\r\n"
FENCE_REPLY = b"PONG\r\n"
SUBSCRIBES = re.compile(rb"sub[ \t]", re.IGNORECASE)
PUBLISHES = re.compile(rb"pub[ \t]", re.IGNORECASE)


class Exchange:
    """One conversation. After run(): `out` is what came after the INFO line, `closed` whether it ended."""

    def __init__(self, label, pieces, expect=None, closes=None, fence=False):
        self.label = label
        self.pieces = pieces
        self.expect = expect  # bytes, INFO lines masked; None: read until nothing comes for a while
        self.closes = closes
        self.fence = fence  # afterwards a PING must give a PONG and nothing else
        self.out = b""
        self.closed = False
        self.received = b""
        self.greeted = False
        self.socket = None
        self.opened_at = 0.0

    def subscribes(self):
        return SUBSCRIBES.search(b"".join(self.pieces)) is not None

    def is_alone(self):
        """True if another conversation like it on the same server would hear it."""
        return self.subscribes() and PUBLISHES.search(b"".join(self.pieces)) is not None

    def open(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.opened_at = time.monotonic()

    def send(self, data):
        if self.closed or not data:
            return
        try:
            sent = self.socket.send(data)
            while sent < len(data):
                select.select([], [self.socket], [], 10)
                sent += self.socket.send(data[sent:])
        except (BrokenPipeError, ConnectionResetError):
            pass  # the server has closed; what it sent before is still to be read

    def receive(self):
        try:
            data = self.socket.recv(1 << 20)
        except BlockingIOError:
            return
        except ConnectionResetError:
            data = b""
        if not data:
            self.closed = True
        self.received += data
        if not self.greeted:
            end = self.received.find(b"\r\n")
            if end < 0 or not self.received.startswith(b"INFO {"):
                return
            self.greeted = True
            self.received = self.received[end + 2 :]
        self.out = mask_info(self.received)
        if time.monotonic() - self.opened_at > RTT_PING_S_MIN and not RTT_PING.search(self.expect or b""):
            self.out = RTT_PING.sub(b"", self.out, count=1)

    def end(self):
        """Tell the server that nothing more comes."""
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it has closed already

    def wait_for_end(self):
        self.socket.settimeout(END_TIMEOUT_S)
        try:
            while self.socket.recv(1 << 20):
                pass
        except ConnectionResetError:
            pass
        self.socket.close()

    def is_answered(self):
        if self.closed:
            return True
        if self.expect is None or self.closes:
            return False
        return len(self.out) >= len(self.expect)


def receive_until(exchanges, is_done, timeout_s, quiet_s=None):
    """Read on all connections until each is done, the time is up, or nothing came for `quiet_s`."""
    waiting = {exchange.socket.fileno(): exchange for exchange in exchanges if not is_done(exchange)}
    poll = select.epoll()
    for fileno in waiting:
        poll.register(fileno, select.EPOLLIN)
    now = time.monotonic()
    deadline, quiet_at = now + timeout_s, now + (quiet_s or timeout_s)
    while waiting and now < min(deadline, quiet_at):
        for fileno, _ in poll.poll(min(deadline, quiet_at) - now):
            exchange = waiting[fileno]
            exchange.receive()
            quiet_at = time.monotonic() + (quiet_s or timeout_s)
            if is_done(exchange):
                poll.unregister(fileno)
                del waiting[fileno]
        now = time.monotonic()
    poll.close()


def send_in_rounds(exchanges):
    for number in range(max(len(exchange.pieces) for exchange in exchanges)):
        started = time.monotonic()
        for exchange in exchanges:
            if number < len(exchange.pieces):
                exchange.send(exchange.pieces[number])
        rest = ROUND_S_MIN - (time.monotonic() - started)
        if rest > 0:
            time.sleep(rest)


def run_batch(exchanges, ports, timeout_s, quiet_s):
    """Hold one conversation at each of the ports; afterwards each server has seen the end of its own."""
    for exchange, port in zip(exchanges, ports):
        exchange.open(port)
    receive_until(exchanges, lambda exchange: exchange.greeted or exchange.closed, timeout_s)
    send_in_rounds(exchanges)
    receive_until(exchanges, Exchange.is_answered, timeout_s, quiet_s)
    fenced = [exchange for exchange in exchanges if exchange.fence and not exchange.closed]
    for exchange in fenced:
        exchange.send(FENCE)
        exchange.expect += FENCE_REPLY
    receive_until(fenced, Exchange.is_answered, timeout_s)
    for exchange in exchanges:
        exchange.end()
    for exchange in exchanges:
        exchange.wait_for_end()


def batches(exchanges, size):
    """Slices of at most `size`, with about as many pieces each, so that few wait for the others' rounds."""
    batch = []
    for exchange in sorted(exchanges, key=lambda exchange: len(exchange.pieces)):
        if batch and (len(batch) == size or len(exchange.pieces) > 2 * len(batch[0].pieces) + 16):
            yield batch
            batch = []
        batch.append(exchange)
    if batch:
        yield batch


def run(ports, exchanges, timeout_s=20, quiet_s=None):
    """Hold all conversations with equal servers."""
    others = [exchange for exchange in exchanges if not exchange.is_alone()]
    subscribing = [exchange for exchange in others if exchange.subscribes()]
    publishing = [exchange for exchange in others if not exchange.subscribes()]
    for batch in batches([exchange for exchange in exchanges if exchange.is_alone()], len(ports)):
        run_batch(batch, ports, timeout_s, quiet_s)
    for batch in [*batches(subscribing, BATCH_SIZE), *batches(publishing, BATCH_SIZE)]:
        run_batch(batch, [ports[0]] * len(batch), timeout_s, quiet_s)
