# The builder of incremental.derivation: source, configure, build, install, each by the commands given.
set -e
export PATH
. "$incrementalScript"

if ! [ -d "$src" ]; then
    echo "src is $src, which is not a directory: unpack it in a derivation of its own" >&2
    exit 1
fi
cp -dR --preserve=mode,links "$src" "$NIX_BUILD_TOP/source"
chmod -R u+w "$NIX_BUILD_TOP/source"
cd "$NIX_BUILD_TOP/source"
incremental_begin
eval "$incrementalSetup"
eval "$incrementalConfigure"
cd "$incremental_root"
incremental_configured

if [ "$incremental_stage" = compile ]; then
    incremental_keep_going
    # Not `( ... ) || status=$?`: that would switch `set -e` off inside.
    set +e
    (
        set -e
        eval "$incrementalBuild"
    )
    incremental_status=$?
    set -e
    incremental_finish_compile_stage "$incremental_status"
else
    eval "$incrementalBuild"
    cd "$incremental_root"
    eval "$incrementalInstall"
    incremental_installed
    incremental_save 0
fi
# A shell would become its last command, and Nix kills what closes its output before it ends.
:
