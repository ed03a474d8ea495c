#!/usr/bin/env bash
# with_peers.sh PEER... -- COMMAND... : run a test command that needs programs which are not ours.
#
# PEER: nats-server (sets NATS_SERVER), nats (sets NATS_CLI), python (sets MIDGE_PYTHON), or any other
# word: a program on PATH. A variable that is set already is left alone. If a peer is missing, the reason
# is printed and the exit status is 77, which ctest shows as skipped.
set -euo pipefail

build=$(cd "$(dirname "$0")/../.." && pwd)/build

missing() {
    local reason
    reason=$(sed -n "s/^$1: //p" "$build/peers/absent" 2>/dev/null || true)
    echo "skipped: $1 is missing (${reason:-./dev test installs it, or says why not})"
    exit 77
}

while [ $# -gt 0 ] && [ "$1" != "--" ]; do
    case $1 in
    nats-server) variable=NATS_SERVER program=$build/peers/bin/nats-server ;;
    nats) variable=NATS_CLI program=$build/peers/bin/nats ;;
    python) variable=MIDGE_PYTHON program=$build/venv/bin/python ;;
    *)
        command -v "$1" >/dev/null || { echo "skipped: $1 is not on PATH"; exit 77; }
        shift
        continue
        ;;
    esac
    program=${!variable:-$program}
    [ -x "$program" ] || missing "$1"
    export "$variable=$program"
    shift
done
[ "${1:-}" = "--" ] || { echo "usage: with_peers.sh PEER... -- COMMAND..." >&2; exit 2; }
shift
exec "$@"
