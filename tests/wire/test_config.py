#!/usr/bin/env python3
"""Configuration files: what is accepted and what is refused, here and by nats-server.

Method: each text goes to `nats-server -t -c FILE` and to `midge-server -t -c FILE`; the exit
statuses must agree with the table. SAME holds the verdict of both; OURS holds the deliberate
differences with their reason. A text that both take or refuse must not be listed as a difference.

Usage: MIDGE_SERVER=build/test/midge-server NATS_SERVER=/path/to/nats-server test_config.py
"""

import os
import subprocess
import sys
import tempfile

ENVIRONMENT = {
    "CONF_NUMBER": "4333",
    "CONF_WORD": "word",
    "CONF_SIZE": "44k",
    "CONF_EMPTY": "",
    "CONF_QUOTED": '"a b"',
    "CONF_LIST": '["a", "b"]',
    "CONF_TWO": "a b",
    "CONF_NESTED": "$CONF_NUMBER",
    "CONF_LOOP": "$CONF_LOOP",
}

FILES = {
    "inc.conf": "port: 4333\n",
    "vars.conf": "WORD: w\n",
    "uses.conf": "server_name: $WORD\n",
    "bad.conf": "port: [\n",
    "sub/a.conf": "include b.conf\n",
    "sub/b.conf": "debug: true\n",
    "braces.conf": "{ debug: true }\n",
    "user.conf": "user: u, password: p\n",
}

