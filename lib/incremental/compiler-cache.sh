# Puts ccache before the compilers, where the daemon shows this build a place for what they make.
#
# Sourced in the root of the source, before it is configured; any POSIX shell. From the derivation:
# compilerCacheCompilers (names), compilerCacheProgram (the program), compilerCacheSize (a size).

if ! [ -d /incremental/compiler-cache ]; then
    echo "incremental: no compilers' cache" >&2
elif ! [ -w /incremental/compiler-cache ]; then
    # Where each build has a group of its own (auto-allocate-uids), no two can share it.
    echo "incremental: no compilers' cache: it cannot be written to" >&2
elif ! incremental_ccache=$(command -v "$compilerCacheProgram"); then
    echo "incremental: no compilers' cache: there is no $compilerCacheProgram" >&2
else
    # Links by the compilers' names: ccache looks for the next of its name on PATH.
    incremental_links=${incremental_state:-${TMPDIR:-/tmp}}/compilers
    mkdir "$incremental_links"
    for incremental_compiler in $compilerCacheCompilers; do
        if command -v "$incremental_compiler" >/dev/null; then
            ln -s "$incremental_ccache" "$incremental_links/$incremental_compiler"
        fi
    done
    export PATH="$incremental_links:$PATH"
    # Builders are many users of one group. What a compiler is, its contents tell: its time is always the same.
    export CCACHE_DIR=/incremental/compiler-cache CCACHE_UMASK=007 CCACHE_COMPILERCHECK=content
    export CCACHE_BASEDIR="$PWD" CCACHE_NOHASHDIR=1 CCACHE_MAXSIZE="$compilerCacheSize"
    echo "incremental: compilers' cache" >&2
fi
