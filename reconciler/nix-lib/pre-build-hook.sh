#!/bin/sh
# Nix's pre-build-hook: shows a build what the reconciler says that it is to see (docs/incremental.md).
#
# Nix runs it before each build in a sandbox, as the user who builds (of its daemon: root), with the path of the
# derivation. What it reads is written by the reconciler's user, who is trusted no further than that: what is
# shown is a path of the store, read-only, or a folder of those that compilers have; nothing is written into
# files. A derivation of which nothing is said is shown nothing.
set -fu

answers=@answers@
store=@store@
caches=@caches@

answer=$answers/${1##*/}
if ! [ -f "$answer" ] || [ -L "$answer" ] || [ -z "${2-}" ]; then exit 0; fi

# What became of it: a folder, since root must not follow a link of somebody else's.
say() {
    mkdir "$answer.$1" 2>/dev/null || [ -d "$answer.$1" ]
}

show() {
    if say shown; then printf 'extra-sandbox-paths\n%s=%s\n\n' "$1" "$2"; fi
}

# Nix binds paths writable, unless what they lie on is not. The last mount of a place is the one on top.
is_read_only() {
    options=
    while read -r _ _ _ _ place given _; do
        if [ "$place" = "$1" ]; then options=$given; fi
    done </proc/self/mountinfo
    case ,$options, in *,ro,*) ;; *) return 1 ;; esac
}

kind='' name=''
read -r kind name <"$answer"
case $name in '' | .* | *[!0-9A-Za-z+._?=-]*) exit 0 ;; esac
case $kind in
    base)
        if ! is_read_only "$store"; then
            say writable
        elif [ -L "$store/$name" ] || ! [ -d "$store/$name" ]; then
            say missing
        else
            show /incremental/base "$store/$name"
        fi
        ;;
    compiler-cache)
        # Its group is that of the folder it lies in, which is the build users'.
        if ! [ -e "$caches/$name" ]; then mkdir -m 2770 "$caches/$name" 2>/dev/null; fi
        if [ -L "$caches/$name" ] || ! [ -d "$caches/$name" ]; then
            say missing
        else
            show /incremental/compiler-cache "$caches/$name"
        fi
        ;;
esac
exit 0
