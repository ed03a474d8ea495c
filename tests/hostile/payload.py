"""Every byte at every place of what one client makes another one read: subject, reply, sid, queue, header,
payload. What comes out must parse back to what went in; nothing can be smuggled into the stream."""

import re

from hostile import Broker, Client, check, note, run

# A CR stands for itself where no LF follows, as in nats-server.
SEPARATORS = b" \t"
# Bytes that make wildcards or empty tokens where they stand: such a subject may match nothing.
SPECIAL = b".*>"
PLACES = ("%cab", "a%cb", "ab%c", "%c", "x.%c", "%c.x", "x.a%cb.x")


def put(place, byte):
    return place.replace("%c", "\x00\x01").encode().replace(b"\x00\x01", bytes([byte]))


def arguments_of(line):
    """As nats-server splits them. Source: nats-server v2.15.2, server/client.go:2551 processPub."""
    return [item for item in re.split(rb"[ \t]+", line) if item]


def expected_message(arguments, payload):
    """What PUB with these arguments delivers: (subject, reply, payload), or None if it closes."""
    if len(arguments) not in (2, 3):
        return None
    return (arguments[0], arguments[1] if len(arguments) == 3 else b"", payload)


class Observer:
    def __init__(self, broker):
        self.client = broker.client()
        self.client.send(b"SUB > 1\r\n")
        self.client.fence()

    def messages(self):
        return [(subject, reply, payload) for _, subject, _, reply, payload in self.client.messages()]


def compare(found, wanted, what):
    """Messages in order; those with a special byte may be missing, but never differ."""
    found = list(found)
    for message, may_be_missing in wanted:
        if found and found[0] == message:
            found.pop(0)
            continue
        check(may_be_missing, f"{what}: {message!r} did not come; next was {found[:1]!r}")
    check(not found, f"{what}: nobody sent {found[:2]!r}")


def publish_every_byte(line_of, what):
    """line_of(text, size, payload) makes the operation around a text with the byte in it."""
    with Broker() as broker:
        observer = Observer(broker)
        publisher = broker.client()
        wanted = []
        closing = []
        for place in PLACES:
            for byte in range(256):
                payload = b"%d/%d" % (byte, PLACES.index(place))
                arguments, data = line_of(put(place, byte), payload)
                message = None if byte == 10 else expected_message(arguments, payload)
                if message is None:
                    closing.append(data)
                    continue
                publisher.send(data)
                wanted.append((message, byte in SPECIAL or byte in SEPARATORS))
        publisher.fence()
        found = observer.messages()
        compare(found, wanted, what)
        note(f"{what}: {len(found)} of {len(wanted)} delivered, all as sent; {len(closing)} close")
        for data in closing:
            with broker.client() as client:
                client.send(data + b"PING\r\n")
                frames = client.read_to_end()
                check(client.closed is not None and b"PONG\r\n" not in frames, f"{data!r} did not close")
        check(observer.messages() == [], f"{what}: an operation that closes was delivered")


def case_subject():
    def line(text, payload):
        size = b"%d" % len(payload)
        return arguments_of(text + b" " + size), b"PUB " + text + b" " + size + b"\r\n" + payload + b"\r\n"

    publish_every_byte(line, "subject")


def case_reply():
    def line(text, payload):
        rest = b"some " + text + b" %d" % len(payload)
        return arguments_of(rest), b"PUB " + rest + b"\r\n" + payload + b"\r\n"

    publish_every_byte(line, "reply")


def case_sid_and_queue():
    with Broker() as broker, broker.client() as publisher:
        count = 0
        for byte in range(256):
            if byte in b" \t\r\n":
                continue
            client = broker.client()
            sids = [put(place, byte) + b"-%d" % number for number, place in enumerate(PLACES)]
            for number, sid in enumerate(sids):
                client.send(b"SUB any.%d %s\r\n" % (number, sid))
                client.send(b"SUB queued.%d %s q%s\r\n" % (number, sid, sid))
            check(client.fence() == [], f"SUB with byte {byte} was answered")
            for number in range(len(sids)):
                publisher.send(b"PUB any.%d 1\r\nx\r\nPUB queued.%d 1\r\ny\r\n" % (number, number))
            publisher.fence()
            messages = client.messages()
            wanted = []
            for number, sid in enumerate(sids):
                wanted.append(("MSG", b"any.%d" % number, sid, b"", b"x"))
                wanted.append(("MSG", b"queued.%d" % number, b"q" + sid, b"", b"y"))
            check(messages == wanted, f"byte {byte}: {messages!r}")
            count += len(messages)
            client.close()
        note(f"{count} messages with odd sids, all as asked for")


