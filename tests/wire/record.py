"""Record byte vectors from nats-server: the answers in golden_*.jsonl come from here, never from us.

    NATS_SERVER=... record.py [NAME...]

For each set of conversations below, golden_NAME.jsonl is written anew. golden.jsonl is older than this
program and is not touched. A conversation is held three times: twice in one piece, and once byte by byte.
If the first two differ nothing is recorded; if the third differs the vector says so
(`out_split_1byte`): there nats-server depends on how its peer's bytes arrive, and the broker shall give
the first answer always.
"""

import contextlib
import itertools
import json
import sys
from pathlib import Path

import exchange
from run_golden import DEFAULT_CONNECT
from wire import Server, encode, find_server

# What the broker answers otherwise, on purpose: text of nats-server's answer -> (the broker's text, why).
# docs/PROTOCOL.md lists these.
DIFFERENCES = {
    "\\u0378": ("\u00cd\u00b8", "code points that Unicode has not assigned are quoted as they are"),
}

QUIET_S = 0.25  # nothing for so long: the answer is complete
SERVERS = 16

VERBOSE = '{"verbose":true,"pedantic":false,"headers":true,"no_responders":true}'
PEDANTIC = '{"verbose":false,"pedantic":true,"headers":true,"no_responders":true}'
STRICT = '{"verbose":true,"pedantic":true,"headers":true,"no_responders":true}'
PLAIN = '{"verbose":false,"pedantic":false}'
PROTOCOL_1 = '{"verbose":false,"pedantic":false,"headers":true,"protocol":1}'
NO_ECHO = '{"verbose":false,"pedantic":false,"headers":true,"no_responders":true,"echo":false}'

# CVE-2019-13126 and its neighbourhood.
SIZES = [
    "0", "00", "000000000", "0000000000", "000000003", "3", "03", "4", "2", "999999999", "9999999999",
    "2147483647", "2147483648", "4294967295", "4294967296", "4294967299", "9223372036854775807",
    "9223372036854775808", "18446744073709551615", "18446744073709551619", "9" * 64, "-1", "-0", "+3",
    "3.0", "1e1", "0x3", "3x", "x3", "\u00b3", "3\x00", "'3'",
]  # fmt: skip


def vector(send, connect=DEFAULT_CONNECT, config=""):
    return {"send": send, "connect": connect, "config": config}


def sizes():
    for size in SIZES:
        yield vector(f"SUB foo 1\r\nPUB foo {size}\r\nabc\r\n")
        yield vector(f"SUB foo 1\r\nPUB foo r {size}\r\nabc\r\n")
        yield vector(f"SUB foo 1\r\nHPUB foo {size} 3\r\nabc\r\n")
        yield vector(f"SUB foo 1\r\nHPUB foo 1 {size}\r\nabc\r\n")
        yield vector(f"SUB foo 1\r\nUNSUB 1 {size}\r\n" + "PUB foo 1\r\nx\r\n" * 5)


