"""Where the broker listens, and where it must not: Unix sockets, loopback, IPv6, ports in use."""

import ctypes
import os
import socket
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

from hostile import Broker, Client, Failure, Skip, check, note, pub, run

CLONE_NEWNET = 0x40000000


def expect_refusal(*arguments, config=""):
    """Start a broker that must not start; returns what it said."""
    with Broker(*arguments, config=config, expect_start=False) as broker:
        try:
            status = broker.process.wait(10)
        except subprocess.TimeoutExpired as error:
            raise Failure(f"it started:\n{broker.log()}") from error
        broker.stopped = True
        check(status == 1, f"exit status {status}")
        line = broker.log().strip().split("\n")[-1]
        note(line)
        return broker.log()


def case_unix_socket_serves_and_goes():
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "socket"
        with Broker("--unix", str(path)) as broker:
            mode = stat.S_IMODE(path.stat().st_mode)
            check(mode == 0o700, f"mode {mode:o}")
            with Client(path=path) as local, broker.client() as remote:
                local.handshake()
                local.send(b"SUB a 1\r\n")
                local.fence()
                remote.send(pub(b"a", b"from afar"))
                frame = local.next_frame()
                check(frame == ("MSG", b"a", b"1", b"", b"from afar"), f"{frame!r}")
            check("unix://" in broker.log(), "no line about the socket")
        check(not path.exists(), "the socket file is left behind")


def case_unix_mode_holds_from_the_first_moment():
    """CVE-2023-45145 of redis: open to all between bind and chmod. A mask of 0 shows it."""
    with tempfile.TemporaryDirectory() as folder:
        for mode in ("0600", "0770", "0777") * 5:
            path = Path(folder) / "socket"
            with Broker("--unix", str(path), "--unix-mode", mode, prepare=lambda: os.umask(0),
                        expect_start=False) as broker:  # fmt: skip
                seen = set()
                ready = False
                while not ready:
                    ready = "Server is ready" in broker.log()
                    for _ in range(200):
                        try:
                            seen.add(stat.S_IMODE(os.stat(path).st_mode))
                        except FileNotFoundError:
                            pass
                broker.wait_ready()
                check(seen == {int(mode, 8)}, f"modes {sorted(map(oct, seen))} where {mode} was asked for")


def case_stale_socket_file_is_replaced_and_a_live_one_is_not():
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "socket"
        with Broker("--unix", str(path)) as broker:
            broker.kill()
        check(path.exists(), "a killed broker leaves its file behind")
        with Broker("--unix", str(path)) as broker:
            with Client(path=path) as client:
                client.handshake()
            text = expect_refusal("--unix", str(path))
            check("in use" in text and str(path) in text, "the error does not say that it is in use")
            with Client(path=path) as client:
                client.handshake()
        check(not path.exists(), "the socket file is left behind")


def case_only_our_own_socket_file_is_removed():
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "socket"
        with Broker("--unix", str(path)) as first:
            path.unlink()
            with Broker("--unix", str(path)):
                first.stop()
                check(path.exists(), "the file of another broker was removed")
                with Client(path=path) as client:
                    client.handshake()
        with Broker("--unix", str(path)):
            path.unlink()
            path.write_text("mine")
        check(path.read_text() == "mine", "a file that is none of the broker's was removed")


def case_other_files_are_not_touched():
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        path.write_text("precious")
        text = expect_refusal("--unix", str(path))
        check(str(path) in text, "the error does not name the file")
        check(path.read_text() == "precious", "the file was changed")
        link = Path(folder) / "link"
        link.symlink_to(path)
        expect_refusal("--unix", str(link))
        check(path.read_text() == "precious" and link.is_symlink(), "the file behind a link was changed")
        expect_refusal("--unix", folder)
        text = expect_refusal("--unix", folder + "/" + "x" * 200)
        check("at most 107 bytes" in text, "the error does not say that the path is too long")
        text = expect_refusal("--unix", folder + "/absent/socket")
        check("No such file" in text, "the error does not say why")


def case_port_in_use_is_said():
    with Broker() as broker:
        with Broker("-p", str(broker.port), expect_start=False) as second:
            status = second.process.wait(10)
            second.stopped = True
            note(second.log().strip().split("\n")[-1])
            check(status == 1, f"exit status {status}")
            check("Address already in use" in second.log(), "the error does not say why")
            check(f":{broker.port}" in second.log(), "the error does not name the port")
        broker.client().close()
    text = expect_refusal("-a", "192.0.2.1")
    check("192.0.2.1" in text, "the error does not name the address")
    expect_refusal("-a", "no-such-host.invalid")


def case_loopback_only_without_credentials():
    with Broker() as broker:
        broker.client().close()
        with Client(broker.port, host="::1") as client:
            client.handshake()
        for address in ["127.0.0.2", *own_addresses()]:
            check(is_refused(address, broker.port), f"{address} is served too")
            note(f"{address}: refused")
    with Broker("--user", "u", "--pass", "p") as broker:
        for address in ["127.0.0.2", *own_addresses()]:
            check(not is_refused(address, broker.port), f"{address} is not served with credentials")
    with Broker("-a", "0.0.0.0") as broker:
        check(not is_refused("127.0.0.2", broker.port), "127.0.0.2 is not served with -a 0.0.0.0")


def own_addresses():
    """Addresses of this machine beside loopback."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(("192.0.2.1", 9))  # sends nothing
            return [probe.getsockname()[0]]
    except OSError:
        return []


def is_refused(address, port):
    try:
        socket.create_connection((address, port), timeout=5).close()
        return False
    except ConnectionRefusedError:
        return True


def case_works_without_ipv6():
    """In a network namespace of its own where IPv6 is off."""
    command = [sys.executable, __file__, "inside_namespace_without_ipv6"]
    status = subprocess.run(command, timeout=60).returncode
    if status == 77:
        raise Skip("no right to make a network namespace")
    check(status == 0, f"status {status}")


def inside_namespace_without_ipv6():
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET) != 0:
        sys.exit(77)
    for name in ("all", "default", "lo"):
        path = Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6")
        if path.exists():
            path.write_text("1")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    for arguments in ((), ("-a", "0.0.0.0"), ("-a", "127.0.0.1"), ("-a", "localhost")):
        with Broker(*arguments) as broker:
            broker.client().close()
            note(f"{arguments or 'loopback'}: served without IPv6")
    expect_refusal("-a", "::1")


def case_address_and_port_are_free_at_once_after_the_end():
    port = None
    for _ in range(5):
        with Broker(*(("-p", str(port)) if port else ())) as broker:
            port = broker.port
            clients = [broker.client() for _ in range(20)]
            broker.stop()
            for client in clients:
                client.close()


if __name__ == "__main__":
    if sys.argv[1:] == ["inside_namespace_without_ipv6"]:
        inside_namespace_without_ipv6()
    else:
        run(globals())