def case_header_and_payload():
    with Broker() as broker, broker.client() as publisher:
        plain, full = Client(broker.port), broker.client()
        plain.send(b'CONNECT {"verbose":false}\r\n')
        for client in (plain, full):
            client.send(b"SUB a 1\r\n")
            client.fence()
        every = bytes(range(256))
        smuggled = b"\r\nMSG evil 1 4\r\nEVIL\r\n-ERR 'evil'\r\n"
        bodies = [every, every[::-1], smuggled, b"\r\n", b"\r", b"\n", b""]
        for head in (b"NATS/1.0\r\n\r\n", b"NATS/1.0\r\nA: " + every + b"\r\n\r\n", b"NATS/1.0" + smuggled):
            for body in bodies:
                publisher.send(b"HPUB a %d %d\r\n%s%s\r\n" % (len(head), len(head) + len(body), head, body))
                publisher.send(b"PUB a %d\r\n%s\r\n" % (len(body), body))
                publisher.fence()
                whole = [("MSG", b"a", b"1", b"", head + body), ("MSG", b"a", b"1", b"", body)]
                stripped = [("MSG", b"a", b"1", b"", body)] * 2
                found = full.messages()
                check(found == whole, f"with headers: {found!r}")
                found = plain.messages()
                check(found == stripped, f"without headers: {found!r}")


def case_refused_subject_is_shown_on_one_line():
    """The one place where the broker puts a client's bytes into a line of its own."""
    with Broker() as broker, broker.client() as client:
        for byte in range(256):
            if byte in b" \t\r\n":
                continue
            for place in PLACES:
                text = put(place, byte)
                client.send(b"PUB _GR_.%s 0\r\n\r\nSUB %s _sys_ 1\r\n" % (text, text))
                frames = client.fence()
                check(len(frames) == 2, f"{text!r}: {frames!r}")
                # Quoted as Go's %q does: letters as they are, nothing that could act on a terminal or a line.
                wanted = b"-ERR 'Permissions Violation for Publish to \"_GR_.%s\"'\r\n" % text
                if 0x20 < byte < 0x7F and byte not in b'"\\':
                    check(frames[0] == wanted, f"{text!r}: {frames[0]!r}")
                whole = frames[0].startswith(wanted[:42]) and frames[0].endswith(b"\"'\r\n")
                check(whole, f"{text!r}: {frames[0]!r}")
                check(all(0x20 <= shown < 0x7F for shown in frames[0][:-2]), f"{text!r}: {frames[0]!r}")
                check(frames[1].startswith(b"-ERR '"), f"{text!r}: {frames[1]!r}")


def case_log_lines_cannot_be_forged():
    """User name and client name go into the log: with newlines and escapes in them."""
    with Broker("-DV", "--user", "u", "--pass", "p") as broker:
        evil = "\\n[1] 2026/01/01 00:00:00.000000 [INF] forged\\u001b[2J\\r\\u0000"
        fields = (
            f'"user":"{evil}","pass":"x"', f'"name":"{evil}"', f'"lang":"{evil}","version":"{evil}"',
        )  # fmt: skip
        for text in fields:
            with broker.connect() as client:
                client.send(f"CONNECT {{{text}}}\r\n".encode())
                client.read_to_end()
        with broker.client(user="u", **{"pass": "p"}, name="\n[1] forged") as client:
            client.send(b"SUB a\x1b[2J\x00\x08 1\r\nPUB \x1b[2J.b\x07 5\r\n\r\n[1]\r\n")
            client.fence()
        broker.stop()
        log = broker.log_path.read_bytes()
        good = re.compile(rb"\[%d\] \d{4}/\d\d/\d\d " % broker.process.pid)
        for line in log.split(b"\n")[:-1]:
            check(good.match(line), f"a line that the broker did not write: {line!r}")
        odd = [byte for byte in log if byte < 32 and byte != 10]
        check(not odd, f"control characters in the log: {set(odd)}")


if __name__ == "__main__":
    run(globals())
