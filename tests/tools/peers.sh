#!/usr/bin/env bash
# Install the programs that Midge is tested against: the Go modules of tests/interop/peers.txt (into
# build/peers/bin) and the Python packages of tests/interop/requirements.txt (into build/venv).
#
# Versions are pinned in those two files. What is present is left alone. What cannot be had is not an
# error: build/peers/absent says why, one `name: reason` a line, and with_peers.sh shows it when a test
# skips.
set -euo pipefail

GO_MINOR_MIN=21 # 1.21: the first that fetches the toolchain which a module asks for

cd "$(dirname "$0")/../.."
bin=$PWD/build/peers/bin
absent=$PWD/build/peers/absent
mkdir -p "$bin"
: >"$absent"

go_is_usable() {
    local minor
    command -v go >/dev/null || return 1
    minor=$(go env GOVERSION | sed -n 's/^go1\.\([0-9]*\).*/\1/p')
    [ "${minor:-0}" -ge "$GO_MINOR_MIN" ]
}

# install_go MODULE@VERSION: the program has the name of the last path element that is not a version.
install_go() {
    local name version=${1##*@}
    name=$(basename "$(sed 's,/v[0-9]*@.*,,; s,@.*,,' <<<"$1")")
    [ -x "$bin/$name" ] && [ -e "$bin/.$name-$version" ] && return
    if ! go_is_usable; then
        echo "$name: needs go 1.$GO_MINOR_MIN or later on PATH" >>"$absent"
        return
    fi
    echo "installing $name $version"
    if ! GOBIN=$bin go install "$1" >"build/peers/$name.log" 2>&1; then
        echo "$name: go install failed, see build/peers/$name.log" >>"$absent"
        return
    fi
    touch "$bin/.$name-$version"
}

install_python() {
    local wanted=tests/interop/requirements.txt log=build/peers/python.log
    cmp -s "$wanted" build/venv/installed.txt && return
    echo "installing the Python packages of $wanted"
    if ! { python3 -m venv build/venv && build/venv/bin/pip install --quiet -r "$wanted"; } \
        >"$log" 2>&1; then
        echo "python: venv or pip install failed, see $log" >>"$absent"
        rm -rf build/venv
        return
    fi
    cp "$wanted" build/venv/installed.txt
}

while read -r module; do
    case $module in
    "" | "#"*) ;;
    *) install_go "$module" ;;
    esac
done <tests/interop/peers.txt
install_python
sed 's/^/not available: /' "$absent"
