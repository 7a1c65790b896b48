#!/usr/bin/env bash
# Makes the secrets of docker-compose.yml, once: what is there is kept. In deploy/secrets/ what only
# the services read, in deploy/.env the rest (.env.example explains it).
#
#   deploy/secrets.sh && docker compose -f deploy/docker-compose.yml up --build --detach
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
umask 077

# What it says beside its answer is shown only if it fails.
quietly() {
    local status=0
    "$@" 2>secrets.new/said || status=$?
    [ "$status" -eq 0 ] || cat secrets.new/said >&2
    return "$status"
}

# NKeys are made by our own binary: of a build if there is one, else of the image.
nkey() {
    local binary
    for binary in "${NATTER_PERSISTER:-}" ../target/release/natter-persister ../target/debug/natter-persister; do
        if [ -n "$binary" ] && [ -x "$binary" ]; then
            quietly "$binary" nkey
            return
        fi
    done
    docker image inspect natter:latest >/dev/null 2>&1 || docker build --quiet --file Dockerfile --tag natter:latest .. >&2
    quietly docker run --rm --network none natter:latest natter-persister nkey
}

random() { head -c 36 /dev/urandom | base64 | tr '+/' '-_'; }

if [ -e .env ] && [ -e secrets/auth_secret ]; then
    echo 'deploy/.env and deploy/secrets are there already; nothing is changed' >&2
    exit 0
fi
if [ -e .env ] || [ -e secrets ]; then
    echo 'only one of deploy/.env and deploy/secrets (complete) is there: remove it to make both anew, or bring the other back.' >&2
    echo 'With new ones nobody is signed in any more, and an existing database keeps its old password.' >&2
    exit 1
fi

# Half of them are of no use, whatever the run ends by.
rm -rf secrets.new .env.new
trap 'rm -rf secrets.new .env.new' EXIT
mkdir secrets.new
publics=()
for identity in gateway persister monitor; do
    pair=$(nkey)
    sed -n 1p <<<"$pair" >"secrets.new/nkey_$identity"
    publics+=("NATTER_NKEY_${identity^^}=$(sed -n 2p <<<"$pair")")
done
rm secrets.new/said
password=$(random)
printf '%s' "$password" >secrets.new/postgres_password
printf 'postgres://natter:%s@postgres:5432/natter' "$password" >secrets.new/database_url
random >secrets.new/auth_secret
# Only the folder is closed: the containers' users, who are not this one, read the files one by one.
chmod 644 secrets.new/*
{
    echo '# Made by secrets.sh; .env.example explains it.'
    printf '%s\n' "${publics[@]}"
    grep -E '^NATTER_(PUBLIC_URL|PORT_PUBLISHED|SUBNET|DEV_LOGIN)=' .env.example
} >.env.new
# Whole now: what is in the way of one of these leaves both to be looked at.
trap - EXIT
mv secrets.new secrets
mv .env.new .env
echo 'made deploy/.env and deploy/secrets/; keep a copy of both where nobody else comes' >&2
