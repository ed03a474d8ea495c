"""A small broker in Python, right in all but one point, for a load generator that must find the point."""

import socket
import threading

FAULT_AT = 25  # which message to an inbox, or to a subscriber of `bench`, the fault hits


class Connection:
    """One client of the fake broker: lines in, frames out."""

    def __init__(self, broker, peer):
        self.broker = broker
        self.peer = peer
        self.lock = threading.Lock()
        self.sids = {}  # by subject
        self.before_pong = b""

    def send(self, data):
        with self.lock:
            try:
                self.peer.sendall(data)
            except OSError:
                pass  # the client has seen enough

    def serve(self):
        try:
            self.converse()
        except OSError:
            pass  # the client has seen enough

    def converse(self):
        self.send(b'INFO {"server_id":"X","version":"2.15.2","max_payload":1048576} \r\n')
        with self.peer.makefile("rb") as lines:
            for line in lines:
                words = line.split()
                if words[0] == b"SUB":
                    self.sids[words[1].decode()] = words[-1].decode()
                elif words[0] == b"PING" and self.broker.may_answer():
                    self.send(self.before_pong + b"PONG\r\n")
                elif words[0] == b"PUB":
                    payload = lines.read(int(words[-1]) + 2)
                    self.broker.publish(self, [word.decode() for word in words[1:-1]], payload)


class FakeBroker:
    """Delivers each message to whoever subscribed its subject; `fault` may change the frames, and only
    so many PINGs are answered."""

    def __init__(self, fault=None, pongs=None):
        self.fault = fault
        self.pongs = pongs  # that are left; None = without end
        self.lock = threading.Lock()
        self.connections = []
        self.count = 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"nats://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                peer, _ = self.listener.accept()
            except OSError:
                return
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = Connection(self, peer)
            with self.lock:
                self.connections.append(connection)
            threading.Thread(target=connection.serve, daemon=True).start()

    def may_answer(self):
        with self.lock:
            if self.pongs is None:
                return True
            self.pongs -= 1
            return self.pongs >= 0

    def publish(self, publisher, names, payload):
        subject = names[0]
        targets = [(target, sid) for target in list(self.connections)
                   for pattern, sid in list(target.sids.items())
                   if pattern == subject or (pattern.endswith("*") and subject.startswith(pattern[:-1]))]
        for target, sid in targets:
            frame = f"MSG {subject} {sid} {' '.join([*names[1:], str(len(payload) - 2)])}\r\n".encode()
            frame += payload
            if subject not in ("svc", "bench.request"):
                with self.lock:
                    self.count += 1
                    hit = self.count == FAULT_AT
                if hit and self.fault:
                    frame = self.fault(target, frame)
            target.send(frame)

    def close(self):
        self.listener.close()
        for connection in self.connections:
            try:
                connection.peer.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # the client was faster
            connection.peer.close()


def close_now(target, _frame):
    target.peer.shutdown(socket.SHUT_RDWR)
    return b""