def limits():
    """Control lines and payloads at their limits, and one beyond."""
    for length in (4095, 4096, 4097, 5000):
        yield vector("SUB " + "a" * (length - 2) + " 1\r\n")
        yield vector("SUB  " + "a" * (length - 3) + " 1 \r\n")
        yield vector("SUB a" + " " * (length - 2) + "1\r\n")
        yield vector("UNSUB " + "1" * length + "\r\n")
        yield vector("PUB " + "a" * (length - 2) + " 1\r\nx\r\n")
        yield vector("PUB a " + "r" * (length - 4) + " 1\r\nx\r\n")
        yield vector("HPUB " + "a" * (length - 4) + " 0 1\r\nx\r\n")
        filler = "x" * (length - len('{"name":""}'))
        yield vector(f'CONNECT {{"name":"{filler}"}}\r\n')
        yield vector(f'CONNECT {{"name":"{filler}"}}\r\n', connect=None)
        yield vector("SUB " + "a" * length)
        yield vector("PUB " + "a" * length)
        yield vector("PING" + "x" * length + "\r\n")
        yield vector("PONG" + "x" * length + "\r\n")
        yield vector("SUB" + " " * length + "a 1\r\nPUB a 1\r\nx\r\n")
        yield vector("INFO {" + " " * (length - 2) + "}\r\n")
    small = "max_control_line: 64"
    for length in (63, 64, 65):
        yield vector("SUB " + "a" * (length - 2) + " 1\r\n", connect="{}", config=small)
        yield vector("PUB " + "a" * (length - 2) + " 0\r\n\r\n", connect="{}", config=small)
        yield vector("CONNECT " + "{" + " " * (length - 2) + "}\r\n", connect=None, config=small)
    payload = "max_payload: 8"
    for length in (7, 8, 9, 10):
        body = "x" * length
        yield vector(f"SUB a 1\r\nPUB a {length}\r\n{body}\r\n", config=payload)
        yield vector(f"SUB a 1\r\nPUB a r {length}\r\n{body}\r\n", config=payload)
        yield vector(f"SUB a 1\r\nHPUB a 0 {length}\r\n{body}\r\n", config=payload)
        yield vector(f"SUB a 1\r\nHPUB a 4 {length}\r\n{body}\r\n", config=payload)
        yield vector(f"SUB a 1\r\nHPUB a {length} {length}\r\n{body}\r\n", config=payload)
        yield vector(f"SUB a 1\r\nHPUB a {length} 8\r\n{body}\r\n", config=payload)
        yield vector(f"PUB a {length}\r\n{body}\r\n", connect=None, config=payload)
    subs = "max_subscriptions: 2"
    for connect in (DEFAULT_CONNECT, VERBOSE):
        yield vector("SUB a 1\r\nSUB b 2\r\nSUB c 3\r\nPUB c 1\r\nx\r\n", connect, subs)
        yield vector("SUB a 1\r\nSUB b 2\r\nSUB b 2\r\n", connect, subs)
        yield vector("SUB a 1\r\nSUB b 2\r\nUNSUB 1\r\nSUB c 3\r\nPUB c 1\r\nx\r\n", connect, subs)
        yield vector("SUB a 1\r\nSUB a 1\r\nSUB a 1\r\nSUB b 2\r\n", connect, subs)
        yield vector("SUB a 1\r\nSUB b 2\r\nSUB c..d 3\r\n", connect, subs)
        yield vector("SUB a 1\r\nSUB b 2\r\nUNSUB 1 1\r\nPUB a 1\r\nx\r\nSUB c 3\r\n", connect, subs)
    tokens = "max_sub_tokens: 3"
    for connect in (DEFAULT_CONNECT, VERBOSE):
        yield vector("SUB a.b.c 1\r\nSUB a.b.c.d 2\r\nSUB a.b.> 3\r\nSUB a.b.c.> 4\r\n", connect, tokens)
        yield vector("SUB a.b.c.d q 2\r\nSUB a..c.d 3\r\n", connect, tokens)
        yield vector("SUB a.b.c 1\r\nPUB a.b.c.d 1\r\nx\r\n", connect, tokens)


