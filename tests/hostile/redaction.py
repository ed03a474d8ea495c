"""Passwords and tokens do not reach the log, whatever a client or a configuration file does to them."""

import json
import subprocess
import tempfile
from pathlib import Path

from hostile import Broker, check, find_broker, note, run

CANARY = "kanarienvogel7431"
KEYS = ("pass", "auth_token", "sig", "nkey", "jwt", "proxy_sig")


def connect_texts():
    """JSON texts that carry the canary in the value of a secret key, written in every way that reads."""
    for key in KEYS:
        yield json.dumps({"user": "u", key: CANARY})
        yield json.dumps({key: CANARY, "user": "u"})
        for between in ("%s :%s", "%s\t:\t%s", "%s\r:\r%s", "%s  :  %s", "%s \r\t : \t\r %s"):
            yield "{" + between % (f'"{key}"', f'"{CANARY}"') + "}"
        yield f'{{"{key.upper()}":"{CANARY}"}}'
        yield f'{{"{key.title()}":"{CANARY}"}}'
        yield f'{{"\\u{ord(key[0]):04x}{key[1:]}":"{CANARY}"}}'
        yield f'{{"{key[:-1]}\\u{ord(key[-1]):04X}":"{CANARY}"}}'
        yield f'{{"{key}":"one","{key}":"{CANARY}"}}'
        yield f'{{"{key}":"\\"{CANARY}"}}'
        yield f'{{"{key}":"\\\\","{key}":"{CANARY}"}}'
        yield f'{{"{key}":"a\\"b\\\\\\"{CANARY}"}}'
        yield f'{{"name":"\\"{key}\\":","{key}":"{CANARY}"}}'
        yield f'{{"name":"{"n" * 3900}","{key}":"{CANARY}"}}'
        yield f'{{"name":"{"n" * 500}","{key}":"{CANARY * 200}"}}'


def broken_texts():
    """Texts that are no JSON, or hold another kind of value: refused, and not shown either."""
    for key in KEYS:
        yield f'{{"{key}":"{CANARY}"'
        yield f'{{"{key}":"{CANARY}'
        yield f'{{"{key}":"{CANARY}\\x"}}'
        yield f'{{"{key}":["{CANARY}"]}}'
        yield f'{{"{key}":{{"a":"{CANARY}"}}}}'
        yield f'{{"{key}":{CANARY}}}'
        yield f"{{'{key}':'{CANARY}'}}"
        yield f'{{{key}:"{CANARY}"}}'
        yield f'{{"{key}":"{CANARY}{"x" * 5000}"}}'


def shown(log):
    return [line for line in log.split("\n") if CANARY in line]


def case_trace_shows_no_secret_of_connect():
    texts = list(connect_texts()) + list(broken_texts())
    for credentials in ((), ("--user", "u", "--pass", CANARY), ("--auth", CANARY)):
        with Broker("-DVV", *credentials) as broker:
            for text in texts:
                for cut in (0, len(text) // 2):
                    with broker.connect() as client:
                        data = b"CONNECT " + text.encode() + b"\r\n"
                        client.next_frame()
                        client.send(data[:cut])
                        client.send(data[cut:] + b"PING\r\n")
                        while client.next_frame() not in (b"PONG\r\n", None):
                            pass
            broker.stop()
            lines = shown(broker.log())
            note(f"{len(texts) * 2} CONNECTs, {broker.log().count('CONNECT')} traced")
            check(broker.log().count("CONNECT") > 100, "nothing was traced")
            check(not lines, f"{len(lines)} lines show the secret, such as: {lines[:3]}")


def case_configuration_errors_show_no_secret():
    """Whole, cut at every byte, and mistaken in other ways: no error or warning repeats a secret."""
    good = f'authorization {{\n  user: "u"\n  password: "{CANARY}"\n  timeout: 2\n}}\n'
    token = f"authorization {{ token: {CANARY} }}\n"
    texts = [good[:end] for end in range(len(good))] + [token[:end] for end in range(len(token))]
    texts += [
        f"authorization {{ token: [{CANARY}] }}",
        f"authorization {{ token: {{ a: {CANARY} }} }}",
        f"authorization {{ password: {CANARY} }}",
        f"authorization {{ user: u, password: {CANARY}, token: {CANARY} }}",
        f"authorization {{ user: u, pass: {CANARY}, timeout: {CANARY}x",
        f"authorization {{ user: u, passwd: {CANARY} }}",
        f"authorization {{ users: [ {{ user: u, password: {CANARY} }} ] }}",
        f'authorization: "{CANARY}"',
        f"password: {CANARY}",
        f"authorization {{ user: u, password: ${CANARY} }}",
        f"TOKEN: {CANARY}\nauthorization {{ token: $TOKEN\n",
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "server.conf"
        said = 0
        for text in texts:
            path.write_text(text)
            done = subprocess.run(
                [find_broker(), "-t", "-c", str(path)], capture_output=True, text=True, timeout=20
            )
            output = done.stdout + done.stderr
            said += bool(output)
            check(CANARY not in output, f"{text!r} makes it say {output!r}")
        note(f"{len(texts)} files, {said} with a message, none shows the secret")


def case_start_shows_no_secret_of_flags():
    for arguments in (("--user", "u", "--pass", CANARY), ("--auth", CANARY)):
        with Broker("-DV", *arguments) as broker:
            broker.stop()
            check(not shown(broker.log()), f"{shown(broker.log())}")
    for arguments in (("--pass", CANARY), ("--user", "u", "--pass", CANARY, "--auth", CANARY)):
        command = [find_broker(), "-p", "-1", *arguments, "--no-such-flag"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
        check(CANARY not in done.stdout + done.stderr, f"{done.stderr!r}")


if __name__ == "__main__":
    run(globals())
