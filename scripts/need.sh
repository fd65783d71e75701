#!/bin/sh
# See to it that Debian packages are there.
#
#   usage: need.sh PACKAGE TEST [PACKAGE TEST]…     TEST: a shell command that succeeds where it is there
#
# Root on Debian installs what is missing; anyone else is told what to install.
set -eu

missing=
while [ $# -ge 2 ]; do
    sh -c "$2" >/dev/null 2>&1 || missing="$missing $1"
    shift 2
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "This needs what Debian calls$missing. As root: apt-get install$missing" >&2
    exit 1
fi
echo "installing Debian's$missing"
apt-get -qq update
# A list of words on purpose: one argument a package.
# shellcheck disable=SC2086
DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends $missing >/dev/null