def words():
    """The shape of control lines: case, blanks, line ends, arity, strange bytes."""
    lines = [
        "Sub a 1", "sUB a 1", "SUB\ta\t1", "SUB a\t \t1", "SUB a 1 ", "SUB a 1\t", "SUB   a   1   ",
        "SUBa 1", "SUB", "SUB ", "SUB  ", "SUB a", "SUB a ", "SUB a q 1", "SUB a q  1", "SUB a q 1 2",
        "SU a 1", "SUBS a 1", "SUB a\x0b1", "SUB a\x0c1", "SUB \x00 1", "SUB a \x00", "SUB a -1",
        "SUB a \u00e9", "SUB \u00e9 1", "SUB a >", "SUB a . 1", "SUB a a..b 1", "SUB a > 1",
        "SUB a _sys_ 1", "UNSUB", "UNSUB ", "UNSUB 1", "UNSUB 1 ", "UNSUB  1", "UNSUB\t1\t1", "unsub 1",
        "UNSUB 1 2 3", "UNSU 1", "UNSUBS 1", "UNSUB x", "UNSUB 1 x", "UNSUB 1 -1", "UNSUB 1 0", "PING",
        "ping", "PiNg", "PIN", "PINGS", "PING 1", "PING\t", "PING\x00", "PONG", "pong", "PON", "PONG x",
        "+OK", "+ok", "+O", "+OKx", "+OK x", "-ERR", "-ERR x", "-err x", "-ER x", "-ERR 'x'", "INFO",
        "INFO {}", "info {}", "INFO{}", "INFO {", "INFO x", "INFO []", "INFO null", "INFO {}x",
        "INFO  {}", 'INFO {"max_payload":1}', "INF {}", "MSG a 1 1", "HMSG a 1 1 1", "RS+ a", "LS+ a",
        "A+ a", "RMSG a", "XYZ", "x", "\x00", "\u00ff", "HELP", "GET / HTTP/1.1", "QUIT", "P", "PU",
        "PUX a", "H", "HP", "HPU",
    ]  # fmt: skip
    for line, end in itertools.product(lines, ("\r\n", "\n")):
        yield vector(line + end)
    for line in ("SUB a 1", "PING", "CONNECT {}"):
        for end in ("", "\r", "\r\r\n", "\n\r\n", "\r\n\r\n", "\r\n\n", " \r\n", "\r \n"):
            yield vector(line + end)
    for end in ("\r\n", "\n", "\r", "", "\r\r\n", "x\r\n", "\n\r\n", " \r\n", "\r\n\r\n"):
        yield vector(f"SUB a 1\r\nPUB a 2\r\nok{end}")
        yield vector(f"SUB a 1\r\nPUB a 0\r\n{end}")
        yield vector(f"SUB a 1\r\nHPUB a 1 2\r\nok{end}")
    for line in (
        "PUB", "PUB ", "PUB a", "PUB a ", "PUB a r 2 3", "PUB\ta\t2", "PUB  a  r  2  ", "pub a 2",
        "PUBa 2", "PUB a 2\r", "HPUB", "HPUB ", "HPUB a", "HPUB a 2", "HPUB a r 1 2 3", "HPUB\ta\t1\t2",
        "hpub a r 1 2", "HPUBa 1 2", "HPUB  a  1  2  ",
    ):  # fmt: skip
        yield vector(f"SUB a 1\r\n{line}\r\nok\r\n")


def subjects():
    names = [
        "a", "a.b", "a.", ".a", ".", "..", "a..b", "a.b.", "*", ">", "a.*", "a.>", "*.b", ">.a", "a.>.b",
        "*.*", "*.>",
        "a*", "*a", "**", "a>", ">>", "a.>>", "a.*b", "a.b*", "$SYS.a", "$JS.API.INFO", "_INBOX.a",
        "$SYS.REQ.x", "_R_.a", "_R_", "_GR_.a", "_GR_", "$GR.a", "$GR", "$NRG.a", "$NRG", "$JS.ACK.a",
        "$JS.ACK.", "$JS.ACK", "$G.a", "\u00ff", "a\u0080b", "a\x00b", "\x7f", "a,b", "a/b", "-", "1",
        "A.B", "a\x0bb",
    ]  # fmt: skip
    for name in names:
        yield vector(f"SUB {name} 1\r\nPUB {name} 1\r\nx\r\n")
        yield vector(f"SUB > 1\r\nPUB {name} 1\r\nx\r\n")
        yield vector(f"SUB {name} 1\r\nPUB a.b 1\r\nx\r\n", connect=PEDANTIC)
        yield vector(f"SUB > 1\r\nPUB {name} 1\r\nx\r\n", connect=STRICT)
        yield vector(f"SUB > 1\r\nPUB foo {name} 1\r\nx\r\n", connect=VERBOSE)
        yield vector(f"SUB {name} 1\r\nPUB none {name} 0\r\n\r\n")
    # Error texts quote a subject as Go's %q does.
    odds = [
        '"', "\\", "'", "\x00", "\x01", "\x1f", "\x7f", "\x80", "\u00ff", "\u00c3\u00a9",
        "\u00e2\u0082\u00ac", "\r", "\u00f0\u009f\u0098\u0080", "\u00ed\u00a0\u0080", "\u00c0\u0080",
        "\u00e2\u0080\u008b", "\x0b", "\x07\x08\x0c", "a\rb", "\u00c2\u00a0", "\u00c2\u00ad",
        "\u00ef\u00bb\u00bf", "\u00ef\u00bf\u00bd", "\u00cc\u0081", "\u00ee\u0080\u0080", "\u00cd\u00b8",
    ]  # fmt: skip
    for odd in odds:
        yield vector(f"PUB _GR_.{odd} 1\r\nx\r\n")
        yield vector(f"PUB a _R_.{odd} 1\r\nx\r\n")
        yield vector(f"SUB a.{odd} _sys_ 1\r\n")
        yield vector(f"SUB a.b.c.{odd} 1\r\n", config="max_sub_tokens: 3")
    patterns = ("a.*", "a.>", "*.b", "*.*", "a.b", "a")
    for pattern, subject in itertools.product(patterns, ("a", "a.b", "a.b.c", "A.b")):
        yield vector(f"SUB {pattern} 1\r\nPUB {subject} 1\r\nx\r\n")


