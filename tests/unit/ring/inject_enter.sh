#!/bin/sh
# Run a program while strace makes every Nth io_uring_enter fail without running it.
# usage: inject_enter.sh ERROR FIRST+STEP PROGRAM
set -eu
error=$1
when=$2
program=$3

if ! command -v strace >/dev/null || ! strace -o /dev/null true 2>/dev/null; then
    echo "skipped: strace is missing or may not trace"
    exit 77
fi
log=$(mktemp)
trap 'rm -f "$log"' EXIT
status=0
strace -o "$log" -e trace=io_uring_enter -e inject=io_uring_enter:error="$error":when="$when" \
    "$program" || status=$?
if [ "$status" -ne 0 ]; then
    exit "$status"
fi
count=$(grep -c INJECTED "$log" || true)
echo "$count calls failed with $error"
[ "$count" -ge 20 ]
