# The order, names and shell options of stdenv's setup script, as nixpkgs' manual describes them.
set -eu
set -o pipefail
shopt -s inherit_errexit
export PATH=/usr/bin:/bin
export SHELL=/usr/bin/bash CONFIG_SHELL=/usr/bin/bash
read -ra allOutputs <<<"$outputs"
prefix=$out

# Compilers are told of the output before any phase runs.
export NIX_LDFLAGS="-rpath $out/lib"
seed=${NIX_OUTPATH_USED_AS_RANDOM_SEED:-$out}
seed=${seed##*/}
export NIX_CFLAGS_COMPILE="-frandom-seed=${seed:0:10}"

exitHandler() {
    local status=$?
    set +e
    if ((status)); then runHook failureHook; else runHook exitHook; fi
    return "$status"
}
trap exitHandler EXIT

runHook() {
    local more="${1}s[@]" each
    for each in ${!more-}; do "$each"; done
    if [[ $(type -t "$1") == function ]]; then "$1"; else eval "${!1-}"; fi
}

runPhase() {
    local curPhase=$1 skip
    for skip in dontUnpack:unpackPhase dontPatch:patchPhase dontConfigure:configurePhase \
        dontBuild:buildPhase dontInstall:installPhase dontFixup:fixupPhase; do
        local variable=${skip%:*}
        if [[ $curPhase == "${skip#*:}" && -n ${!variable-} ]]; then return; fi
    done
    if [[ $curPhase == checkPhase && -z ${doCheck-} ]]; then return; fi
    echo "Running phase: $curPhase"
    eval "${!curPhase:-$curPhase}"
    if [[ $curPhase == unpackPhase ]]; then cd "${sourceRoot:-source}"; fi
}

unpackPhase() {
    runHook preUnpack
    if [[ -d $src ]]; then
        cp -pr --reflink=auto -- "$src" source
    else
        mkdir source
        tar -C source --strip-components=1 -xf "$src"
    fi
    chmod -R u+w source
    runHook postUnpack
}

patchPhase() {
    runHook prePatch
    local patch
    for patch in ${patches-}; do patch -p1 <"$patch"; done
    runHook postPatch
}

configurePhase() {
    runHook preConfigure
    if [[ -x ./configure ]]; then ./configure --prefix="$prefix" ${configureFlags-}; fi
    runHook postConfigure
}

buildPhase() {
    runHook preBuild
    make SHELL="$SHELL" ${makeFlags-} ${buildFlags-}
    runHook postBuild
}

checkPhase() {
    runHook preCheck
    make check ${makeFlags-}
    runHook postCheck
}

installPhase() {
    runHook preInstall
    make install ${makeFlags-}
    runHook postInstall
}

# Works on each output that is there, strips what is in lib and bin, and rewrites shebangs everywhere.
fixupPhase() {
    local output
    for output in "${allOutputs[@]}"; do
        if [[ -e ${!output} ]]; then chmod -R u+w "${!output}"; fi
    done
    runHook preFixup
    for output in "${allOutputs[@]}"; do
        if [[ -d ${!output} ]]; then
            { grep -rlZ '^#!/bin/sh' "${!output}" || :; } | xargs -0 -r sed -i "1s|#!/bin/sh|#!$SHELL|"
        fi
    done
    runHook postFixup
}

genericBuild() {
    local phase
    cd "$NIX_BUILD_TOP"
    # With the names of phases that hooks have added by now.
    for phase in ${phases:-${prePhases-} unpackPhase patchPhase ${preConfigurePhases-} configurePhase \
        ${preBuildPhases-} buildPhase checkPhase ${preInstallPhases-} installPhase ${preFixupPhases-} fixupPhase \
        ${postPhases-}}; do
        runPhase "$phase"
    done
}
