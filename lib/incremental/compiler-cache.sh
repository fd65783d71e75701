# Puts ccache or sccache before the compilers, where the daemon shows this build a place for what they make.
#
# Sourced in the root of the source, before it is configured; any POSIX shell. incremental_end_compiler_cache is to
# be run when the build ends. From the derivation: compilerCacheTool (ccache or sccache), compilerCacheProgram (the
# program), compilerCacheCompilers (names), compilerCacheSize (a size).

incremental_cache=/incremental/compiler-cache
incremental_sccache=''

incremental_compiler_cache() {
    if ! [ -d "$incremental_cache" ]; then
        echo "incremental: no compilers' cache" >&2
    elif ! [ -w "$incremental_cache" ]; then
        # Where each build has a group of its own (auto-allocate-uids), no two can share it.
        echo "incremental: no compilers' cache: it cannot be written to" >&2
    elif ! incremental_program=$(command -v "$compilerCacheProgram"); then
        echo "incremental: no compilers' cache: there is no $compilerCacheProgram" >&2
    elif [ "$compilerCacheTool" = ccache ]; then
        # Builders are many users of one group. What a compiler is, its contents tell: its time is always the same.
        export CCACHE_DIR="$incremental_cache" CCACHE_UMASK=007 CCACHE_COMPILERCHECK=content
        export CCACHE_BASEDIR="$PWD" CCACHE_NOHASHDIR=1 CCACHE_MAXSIZE="$compilerCacheSize"
        incremental_wrap_compilers CCACHE_NAMESPACE
    elif [ -n "${outputHash-}${__impure-}" ]; then
        # Such a build has the machine's network: its server would be everybody's.
        echo "incremental: no compilers' cache: sccache is no use to a build with a network" >&2
    elif ! incremental_start_sccache; then
        echo "incremental: no compilers' cache: sccache's server does not start" >&2
    else
        incremental_wrap_compilers SCCACHE_C_CUSTOM_CACHE_BUSTER
        # It keeps nothing that rustc makes incrementally.
        export RUSTC_WRAPPER="$incremental_program" CARGO_INCREMENTAL=0
    fi
}

# A server of this build alone, in a network of its own. What cannot reach it compiles by itself.
incremental_start_sccache() {
    # A folder of its own: sccache takes any file below for one of its own, and removes the oldest. One for each user:
    # it sets the time of what it takes, which only the owner may, and takes nothing where it cannot.
    export SCCACHE_DIR="$incremental_cache/sccache/$(incremental_user)" SCCACHE_CACHE_SIZE="$compilerCacheSize"
    export SCCACHE_IDLE_TIMEOUT=0 SCCACHE_IGNORE_SERVER_IO_ERROR=1 SCCACHE_SERVER_PORT=4226
    unset SCCACHE_SERVER_UDS
    ! incremental_is_served || return 1
    # Not `--start-server`: that of 0.4 at times loses its server, for which it waits 10 seconds. Nor as a daemon,
    # whose folders would be of its own umask: other users make theirs beside, and the group removes them. No child of
    # this shell's either, or `wait` would wait for it.
    incremental_server=$(
        (
            umask 007
            SCCACHE_START_SERVER=1 SCCACHE_NO_DAEMON=1 exec "$incremental_program"
        ) </dev/null >/dev/null 2>&1 &
        echo $!
    )
    incremental_tries=0
    until incremental_is_served; do
        [ "$incremental_tries" -lt 1000 ] && [ -e "/proc/$incremental_server/exe" ] || return 1
        incremental_tries=$((incremental_tries + 1))
        sleep 0.01
    done
    incremental_sccache=$incremental_program
}

# The number of the user who builds, as it is outside of the sandbox, where all have the same.
incremental_user() {
    incremental_inside=$(id -u)
    while read -r incremental_first incremental_outside incremental_count; do
        if [ "$incremental_inside" -ge "$incremental_first" ] \
            && [ "$((incremental_inside - incremental_first))" -lt "$incremental_count" ]; then
            echo "$((incremental_outside + incremental_inside - incremental_first))"
        fi
    done </proc/self/uid_map
}

# Whether something listens at port 4226 of this network.
incremental_is_served() {
    while read -r _ incremental_at _ incremental_socket _; do
        case $incremental_at,$incremental_socket in *:1082,0A) return 0 ;; esac
    done </proc/net/tcp
    return 1
}

# Programs by the compilers' names. $1: a variable of which the tool tells apart what it keeps. nixpkgs' compilers are
# scripts that take flags from the environment, which no tool looks at, and which phases may change.
incremental_wrap_compilers() {
    incremental_wrappers=${incremental_state:-${TMPDIR:-/tmp}}/compilers
    incremental_shell=/bin/sh
    [ -x /bin/sh ] || incremental_shell=$(command -v sh)
    mkdir "$incremental_wrappers"
    for incremental_compiler in $compilerCacheCompilers; do
        incremental_real=$(command -v "$incremental_compiler") || continue
        cat >"$incremental_wrappers/$incremental_compiler" <<END
#!$incremental_shell
$1="\${NIX_CFLAGS_COMPILE-}|\${NIX_CFLAGS_COMPILE_BEFORE-}|\${NIX_CFLAGS_COMPILE_FOR_BUILD-}|\${NIX_CXXSTDLIB_COMPILE-}|\${NIX_HARDENING_ENABLE-default}|\${NIX_ENFORCE_NO_NATIVE-}"
export $1
exec '$incremental_program' '$incremental_real' "\$@"
END
        chmod +x "$incremental_wrappers/$incremental_compiler"
    done
    export PATH="$incremental_wrappers:$PATH"
    echo "incremental: compilers' cache" >&2
}

incremental_end_compiler_cache() {
    [ -n "$incremental_sccache" ] || return 0
    # It writes what it was asked last when the compilers have long ended.
    "$incremental_sccache" --stop-server >/dev/null 2>&1 || :
    incremental_tries=0
    while [ "$incremental_tries" -lt 500 ] && [ -e "/proc/$incremental_server/exe" ]; do
        incremental_tries=$((incremental_tries + 1))
        sleep 0.01
    done
}

incremental_compiler_cache