def options():
    """CONNECT: its JSON, its options, and what they change."""
    objects = [
        "{}", '{"verbose":false}', '{"VERBOSE":false}', '{"Verbose":false,"verbose":true}',
        '{"verbose":true,"verbose":false}', '{"verbose":null}', '{"verbose":"x"}', '{"verbose":0}',
        '{"verbose":1}', '{"verbose":[]}', '{"protocol":0}', '{"protocol":1}', '{"protocol":2}',
        '{"protocol":-1}', '{"protocol":"1"}', '{"protocol":1.0}', '{"protocol":1.5}',
        '{"protocol":null}', '{"headers":true}', '{"headers":true,"no_responders":true}',
        '{"no_responders":true}', '{"headers":false,"no_responders":true}', '{"echo":false}',
        '{"echo":null}', '{"name":"x"}', '{"name":1}', '{"name":"\\u00e9\\ud83d\\ude00"}',
        '{"lang":"c","version":"1","name":"n"}', '{"user":"u","pass":"p"}', '{"auth_token":"t"}',
        '{"nkey":"x","sig":"y"}', '{"jwt":"x"}', '{"account":"A"}', '{"account":""}',
        '{"new_account":true}', '{"new_account":false}', '{"account":"A","new_account":true}',
        '{"tls_required":true}', '{"ssl_required":true}', '{"unknown":{"a":[1,2,{"b":null}]}}',
        '{"verbose":false,}', "{", "}", "{}}", "{} x", "{}{}", "[]", "null", "true", "1", '"x"', "", "x",
        "{'verbose':false}", '{"verbose":false', '{verbose:false}',
        '{"verbose" : false , "pedantic" : false}', '{"ver\\u0062ose":false}', '{"name":"a\\nb"}',
        '{"name":"\x01"}', '{"name":"\u00ff"}', '{"import":{},"export":{}}', '{"remote_account":"x"}',
        '{"gateway":"x"}', '{"cluster":"x"}',
    ]  # fmt: skip
    follow_up = "SUB a 1\r\nPUB a 1\r\nx\r\n"
    for text in objects:
        yield vector(f"CONNECT {text}\r\n{follow_up}", connect=None)
    again = [
        "{}", '{"verbose":false}', '{"echo":false}', '{"headers":true}', '{"headers":false}', "{",
        '{"protocol":1}', '{"protocol":3}', '{"pedantic":true}', '{"no_responders":false}',
        '{"account":"A"}',
    ]  # fmt: skip
    for text in again:
        yield vector(
            f"SUB a 1\r\nCONNECT {text}\r\nPUB a 1\r\nx\r\nHPUB a 0 1\r\ny\r\n",
            connect=DEFAULT_CONNECT,
        )
        yield vector(f"CONNECT {text}\r\nSUB a 1\r\nPUB a 1\r\nx\r\nHPUB a 0 1\r\ny\r\n", connect=VERBOSE)
    for connect in (None, "{}", VERBOSE, PEDANTIC, STRICT, PLAIN, PROTOCOL_1, NO_ECHO):
        yield vector("PING\r\nPING\r\n", connect)
        yield vector("SUB a 1\r\nSUB a 1\r\nUNSUB 9\r\nUNSUB 1\r\nUNSUB 1\r\n", connect)
        yield vector("SUB a 1\r\nPUB a 1\r\nx\r\nPUB a r 1\r\ny\r\n", connect)
        yield vector("SUB a 1\r\nHPUB a 12 13\r\nNATS/1.0\r\n\r\nx\r\n", connect)
        yield vector("SUB a q 1\r\nSUB a 2\r\nPUB a 1\r\nx\r\n", connect)
        yield vector("SUB r.* 7\r\nPUB none r.1 2\r\nhi\r\n", connect)
        yield vector("SUB r 7\r\nHPUB none r 12 12\r\nNATS/1.0\r\n\r\n\r\n", connect)
        yield vector("SUB r q 7\r\nPUB none r 0\r\n\r\n", connect)
        yield vector("SUB a 1\r\nSUB r 7\r\nPUB a r 0\r\n\r\n", connect)
        yield vector("SUB a q 1\r\nSUB r 7\r\nPUB a r 0\r\n\r\n", connect)
        yield vector(
            "SUB r 7\r\nUNSUB 7 1\r\n" + "PUB none r 0\r\n\r\n" * 2 + "PUB r 1\r\nx\r\nPUB r 1\r\ny\r\n",
            connect,
        )
        yield vector("SUB r 7\r\nPUB a..b r 0\r\n\r\n", connect)
        yield vector("SUB r 7\r\nPUB _GR_.x r 0\r\n\r\n", connect)
        yield vector("SUB r 7\r\nPUB none 0\r\n\r\nPUB none s 0\r\n\r\n", connect)
        yield vector("PUB a.* 1\r\nx\r\nPUB a..b 1\r\nx\r\nPUB .a 1\r\nx\r\nPUB > 1\r\nx\r\n", connect)
        yield vector("SUB a..b 1\r\nSUB a. 2\r\nSUB >.a 3\r\n", connect)
        yield vector(
            "SUB a 1\r\nPUB a 1\r\na\r\nPUB a 1\r\nb\r\nUNSUB 1 3\r\nPUB a 1\r\nc\r\nPUB a 1\r\nd\r\n",
            connect,
        )
        yield vector("SUB a 1\r\nUNSUB 1 1\r\nUNSUB 1 2\r\n" + "PUB a 1\r\nx\r\n" * 3, connect)
        yield vector("SUB a 1\r\nUNSUB 1 2\r\nUNSUB 1\r\n" + "PUB a 1\r\nx\r\n" * 3, connect)
        yield vector("SUB a 1\r\nUNSUB 1\r\nSUB b 1\r\nPUB a 1\r\nx\r\nPUB b 1\r\ny\r\n", connect)
        yield vector("SUB a 1\r\nUNSUB 1 1\r\nPUB a 1\r\nx\r\nSUB a 1\r\nPUB a 1\r\ny\r\n", connect)
    no_headers = "no_header_support: true"
    capable = '{"headers":true,"no_responders":true}'
    for connect in ('{"verbose":false,"headers":true}', '{"verbose":false}', capable):
        yield vector("SUB a 1\r\nPUB a 1\r\nx\r\n", connect, no_headers)
        yield vector("SUB a 1\r\nHPUB a 0 1\r\nx\r\n", connect, no_headers)


