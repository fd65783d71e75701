#!/bin/sh
# Make .venv with the locked dependencies and the project itself, editable.
#
#   usage: make-venv.sh PYTHON      from the root of the project
set -eu
python=$1

scripts/need.sh python3 "command -v '$python'" python3-venv "'$python' -c 'import ensurepip, venv'"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "$("$python" --version) is too old: name a Python of 3.11 or later, as in make PYTHON=python3.12" >&2
    exit 1
}
# One whose Python is gone (an upgrade, a moved folder) is made anew.
.venv/bin/python -c 'import pip' 2>/dev/null || { rm -rf .venv; "$python" -m venv .venv; }

pip() { .venv/bin/python -m pip --quiet --disable-pip-version-check "$@"; }
pip install --require-hashes -r requirements.lock
# With the locked setuptools: an isolated build would fetch one that nothing pins. Its warnings are about
# what an editable install is.
PYTHONWARNINGS=ignore pip install --no-deps --no-build-isolation --editable .
