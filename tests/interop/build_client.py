"""Build one client program into MIDGE_PEERS_DIR/CLIENT, once for all build trees.

A toolchain that is absent, or modules that cannot be had, skip the test; a program that does not build
fails it. Two builds at a time wait for each other.

    build_client.py credentials|go|java|js|rust
"""

import argparse
import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

import harness

HERE = Path(__file__).resolve().parent
STEP_TIMEOUT_S = 540


def run(command, directory, environment):
    print("+", *command, flush=True)
    done = subprocess.run(
        command, cwd=directory, env={**os.environ, **environment}, timeout=STEP_TIMEOUT_S, check=False
    )
    return done.returncode == 0


def fetch(command, directory, environment):
    if not run(command, directory, environment):
        harness.skip("the modules could not be had")


def build(command, directory, environment):
    if not run(command, directory, environment):
        sys.exit(f"fail: {command[0]} could not build the client")


def build_with_go(package, program):
    # An older go fetches the toolchain that go.mod asks for, as it does for nats-server (peers.sh).
    environment = {"GOTOOLCHAIN": "auto", "GOFLAGS": "-mod=readonly -buildvcs=false"}
    fetch(["go", "mod", "download"], HERE / "go", environment)
    build(["go", "build", "-o", str(program), package], HERE / "go", environment)


def build_go(target):
    build_with_go(".", target / "scenarios")


def build_credentials(target):
    """No client, but what a server in operator mode needs; in the Go module beside the client."""
    build_with_go("./credentials", target / "credentials")


def fetch_once(command, target, manifest):
    """Fetch into `target` unless what lies there was fetched for the same manifest."""
    wanted = (HERE / manifest).read_text()
    installed = target / "installed"
    if installed.exists() and installed.read_text() == wanted:
        return
    installed.unlink(missing_ok=True)
    fetch(command, target, {})
    installed.write_text(wanted)


def build_java(target):
    copy = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"
    mvn = ["mvn", "--batch-mode", "--quiet", "-f", str(HERE / "java" / "pom.xml"), copy]
    fetch_once([*mvn, f"-DoutputDirectory={target}/lib"], target, "java/pom.xml")
    source = str(HERE / "java" / "Scenarios.java")
    build(["javac", "-Xlint:all", "-cp", f"{target}/lib/*", "-d", f"{target}/classes", source], target, {})


def build_js(target):
    """Nothing to compile: the scripts go beside the modules that they import."""
    for name in ("package.json", "package-lock.json"):
        shutil.copy(HERE / "js" / name, target)
    install = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    fetch_once(install, target, "js/package-lock.json")
    for script in (HERE / "js").glob("*.mjs"):
        shutil.copy(script, target)


def build_rust(target):
    environment = {"CARGO_TARGET_DIR": str(target)}
    host = subprocess.check_output(["rustc", "--print", "host-tuple"], text=True, timeout=30).strip()
    fetch(["cargo", "fetch", "--locked", "--target", host], HERE / "rust", environment)
    build(["cargo", "build", "--locked", "--offline", "-j2"], HERE / "rust", environment)


CLIENTS = {
    "credentials": (["go"], build_credentials),
    "go": (["go"], build_go),
    "java": (["mvn", "javac"], build_java),
    "js": (["node", "npm"], build_js),
    "rust": (["cargo", "rustc"], build_rust),
}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("client", choices=CLIENTS)
    client = parser.parse_args().client
    tools, build_it = CLIENTS[client]
    for tool in tools:
        if not shutil.which(tool):
            harness.skip(f"{tool} is not installed")
    target = harness.PEERS_DIR / client
    target.mkdir(parents=True, exist_ok=True)
    with open(harness.PEERS_DIR / f"{client}.lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        build_it(target)


if __name__ == "__main__":
    main()