SAME = {
    True: [
        # separators and ends
        "port: 4222",
        "port = 4222\n",
        "port 4222\n",
        "port:4222",
        "port=4222",
        "port :4222",
        "port\n4222\n",
        "port\n: 4222\n",
        "port\n\n=4222\n",
        "port: 4222;",
        "port: 4222,\ndebug: true",
        "port: 4222;debug: true;trace: false\n",
        "port: 4222 , debug: true ; trace: off",
        "port: 4222\r\ndebug: true\r\n",
        "\tport:\t4222\t\n",
        "\n\n  port: 4222  \n\n",
        # comments
        "# c\nport: 4222 # d\n// e\ndebug: true // f",
        "authorization { # c\n user: a // d\n # e\n password: b }",
        "server_tags: [ # c\n a, # d\n // e\n b ]",
        "server_name: x#y",
        "server_name: x//y",
        # bools
        "debug: TRUE, trace: Yes, logtime: oN",
        "debug: fAlse, trace: no, logtime: OFF",
        # integers
        "max_payload: 64k",
        "max_payload: 64KB",
        "max_payload: 64Ki",
        "max_payload: 64kIb",
        "max_payload: 1m",
        "max_payload: 1MiB",
        "max_pending: 1g",
        "max_pending: 1tib",
        "max_pending: 1pb",
        "max_pending: 1e",
        "port: -1",
        "port: 04222",
        "max_connections: 0",
        "max_connections: -1",
        "max_payload: -1",
        "max_payload: 0",
        "max_payload: 2147483647",
        "max_control_line: 2147483647",
        "max_sub_tokens: 255",
        "max_payload: 100mb",
        # strings
        "server_name: abc",
        "server_name: 'a\\q'",
        'server_name: "a\\t\\n\\r\\"\\\\\\x41"',
        "server_name: a\\x41",
        "server_name: 123abc",
        "server_name: 1_000",
        "server_name: 0x10",
        "server_name: 1e5",
        "server_name: 5s",
        "server_name: 1.2.3.4",
        "server_name: \"true\"",
        "server_name: truely",
        "server_name: a:b=c",
        "host: 127.0.0.1",
        "listen: 127.0.0.1:4222",
        "listen: localhost:4222",
        "listen: \"[::1]:4222\"",
        "listen: 4222",
        "log_file: /tmp/x.log",
        "pid_file: '/tmp/a b'",
        "server_name: (\nabc\n)",
        "server_name: (\nabc\n)\nport: 4222",
        "server_name: a\"b",
        "client_advertise: \"\"",
        "server_name: ''",
        "server_name: \xff\xfe",
        # durations
        "ping_interval: 5s",
        "ping_interval: \"1m30s\"",
        "ping_interval: 500ms",
        "write_deadline: \"1.5h\"",
        "write_deadline: \"0\"",
        "write_deadline: \"100us\"",
        "write_deadline: \"+1s\"",
        "write_deadline: \".5s\"",
        "authorization { token: t, timeout: 3 }",
        "authorization { token: t, timeout: 0.5 }",
        "authorization { token: t, timeout: \"250ms\" }",
        # keys
        "PORT: 4222",
        "\"port\": 4222",
        "'port' 4222",
        "Max_Payload: 1mb",
        "net: h",
        "max_conn: 5, max_subs: 6",
        "port: 1\nport: 4222",
        # maps
        "authorization { user: a, password: b }",
        "authorization: { user: a, password: b }",
        "authorization = { user a; password b }",
        "authorization {\n user: a\n password: b\n}\n",
        "authorization { user:\n a\n password\n b }",
        "authorization\n{ username: a\n pass: b }",
        "authorization { token: abc }",
        "authorization {}",
        "authorization { user: a, password: 'b', }",
        "server_metadata { a: b, \"c d\": e }",
        # arrays
        "server_tags: [a, b]",
        "server_tags: [\"a\", 'b']",
        "server_tags: [\"a\"\n\"b\"\n]",
        "server_tags: [a,\n b,\n]",
        "server_tags: []",
        "server_tags: one",
        # braces around the file
        "{ port: 4222 }",
        "{\n\"port\": 4222,\n\"debug\": true\n}\n",
        "{ port: 4222, authorization: {token: t} }",
        "{ {port: 4222} }",
        "port: 4222\n}",
        "port: 4222 }",
        "port: 4222 } }",
        "port: 4222 } debug: true",
        # variables
        "X: 4222\nport: $X",
        "X: abc\nserver_name: $X",
        "X: 1\nauthorization { X: b, user: a, password: $X }\nport: $X",
        "port: $CONF_NUMBER",
        "server_name: $CONF_WORD",
        "max_payload: $CONF_SIZE",
        "server_name: $CONF_EMPTY",
        "log_file: $CONF_QUOTED",
        "port: $CONF_NESTED",
        "server_name: \"$nothing\"",
        "server_name: '$nothing'",
        "authorization { P: secret, user: a, password: $P }",
        # includes
        "include inc.conf",
        "include 'inc.conf'\n",
        "include \"./inc.conf\"; debug: true",
        "INCLUDE inc.conf\n",
        "include sub/a.conf\nport: 4222",
        "include braces.conf",
        "include vars.conf\nserver_name: $WORD",
        "authorization { include user.conf }",
        "authorization { include user.conf; timeout: 1 }",
        # features that are off, labels, aliases
        "jetstream: false",
        "http_port: 0",
        "write_timeout: close",
        "no_sublist_cache: true",
        "connect_error_reports: 5",
        "store_dir: /tmp/x",
    ],
    False: [
        "port",
        "port:\n4222",
        "port=\n4222",
        "server_name: [",
        "server_name: \"a b\"",
        "port: 4222 debug: true",
        "port: 4222,, debug: true",
        "port: 4222;;",
        ": 4222",
        "= 4222",
        "\"port: 4222",
        "port: 4222 /* c */",
        "/* c */\nport: 4222",
        "port: 4222#",
        "port: 4222#x",
        "port: \"4222\"",
        "port: 4222.5",
        "port: true",
        "port: 1_000",
        "port: 0x10",
        "port: 9223372036854775808",
        "port: -",
        "port: -x",
        "port: .5",
        "port: 5.",
        "port: +5",
        "max_payload: 1.5k",
        "max_payload: \"2k\"",
        "max_payload: 2147483648",
        "max_control_line: 2147483648",
        "max_sub_tokens: 0",
        "max_sub_tokens: 256",
        "debug: maybe",
        "debug: 1",
        "debug: \"true\"",
        "server_name: yes",
        "server_name: 123",
        "server_name: \"a b\"",
        "server_name: 2016-05-04T18:53:41Z",
        "server_name: 2016-13-04T18:53:41Z",
        "server_name: 2016-05",
        "server_name: 12-34",
        "server_name: \"a\\q\"",
        "server_name: \"a\\x4\"",
        "server_name: C:\\dir",
        "server_name: 'abc",
        "server_name: \"abc",
        "server_name: (abc)",
        "server_name: (\nabc\n",
        "server_name: don't",
        "server_name: a b",
        "listen: \"4222\"",
        "listen: localhost",
        "listen: \"::1:4222\"",
        "listen: \"h:p\"",
        "listen: true",
        "ping_interval: 5",
        "ping_interval: 2m",
        "ping_interval: \"5\"",
        "ping_interval: \"5x\"",
        "ping_interval: \"\"",
        "ping_interval: 1.5s",
        "ping_interval: 1.5",
        "ping_interval: true",
        "authorization { token: t, timeout: 90 }",
        "authorization { token: t, timeout: 1m }",
        "authorization { token: t, timeout: true }",
        "authorization { token: t, timeout: \"x\" }",
        "authorization",
        "authorization x",
        "authorization { user: a",
        "authorization { user: a password: b }",
        "authorization { user: }",
        "authorization { user: a, : b }",
        "authorization { ] }",
        "authorization { user a, password: 5 }",
        "authorization { user: a, password: b, token: c }",
        "authorization { password: b, token: c }",
        "authorization { bogus: 1 }",
        "authorization{user: a}",
        "server_tags: [a b]",
        "server_tags: [a; b]",
        "server_tags: [a,, b]",
        "server_tags: [, a]",
        "server_tags: [ {a: b} {c: d} ]",
        "server_tags: [a",
        "server_tags: [1, 2]",
        "server_tags: 5",
        "server_metadata { a: 1 }",
        "bogus: 1",
        "X: 55",
        "X { a: 1 }\nport: $X",
        "X { a: 1 }",
        "}\nport: 4222",
        "] port: 4222",
        "port: $undefined_here",
        "port: $X\nX: 4222",
        "port: $",
        "server_name: $CONF_TWO",
        "port: $CONF_LOOP",
        "port: $CONF_WORD",
        "include missing.conf",
        "include",
        "include\ninc.conf",
        "include 5.conf",
        "include [a]",
        "include 'inc.conf",
        "include bad.conf",
        "include: inc.conf",
        "WORD: w\ninclude uses.conf",
        "write_timeout: maybe",
        "",
        "# nothing\n",
        "{}",
    ],
}

