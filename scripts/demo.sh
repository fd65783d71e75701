#!/bin/sh
# Run examples/quickstart in a folder of its own: private Nix store, signing key, cache and state.
#
#   usage: demo.sh FOLDER       from the root of the project, with nix and reconciler on PATH
#
# Run again, it puts the example's sources back as they were and finds little or nothing to do.
set -eu

[ $# = 1 ] || { echo "usage: demo.sh FOLDER" >&2; exit 2; }
case $1 in /*) folder=$1 ;; *) folder=$PWD/$1 ;; esac
[ ! -e "$folder" ] || [ -e "$folder/env" ] || {
    echo "demo: $folder is there and is not the demo's: name another with DEMO" >&2
    exit 1
}

umask 022
mkdir -p "$folder"
cat >"$folder/env" <<END
# The demo's environment: . $folder/env
export PATH="$(dirname "$(command -v reconciler)"):$(dirname "$(command -v nix)"):\$PATH"
export NIX_STORE_DIR="$folder/nix/store" NIX_STATE_DIR="$folder/nix/state" NIX_LOG_DIR="$folder/nix/log"
export NIX_CONF_DIR="$folder/nix/conf" NIX_USER_CONF_FILES= NIX_REMOTE= NIX_PATH=
export XDG_CACHE_HOME="$folder/nix/cache"
export RECONCILER_CONFIG="$folder/reconciler.yaml" RECONCILER_STATE_DIR="$folder/state"
END

# Nix refuses a store below a folder that everyone may write to, so FOLDER is not in /tmp. Without a
# build-users-group builds run as whoever starts them, in a user namespace: no build users are needed.
mkdir -p "$folder/nix/conf" "$folder/secrets"
chmod 700 "$folder/secrets"
cat >"$folder/nix/conf/nix.conf" <<END
experimental-features = nix-command flakes
substituters =
build-users-group =
sandbox = true
sandbox-paths = /bin/sh=$(command -v bash-static || readlink -f /bin/sh) /usr /lib /lib64
END
. "$folder/env"

key=$folder/secrets/signing-key
[ -e "$key" ] || nix-store --generate-binary-cache-key nix-reconciler-demo-1 "$key" "$key.pub"

rm -rf "$folder/sources"
cp -R examples/quickstart/sources "$folder"
cp examples/quickstart/reconciler.yaml "$folder"

# Run a command, shown as one would type it; its exit status must be the one that is due.
expect() {
    due=$1
    shift
    printf '\n$ %s\n' "$*"
    status=0
    "$@" || status=$?
    [ "$status" = "$due" ] || {
        printf '\ndemo: "%s" ended with status %s, not %s as it should\n' "$*" "$status" "$due" >&2
        exit 1
    }
}

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
