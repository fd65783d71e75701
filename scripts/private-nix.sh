# A Nix store, a state and an environment of their own below $folder; sourced by the demos.
#
# Needs $folder, an absolute path, and nix and reconciler on PATH. Leaves $folder/env, in force, which also
# tells that the folder is a demo's.

# Nix refuses a store below a folder that everyone may write to, so the folder is not in /tmp. Without a
# build-users-group builds run as whoever starts them, in a user namespace: no build users are needed.
[ ! -e "$folder" ] || [ -e "$folder/env" ] || {
    echo "demo: $folder is there and is not the demo's: name another with DEMO" >&2
    exit 1
}

umask 022
mkdir -p "$folder/nix/conf"
cat >"$folder/env" <<END
# The demo's environment: . $folder/env
export PATH="$(dirname "$(command -v reconciler)"):$(dirname "$(command -v nix)"):\$PATH"
export NIX_STORE_DIR="$folder/nix/store" NIX_STATE_DIR="$folder/nix/state" NIX_LOG_DIR="$folder/nix/log"
export NIX_CONF_DIR="$folder/nix/conf" NIX_USER_CONF_FILES= NIX_REMOTE= NIX_PATH=
export XDG_CACHE_HOME="$folder/nix/cache"
export RECONCILER_CONFIG="$folder/reconciler.yaml" RECONCILER_STATE_DIR="$folder/state"
END
cat >"$folder/nix/conf/nix.conf" <<END
experimental-features = nix-command flakes
substituters =
build-users-group =
sandbox = true
sandbox-paths = /bin/sh=$(command -v bash-static || readlink -f /bin/sh) /usr /lib /lib64 /etc/alternatives?
END
. "$folder/env"

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
