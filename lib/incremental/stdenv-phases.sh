# The phases that incremental.wrap adds to a derivation of stdenv. Bash, sourced by stdenv's setup script.
. "$incrementalScript"

# Also variables that are not exported, and arrays: what structured attributes become.
incremental_rename_variables() {
    local incremental_hashes incremental_variable incremental_value incremental_text incremental_flags
    mapfile -t incremental_hashes < <(cut -d / -f 2 "$1")
    for incremental_variable in $(compgen -v); do
        [[ $incremental_variable != incremental_* ]] || continue
        incremental_value="$incremental_variable[*]"
        incremental_value=${!incremental_value-}
        for incremental_hash in "${incremental_hashes[@]}"; do
            [[ $incremental_value == *"$incremental_hash"* ]] || continue
            incremental_text=$(declare -p "$incremental_variable" | LC_ALL=C sed -f "$1")
            incremental_text=${incremental_text#declare -}
            incremental_flags=${incremental_text%% *}
            # A variable that must not change stays.
            [[ $incremental_flags != *r* ]] || continue
            eval "declare -g${incremental_flags#-} ${incremental_text#* }"
            break
        done
    done
}

incremental_compile() {
    local status=0
    incremental_keep_going
    if [ -z "${dontBuild-}" ]; then
        # Not `( ... ) || status=$?`: that would switch `set -e` off inside.
        set +e
        (
            set -e
            eval "${buildPhase:-buildPhase}"
        )
        status=$?
        set -e
    fi
    incremental_finish_compile_stage "$status"
    exit 0
}
