"""Run a command with certificates and credentials that are made for it and removed after it.

The command finds them in the directory that MIDGE_SECRETS names, each certificate with its key beside it:

    ca.pem                trusted; it has signed all but the strangers
    server.pem            for localhost, 127.0.0.1 and ::1
    name.pem              for localhost alone
    address.pem           for 127.0.0.1 alone
    elsewhere.pem         for elsewhere.example
    expired.pem           for localhost and 127.0.0.1, until yesterday
    client.pem            of a client
    stranger.pem          for localhost and 127.0.0.1, signed by itself
    stranger_client.pem   of a client, signed by itself

With --credentials, what tests/interop/go/credentials makes is there too; it is built first, unless it was
before. MIDGE_CREDENTIALS names that program.

    with_secrets.py [--credentials] -- COMMAND [ARGUMENT...]
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SKIPPED = 77
TOOL_TIMEOUT_S = 60
BUILD_TIMEOUT_S = 240

SOURCE_DIR = Path(__file__).resolve().parents[2]
INTEROP_DIR = SOURCE_DIR / "tests" / "interop"
PEERS_DIR = Path(os.environ.get("MIDGE_PEERS_DIR") or SOURCE_DIR / "build" / "peers")

# Name, what it is for, how many days from now it is valid.
SIGNED = (
    ("server", "DNS:localhost,IP:127.0.0.1,IP:::1", 2),
    ("name", "DNS:localhost", 2),
    ("address", "IP:127.0.0.1", 2),
    ("elsewhere", "DNS:elsewhere.example", 2),
    ("expired", "DNS:localhost,IP:127.0.0.1", -1),
    ("client", "DNS:client.example", 2),
)
STRANGERS = (
    ("stranger", "DNS:localhost,IP:127.0.0.1"),
    ("stranger_client", "DNS:client.example"),
)


def skip(reason):
    print(f"skipped: {reason}", flush=True)
    sys.exit(SKIPPED)


def run_tool(*command, folder):
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=TOOL_TIMEOUT_S, check=False
    )
    if done.returncode != 0:
        sys.exit(f"fail: {' '.join(command)}:\n{done.stdout}{done.stderr}")


def new_key(name):
    return ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", f"{name}.key")


def make_certificates(folder):
    def openssl(*arguments):
        run_tool("openssl", *arguments, folder=folder)

    openssl("req", "-x509", *new_key("ca"), "-out", "ca.pem", "-subj", "/CN=ca", "-days", "2",
            "-addext", "basicConstraints=critical,CA:TRUE")  # fmt: skip
    for name, subjects in STRANGERS:
        openssl("req", "-x509", *new_key(name), "-out", f"{name}.pem", "-subj", f"/CN={name}", "-days", "2",
                "-addext", f"subjectAltName={subjects}")  # fmt: skip
    for name, subjects, days in SIGNED:
        openssl("req", *new_key(name), "-out", f"{name}.csr", "-subj", f"/CN={name}",
                "-addext", f"subjectAltName={subjects}")  # fmt: skip
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
                "-copy_extensions", "copy", "-days", str(days), "-out", f"{name}.pem")  # fmt: skip


def build_credentials():
    """Path of the program that makes credentials. Ends like the build if that cannot be had."""
    build = [sys.executable, str(INTEROP_DIR / "build_client.py"), "credentials"]
    done = subprocess.run(build, timeout=BUILD_TIMEOUT_S, check=False)
    if done.returncode != 0:
        sys.exit(done.returncode)
    return str(PEERS_DIR / "credentials" / "credentials")


def parse_arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--credentials", action="store_true", help="nkeys and JWTs, too")
    parser.add_argument("command", nargs="+")
    return parser.parse_args()


def main():
    arguments = parse_arguments()
    environment = dict(os.environ)
    if not shutil.which("openssl"):
        skip("openssl is not installed")
    if arguments.credentials:
        environment["MIDGE_CREDENTIALS"] = build_credentials()
    with tempfile.TemporaryDirectory(prefix="midge-secrets.") as folder:
        make_certificates(Path(folder))
        environment["MIDGE_SECRETS"] = folder
        if arguments.credentials:
            run_tool(environment["MIDGE_CREDENTIALS"], folder, folder=folder)
        sys.exit(subprocess.run(arguments.command, env=environment, check=False).returncode)


if __name__ == "__main__":
    main()
