#!/bin/sh
# Run a program while strace makes some of its calls of one system call fail without running them.
# usage: inject.sh CALL ERROR WHEN COUNT PROGRAM
# WHEN as in strace(1), such as 2+3; at least COUNT calls must have failed, or the test proves nothing.
set -eu
call=$1
error=$2
when=$3
wanted=$4
program=$5

if ! command -v strace >/dev/null || ! strace -o /dev/null true 2>/dev/null; then
    echo "skipped: strace is missing or may not trace"
    exit 77
fi
log=$(mktemp)
trap 'rm -f "$log"' EXIT
status=0
strace -o "$log" -e trace="$call" -e inject="$call:error=$error:when=$when" "$program" || status=$?
if [ "$status" -ne 0 ]; then
    exit "$status"
fi
count=$(grep -c INJECTED "$log" || true)
echo "$count calls failed with $error"
[ "$count" -ge "$wanted" ]