def credentials():
    """Who may speak before and after CONNECT where authentication is required."""
    first_verbs = [
        "PING\r\n", "PONG\r\n", "SUB a 1\r\n", "UNSUB 1\r\n", "PUB a 1\r\nx\r\n", "HPUB a 0 1\r\nx\r\n",
        "+OK\r\n", "-ERR 'x'\r\n", "INFO {}\r\n", "MSG a 1 1\r\nx\r\n", "x\r\n", "\r\n", " ", "CON\r\n",
        "CONNECT\r\n", "CONNECT \r\n", "CONNECT x\r\n", "connect {}\r\n", "cX\r\n", "\x16\x03\x01\r\n",
    ]  # fmt: skip
    modes = {
        'authorization { token: "s3cret" }': [
            '{"auth_token":"s3cret"}', '{"auth_token":"S3cret"}', '{"auth_token":"s3cre"}',
            '{"auth_token":"s3crets"}', '{"auth_token":""}', '{"auth_token":null}', '{"user":"s3cret"}',
            '{"pass":"s3cret"}', '{"AUTH_TOKEN":"s3cret"}',
            '{"user":"x","pass":"y","auth_token":"s3cret"}', '{"auth_token":1}', "{}",
        ],
        'authorization { user: "ann", password: "pw" }': [
            '{"user":"ann","pass":"pw"}', '{"user":"ann","pass":"PW"}', '{"user":"ann","pass":"p"}',
            '{"user":"ann","pass":"pww"}', '{"user":"bob","pass":"pw"}', '{"user":"ann"}',
            '{"pass":"pw"}', '{"user":"","pass":""}', '{"auth_token":"pw"}',
            '{"user":"ann","pass":"pw","auth_token":"x"}', '{"user":"ann","pass":"pw","account":"$G"}',
            "{}",
        ],
    }  # fmt: skip
    for config, tries in modes.items():
        for verb in first_verbs:
            yield vector(verb, connect=None, config=config)
            yield vector(verb, connect=tries[0], config=config)
        for text in tries:
            yield vector("SUB a 1\r\nPUB a 1\r\nx\r\n", connect=text, config=config)
            yield vector(f"CONNECT {text}\r\nSUB a 1\r\nPUB a 1\r\nx\r\n", connect=tries[0], config=config)
        yield vector("SUB a 1\r\nCONNECT {}\r\nPUB a 1\r\nx\r\n", connect=tries[0], config=config)


