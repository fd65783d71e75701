#!/bin/sh
# Print the folder of the Nix to use: the one on PATH where that is new enough, else the one in PREFIX.
#
#   usage: find-nix.sh PREFIX       prints nothing and exits 1 if there is neither
set -eu

# 2.24 or later. The version is the last word: "nix (Nix) 2.34.8", "nix (Lix, like Nix) 2.93.0".
new_enough() {
    number=$("$1" --version 2>/dev/null | sed -n 's/^.* \([0-9]*\.[0-9]*\)[^ ]*$/\1/p')
    major=${number%.*} minor=${number#*.}
    [ -n "$number" ] && [ "$((major * 1000 + minor))" -ge 2024 ]
}

for nix in "$(command -v nix || :)" "$1/bin/nix"; do
    if [ -x "$nix" ] && new_enough "$nix"; then
        echo "${nix%/*}"
        exit 0
    fi
done
exit 1
