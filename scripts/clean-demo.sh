#!/bin/sh
# Remove what demo.sh or try.sh made.
#
#   usage: clean-demo.sh FOLDER
set -eu

[ -e "$1" ] || exit 0
[ -e "$1/env" ] || {
    echo "clean-demo: $1 is not the demo's, so it stays" >&2
    exit 1
}
chmod -R u+w "$1" # store paths are read-only
rm -rf "$1"