def pairs():
    """Every ordered pair of operations, before and after CONNECT, with and without authentication."""
    operations = [
        "PING\r\n", "PONG\r\n", "SUB a 1\r\n", "UNSUB 1\r\n", "PUB a 1\r\nx\r\n", "HPUB a 0 1\r\nx\r\n",
        "+OK\r\n", "-ERR 'x'\r\n", "INFO {}\r\n", "MSG a 1 1\r\nx\r\n", "CONNECT {}\r\n",
        'CONNECT {"auth_token":"t","verbose":false}\r\n',
    ]  # fmt: skip
    token = 'authorization { token: "t" }'
    for first, second in itertools.product(operations, operations):
        yield vector(first + second, connect=None)
        yield vector(first + second, connect=PLAIN)
        yield vector(first + second, connect=None, config=token)
        yield vector(first + second, connect='{"auth_token":"t"}', config=token)


SETS = [sizes, limits, words, subjects, options, credentials, pairs]


def hold(program, config, vectors, byte_by_byte):
    """The exchanges of `vectors` after they were held, in their order."""
    held = []
    for record in vectors:
        connect = "" if record["connect"] is None else f"CONNECT {record['connect']}\r\n"
        send = encode(record["send"])
        pieces = [send[place : place + 1] for place in range(len(send))] if byte_by_byte else [send]
        pieces[0] = encode(connect) + pieces[0]
        pieces[-1] += exchange.FENCE
        held.append(exchange.Exchange("", pieces))
    with contextlib.ExitStack() as stack:
        servers = [Server(program, config) for _ in range(SERVERS)]
        ports = [stack.enter_context(server).port for server in servers]
        exchange.run(ports, held, quiet_s=QUIET_S)
    return held


def record_config(program, config, vectors):
    first, second, split = (hold(program, config, vectors, mode) for mode in (False, False, True))
    for record, one, two, three in zip(vectors, first, second, split):
        if (one.out, one.closed) != (two.out, two.closed):
            print(f"not recorded, changes from run to run: {record['send']!r}")
            continue
        line = {"send": record["send"]}
        if record["connect"] != DEFAULT_CONNECT:
            line["connect"] = record["connect"]
        if config:
            line["config"] = config
        line.update(out=one.out.decode("latin-1"), closed=one.closed)
        if (one.out, one.closed) != (three.out, three.closed):
            line["out_split_1byte"] = three.out.decode("latin-1")
            line["note"] = "nats-server itself depends on the split"
        for theirs, (ours, why) in DIFFERENCES.items():
            if theirs in line["out"]:
                out = line["out"].replace(theirs, ours)
                line["midge"] = {"out": out, "closed": line["closed"], "why": why}
        yield line


def main(names):
    program = find_server("nats-server")
    for make in SETS:
        if names and make.__name__ not in names:
            continue
        lines, vectors = [], list(make())
        for config in sorted({record["config"] for record in vectors}):
            chosen = [record for record in vectors if record["config"] == config]
            lines += record_config(program, config, chosen)
        path = Path(__file__).resolve().parent / f"golden_{make.__name__}.jsonl"
        text = "".join(json.dumps(line) + "\n" for line in lines)
        path.write_text(text, encoding="utf-8")
        cut = sum("note" in line for line in lines)
        print(f"{path.name}: {len(lines)} vectors, {cut} depend on the split")


if __name__ == "__main__":
    main(sys.argv[1:])
