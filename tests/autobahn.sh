#!/usr/bin/env bash
# Gets the Autobahn test suite into .cache/autobahn, where a Python 2.7 can be had, and runs its
# fuzzing client against the gateway's echo.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

folder=$PWD/.cache/autobahn
if [ ! -x "$folder/venv/bin/wstest" ]; then
    python=$(command -v "${PYTHON27:-python2.7}" || true)
    # A shim may be there without its Python.
    if [ -z "$python" ] || ! "$python" -c '' 2>/dev/null; then
        python=$(ls "${PYENV_ROOT:-$HOME/.pyenv}"/versions/2.7.*/bin/python2.7 2>/dev/null | tail -n 1 || true)
    fi
    if [ -z "$python" ]; then
        echo 'no Python 2.7 here: set PYTHON27. The cases of the suite are tests of our own, too: gateway/src/edge' >&2
        exit 1
    fi
    export PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONWARNINGS=ignore
    "$python" -m pip install --quiet --target "$folder/tool" 'virtualenv==20.15.1'
    PYTHONPATH=$folder/tool "$python" -m virtualenv --quiet "$folder/venv"
    "$folder/venv/bin/pip" install --quiet autobahntestsuite==25.10.1
fi
NATTER_TEST_WSTEST=$folder/venv/bin/wstest exec cargo test -p natter-gateway --lib -- --ignored --nocapture autobahn