# (we accept it, text, reason)
OURS = [
    (False, "{ port: 4222\n", "a file that was cut off must not start"),
    (False, "server_name:", "a value that was left out at the end of the file"),
    (False, "server_name: ;port: 4222", "a value that was left out"),
    (False, "server_name: abc'", "the quote would silently vanish from the value"),
    (False, "ping_interval: 1kbb\nport: 1", "the number would silently vanish"),
    (False, "max_pending: 99999999999e", "the number would silently wrap"),
    (False, "authorization { user: a / password: b }", "a lone slash is a mistake, not a separator"),
    (False, "port: 4222 / \n", "a lone slash is a mistake"),
    (False, "port: 70000", "no such port: nats-server finds out when it listens"),
    (False, "port: -2", "no such port"),
    (False, "max_pending: -1", "nothing could be sent"),
    (False, "max_payload: -2", "nothing could be published"),
    (False, "ping_interval: \"-5s\"", "would close every connection"),
    (False, "write_deadline: \"-1s\"", "would close every connection"),
    (False, "authorization { token: t, timeout: -1 }", "would refuse every client"),
    (False, "authorization { user: a, password: $2a$11$abcdefgh }", "bcrypt is not served"),
    (False, "authorization { token: '$2y$11$abcdefgh' }", "bcrypt is not served"),
    (False, "http_port: 8222", "not served"),
    (False, "jetstream {}", "not served"),
    (False, "accounts { A { users: [{user: a, password: b}] } }", "not served"),
    (False, "authorization { users: [{user: a, password: b}] }", "not served"),
    (False, "lame_duck_duration: \"30s\"", "not served"),
    (False, "cluster { port: -1 }", "not served"),
    (False, "no_system_account: false", "not served"),
    (False, "write_timeout: retry", "not served"),
    (False, "trace_headers: true", "not served"),
    (True, "server_tags: [/a]", "a path is a string in an array too"),
    (True, "server_tags: $CONF_LIST", "an array from the environment has its type"),
    (True, "port: 4222\n}\n# end\n", "a comment may follow the stray brace"),
    (True, "\xef\xbb\xbfport: 4222", "a byte order mark is no part of a key"),
    (True, "server_name: (\nabc\n)\r\nport: 1", "line ends of Windows"),
    (True, "unix: /tmp/x.sock", "our own"),
    (True, "io: epoll", "our own"),
]


def verdict(program, text, folder):
    path = os.path.join(folder, "t.conf")
    with open(path, "wb") as file:
        file.write(text.encode("latin-1"))
    done = subprocess.run(
        [program, "-t", "-c", path],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **ENVIRONMENT},
        cwd=folder,
        timeout=20,
        check=False,
    )
    if done.returncode not in (0, 1):
        return None, "exit status %d: %r" % (done.returncode, done.stdout)
    return done.returncode == 0, done.stdout.decode("utf-8", "replace").strip()


def main():
    program = os.environ.get("MIDGE_SERVER", "")
    nats_server = os.environ.get("NATS_SERVER", "")
    if not os.access(program, os.X_OK):
        sys.exit("MIDGE_SERVER names no program\n" + __doc__)
    program = os.path.abspath(program)
    if not os.access(nats_server, os.X_OK):
        print("skipped: NATS_SERVER names no program")
        sys.exit(77)
    cases = [(text, wanted, wanted, "") for wanted in SAME for text in SAME[wanted]]
    cases += [(text, not wanted, wanted, reason) for wanted, text, reason in OURS]
    failures = 0
    with tempfile.TemporaryDirectory() as folder:
        for name, text in FILES.items():
            os.makedirs(os.path.dirname(os.path.join(folder, name)), exist_ok=True)
            with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
                file.write(text)
        for text, theirs_wanted, ours_wanted, reason in cases:
            for who, which, wanted in (
                ("nats-server", nats_server, theirs_wanted),
                ("midge", program, ours_wanted),
            ):
                got, said = verdict(which, text, folder)
                if got is not wanted:
                    failures += 1
                    word = {True: "accepts", False: "refuses", None: "crashes on"}[got]
                    print("%s %s %r %s\n    %s" % (who, word, text, reason, said))
    print("%d texts, %d wrong verdicts" % (len(cases), failures))
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
