#!/bin/sh
# Run examples/quickstart in a folder of its own: private Nix store, signing key, cache and state.
#
#   usage: demo.sh FOLDER       from the root of the project, with nix and reconciler on PATH
#
# Run again, it puts the example's sources back as they were and finds little or nothing to do.
set -eu

[ $# = 1 ] || { echo "usage: demo.sh FOLDER" >&2; exit 2; }
case $1 in /*) folder=$1 ;; *) folder=$PWD/$1 ;; esac
. "$(dirname "$0")/private-nix.sh"

mkdir -p "$folder/secrets"
chmod 700 "$folder/secrets"
key=$folder/secrets/signing-key
[ -e "$key" ] || nix-store --generate-binary-cache-key nix-reconciler-demo-1 "$key" "$key.pub"

rm -rf "$folder/sources"
cp -R examples/quickstart/sources "$folder"
cp examples/quickstart/reconciler.yaml "$folder"

expect 1 reconciler run --once     # 1: it converged, and a job failed (on purpose)
expect 1 reconciler status
expect 0 reconciler why weather.bulletin

cat <<END

That is all as it should be: one job fails on purpose. To go on, in a shell:

  . $folder/env
  reconciler log weather.forecast             # what the compiler said
  reconciler run &                            # the daemon; it watches the sources
  sed -i s/temprature/temperature/ $folder/sources/weather/forecast/main.c
  reconciler status --watch                   # the mended job, and what waited for it
  nix path-info --all --store file://$folder/cache        # what the cache holds

'make demo' puts the sources back; 'make clean-demo' removes $folder.
END
