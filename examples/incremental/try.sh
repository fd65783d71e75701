#!/bin/sh
# Build this example by the whole reconciler: in full, after a change of one file, and after another on a
# machine that has built nothing yet and shares an artifact store with the first.
#
#   usage: try.sh FOLDER        from the root of the project, with nix and reconciler on PATH
#   environment: UNITS, how many C files are added to the five there are (60)
#
# FOLDER gets a private Nix store, a git repository of the example and the reconciler's state. Run again, it
# begins anew, with a repository of its own that nobody has built.
set -eu

[ $# = 1 ] || { echo "usage: try.sh FOLDER" >&2; exit 2; }
case $1 in /*) folder=$1 ;; *) folder=$PWD/$1 ;; esac
units=${UNITS:-60}
here=$(cd "$(dirname "$0")" && pwd)
. "$here/../../scripts/private-nix.sh"

# ---- a project in git, large enough that compiling it takes a while ----------------------------------------

project=$folder/project
rm -rf "$project" "$folder/state" "$folder/intermediates"
mkdir -p "$project"
cp -R "$here/release.nix" "$here/source" "$here/../../lib" "$project"

# A polygon: its area, and a table of the polygons that are like it, to give the compiler work.
polygon() {
    printf '#include <math.h>\n#include <stdio.h>\n#include <stdlib.h>\n#include "figures.h"\n'
    printf 'double polygon_%s(double side);\n' "$1"
    seq 40 | sed "s/.*/static double like_$1_&(double s) { double a = $1.&; for (int i = 0; i < &; i++) a += sqrt(s * i + a); return a \/ tan(3.14159 \/ (s + &)); }/"
    printf 'double polygon_%s(double side)\n{\n    double area = side;\n' "$1"
    seq 40 | sed "s/.*/    area += like_$1_&(area);/"
    printf '    return area;\n}\n'
}
names=$(seq -f polygon_%g "$units")
for number in $(seq "$units"); do
    polygon "$number" >"$project/source/polygon_$number.c"
done
# One list for make, one for ninja. A list of words on purpose: one name each.
# shellcheck disable=SC2086
{
    objects=$(printf ' %s.o' $names)
    sed -i "s/^UNITS = .*/& $(echo $names)/" "$project/source/Makefile"
    sed -i "s/^build figures: .*/&$objects/" "$project/source/build.ninja"
    printf 'build %s.o: compile %s.c\n' $(for name in $names; do echo "$name $name"; done) \
        >>"$project/source/build.ninja"
}
# Nobody has built it: else Nix would know the result.
echo "/* $(date) $$ */" >>"$project/source/figures.h"

commit() {
    git -C "$project" add --all
    git -C "$project" -c user.name=demo -c user.email=demo@example.org -c commit.gpgSign=false \
        commit --quiet --message "$1"
}
git init --quiet --initial-branch=main "$project"
commit "A program that draws no figures"

cat >"$folder/reconciler.yaml" <<END
jobsets:
  figures:
    source: {git: {url: "file://$project", ref: main}, file: release.nix}
    incremental: {enable: true, audit: {fraction: 0}}     # in a demo each build is made once
builders:
  local: {maxJobs: 2}
artifactStores:
  builds: {url: "file://$folder/intermediates"}     # or s3://BUCKET?region=…, with a credentialsFile
END

# ---- three times --------------------------------------------------------------------------------------------

# How many units a job's newest build compiled.
compiled() {
    reconciler log "figures.$1" 2>/dev/null | grep -c -- ' -c -o ' || :
}
timed() {
    began=$(date +%s%N)
    expect 0 reconciler run --once
    took=$((($(date +%s%N) - began) / 1000000))
}

timed
first=$took
make_first=$(compiled with-make) ninja_first=$(compiled with-ninja)

printf '\n$ %s\n' "sed -i 's/side \\* side/2 * &/' source/square.c; git commit -a"
sed -i 's/side \* side/2 * &/' "$project/source/square.c"
commit "Squares of twice the area"

timed
second=$took
make_second=$(compiled with-make) ninja_second=$(compiled with-ninja)
expect 0 reconciler incremental explain figures.with-make

printf '\n$ %s\n' "# a new machine: no store paths, no state"
chmod -R u+w "$NIX_STORE_DIR"
rm -rf "$NIX_STORE_DIR" "$NIX_STATE_DIR" "$folder/state"
printf '\n$ %s\n' "sed -i 's/2 \* side/3 * side/' source/square.c; git commit -a"
sed -i 's/2 \* side/3 * side/' "$project/source/square.c"
commit "Squares of thrice the area"

timed
third=$took
expect 0 reconciler incremental explain figures.with-make

cat <<END

                      compiled by make   by ninja   whole run
  the first build     $(printf '%16s %10s %8s.%03d s' "$make_first" "$ninja_first" $((first / 1000)) $((first % 1000)))
  one file changed    $(printf '%16s %10s %8s.%03d s' "$make_second" "$ninja_second" $((second / 1000)) $((second % 1000)))
  on a new machine    $(printf '%16s %10s %8s.%03d s' "$(compiled with-make)" "$(compiled with-ninja)" $((third / 1000)) $((third % 1000)))

To go on, change something below $project/source, commit it, and then

  . $folder/env
  reconciler run --once
  reconciler incremental status
  reconciler incremental replay figures.with-make       # the command that makes the same derivation anywhere
END
