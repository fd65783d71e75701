# Restores the intermediates of an earlier build before a build, and saves those of this one after it.
#
# Sourced by plain-builder.sh and stdenv-phases.sh; any POSIX shell, with GNU coreutils and findutils, grep,
# sed and awk. Functions and variables of this file begin with incremental_. Everything works on lists: no
# process is started per file. Patterns are never expanded by the shell (set -f) and values never evaluated.
#
# In order:  incremental_begin       in the root of the unpacked source, before it is configured
#            incremental_configured  before the build
#            incremental_installed   after the installation, before outputs are looked at
#            incremental_save        at the end
#
# From the derivation: incrementalBase (a path, or empty), incrementalPolicy (a word and a value a line),
# incrementalOutputs (the outputs besides `intermediates`). docs/incremental.md describes what is saved.

# Where a base is found that the derivation does not name: mounted into the sandbox by the daemon.
incremental_hidden_base=/incremental/base

# The time of every source file: the first that a zip archive can hold. Artifacts are younger than it.
incremental_source_time=315532800

incremental_tab=$(printf '\t')
incremental_newline='
'

incremental_say() {
    printf 'incremental: %s\n' "$*" >&2
}

# xargs over names, one a line.
incremental_each() {
    tr '\n' '\0' | xargs -0 -r "$@"
}

incremental_read_policy() {
    incremental_artifacts='' incremental_exclude='' incremental_full_on=''
    incremental_structure=clean incremental_stable_prefix=yes incremental_stage=one incremental_epoch=auto
    while IFS=' ' read -r incremental_key incremental_value; do
        case $incremental_key in
            artifacts) incremental_artifacts=$incremental_artifacts$incremental_value$incremental_newline ;;
            exclude) incremental_exclude=$incremental_exclude$incremental_value$incremental_newline ;;
            fullOn) incremental_full_on=$incremental_full_on$incremental_value$incremental_newline ;;
            structure) incremental_structure=$incremental_value ;;
            stablePrefix) incremental_stable_prefix=$incremental_value ;;
            stage) incremental_stage=$incremental_value ;;
            epoch) incremental_epoch=$incremental_value ;;
        esac
    done <<POLICY
${incrementalPolicy:-}
POLICY
}

# The hash part of the store path that a path lies in; nothing for other paths.
incremental_hash_of() (
    inside=${1#"${NIX_STORE:-/nix/store}"/}
    if [ "$inside" != "$1" ]; then printf '%s\n' "${inside%%-*}"; fi
)

# ---- the stable prefix ------------------------------------------------------------------------------------
# What is compiled often holds the path of the output ($out/share, run paths). That path is another one in
# each build, so such an object would be wrong in the next. Builds are therefore told a path of the same
# length that never changes, install there, and have it replaced in what they installed.

# Write the two sed scripts: from the outputs' hashes to the stable ones, and back. A stable hash has
# letters that no hash of Nix has (it writes none of e, o, t, u), so that it is met nowhere else.
incremental_write_renamings() {
    : >"$incremental_state/to-stable"
    : >"$incremental_state/to-real"
    : >"$incremental_state/stable-hashes"
    incremental_index=10
    for incremental_output in $incrementalOutputs; do
        eval "incremental_real=\$$incremental_output"
        incremental_hash=$(incremental_hash_of "$incremental_real")
        incremental_stable=stableprefixstableprefixstable$incremental_index
        printf 's/%s/%s/g\n' "$incremental_hash" "$incremental_stable" >>"$incremental_state/to-stable"
        printf 's/%s/%s/g\n' "$incremental_stable" "$incremental_hash" >>"$incremental_state/to-real"
        printf '%s\n' "$incremental_stable" >>"$incremental_state/stable-hashes"
        incremental_index=$((incremental_index + 1))
    done
}

# Apply a sed script to the values of all exported variables. `export -p` quotes them for the shell.
incremental_rename_variables() {
    eval "$(export -p | LC_ALL=C sed -e 's/^declare -x /export /' -f "$1")"
}

# Outside a sandbox the store is the real one, which other builds see: no path is made up there.
incremental_start_stable_prefix() {
    incremental_prefixed=no
    incremental_store=${NIX_STORE:-/nix/store}
    if [ "$incremental_stable_prefix" = yes ] && [ -w "$incremental_store" ] &&
        ! [ -e "$incremental_store/.links" ]; then
        incremental_prefixed=yes
        incremental_rename_variables "$incremental_state/to-stable"
    fi
}

# Move the outputs to where they belong and put their own path into them.
incremental_installed() {
    [ "$incremental_prefixed" = yes ] || return 0
    incremental_prefixed=no
    : >"$incremental_state/moved"
    for incremental_output in $incrementalOutputs; do
        eval "incremental_stable=\$$incremental_output"
        incremental_real=$(printf '%s\n' "$incremental_stable" | sed -f "$incremental_state/to-real")
        if ! [ -e "$incremental_stable" ] && ! [ -L "$incremental_stable" ]; then continue; fi
        if [ -e "$incremental_real" ]; then
            incremental_say "$incremental_real was written besides $incremental_stable, which stands for it:" \
                "use \$$incremental_output, or set stablePrefix = false"
            return 1
        fi
        mv "$incremental_stable" "$incremental_real"
        printf '%s\n' "$incremental_real" >>"$incremental_state/moved"
    done
    incremental_rename_variables "$incremental_state/to-real"
    incremental_rewrite_outputs
}

# Paths of the same length replace each other, so binaries stay as they are otherwise.
incremental_rewrite_outputs() (
    cd "$incremental_state"
    incremental_each sh -c 'find "$@" -type d ! -perm -200 -exec chmod u+w {} +' sh <moved
    { incremental_each grep -rlZFf stable-hashes -- <moved || :; } |
        LC_ALL=C xargs -0 -r sed -i -f "$incremental_state/to-real" --
    incremental_each sh -c 'find "$@" -type l -printf "%l\t%p\n"' sh <moved | { grep -Ff stable-hashes || :; } |
        while IFS=$incremental_tab read -r target link; do
            case $target in
                *stableprefix*) ln -sfn -- "$(printf '%s\n' "$target" | sed -f to-real)" "$link" ;;
            esac
        done
)

# ---- the source's manifest --------------------------------------------------------------------------------

# What the environment says of compilers, flags and dependencies: all of it except source, base, policy and
# what differs from build to build.
incremental_hash_environment() (
    # shellcheck disable=SC2086  # names of variables
    unset src srcs incrementalBase incrementalPolicy $incrementalOutputs intermediates
    unset NIX_BUILD_TOP TMPDIR TEMPDIR TMP TEMP PWD OLDPWD NIX_BUILD_CORES NIX_LOG_FD SHLVL TERM _
    export -p | LC_ALL=C sed -f "$incremental_state/to-stable" | sha256sum | cut -c 1-64
)

# Into `sources`: what a file, link or empty directory is, a tab, its name; sorted. Into `directories`: the
# names of all directories.
incremental_list_sources() (
    state=$incremental_state
    : >"$state/executables"
    find . -mindepth 1 -path "$incremental_prune" -prune -o \( \
        -type d -fprintf "$state/directories" '%P\n' -empty -printf 'directory\t%P\n' -o \
        -type l -printf 'link %l\t%P\n' -o \
        -type f -fprint0 "$state/files" -perm -100 -fprintf "$state/executables" '%P\n' \) >"$state/unhashed"
    # After the 64 digits: a blank, a blank or star, and ./
    xargs -0 -r sha256sum <"$state/files" | LC_ALL=C awk '
        FILENAME == ARGV[1] { executable[$0]; next }
        { name = substr($0, 69); print (name in executable ? "executable " : "file ") substr($0, 1, 64) "\t" name }
    ' "$state/executables" - |
        LC_ALL=C sort -t "$incremental_tab" -k 2 - "$state/unhashed" >"$state/sources"
)

# ---- the choice between an incremental and a full build ---------------------------------------------------

# Print the first name on standard input that one of the patterns matches: its last component, or the whole
# of it where the pattern has a slash. Without set -f, a pattern would become the names it matches here.
incremental_match() (
    set -f
    IFS=$incremental_newline
    while read -r name; do
        for pattern in $1; do
            case $pattern in
                */*) subject=$name ;;
                *) subject=${name##*/} ;;
            esac
            # shellcheck disable=SC2254  # a pattern
            case $subject in $pattern) printf '%s\n' "$name" && return ;; esac
        done
    done
)

# Compare the base's sources with ours, by name and hash: into changed, added, deleted and replaced (a file
# became a link, or a link points elsewhere: no time stamp tells that to a build tool).
incremental_compare() {
    for incremental_list in changed added deleted replaced; do
        : >"$incremental_state/$incremental_list"
    done
    LC_ALL=C awk -F '\t' -v state="$incremental_state/" '
        FILENAME == ARGV[1] { before[$2] = $1; next }
        !($2 in before) { print $2 >(state "added"); next }
        before[$2] != $1 {
            print $2 >(state (($1 " " before[$2]) ~ /^(file|executable) [^ ]* (file|executable) / ? "changed" : "replaced"))
        }
        { delete before[$2] }
        END { for (name in before) print name >(state "deleted") }
    ' "$incremental_base/sources" "$incremental_state/sources" &&
        LC_ALL=C sort -o "$incremental_state/deleted" "$incremental_state/deleted"
}

# Print a saved file that is in the way of a source, or the other way round.
incremental_collision() {
    find "$incremental_base/tree" -mindepth 1 \( -type d -printf 'd\t%P\n' -o -printf 'f\t%P\n' \) |
        LC_ALL=C awk -F '\t' '
            FILENAME == ARGV[1] { folders[$1]; next }
            FILENAME == ARGV[2] { if ($1 != "directory") files[$2]; next }
            ($2 in files) || ($1 == "f" && $2 in folders) { if (!found++) print $2 }
        ' "$incremental_state/directories" "$incremental_state/sources" -
}

# Print why the base cannot be used; nothing where it can.
incremental_refusal() (
    base=$incremental_base
    state=$incremental_state
    refuse() {
        printf '%s\n' "$*"
        exit 0
    }
    [ -n "$base" ] || refuse "no base"
    [ -d "$base" ] || refuse "base $incremental_base_name is not there"
    # The empty directory of garnix has a .gitignore.
    [ -n "$(find "$base/" -mindepth 1 ! -name .gitignore -print -quit)" ] || refuse "no base"
    if ! [ -r "$base/incremental" ] || ! [ -r "$base/sources" ] || ! [ -d "$base/tree" ] ||
        [ "$(head -n 1 "$base/incremental")" != "format 1" ]; then
        refuse "base manifest unreadable"
    fi
    while IFS=' ' read -r key value; do
        case $key in
            unusable) refuse "the base holds nothing: $value" ;;
            system) [ "$value" = "${system:-}" ] || refuse "the base is of system $value" ;;
            root) [ "$value" = "$PWD" ] || refuse "the base was built in $value, this is $PWD" ;;
            environment)
                [ "$value" = "$incremental_environment" ] ||
                    refuse "compiler, flags or dependencies are not those of the base"
                ;;
        esac
    done <"$base/incremental"
    odd=$(find . -mindepth 1 \( -name "*[\\\\$incremental_tab$incremental_newline]*" -o \
        -lname "*[\\\\$incremental_tab$incremental_newline]*" \) -print -quit | head -n 1)
    [ -z "$odd" ] || refuse "a source has a tab, a line break or a backslash in its name: $odd"
    incremental_compare || refuse "base manifest unreadable"
    hit=$(cat "$state/changed" "$state/added" "$state/deleted" "$state/replaced" |
        incremental_match "$incremental_full_on")
    [ -z "$hit" ] || refuse "fullOn pattern matched $hit"
    if [ "$incremental_structure" = clean ]; then
        [ ! -s "$state/added" ] || refuse "file added $(head -n 1 "$state/added")"
        [ ! -s "$state/deleted" ] || refuse "file deleted $(head -n 1 "$state/deleted")"
    fi
    [ ! -s "$state/replaced" ] || refuse "link or kind of file changed $(head -n 1 "$state/replaced")"
    collision=$(incremental_collision)
    [ -z "$collision" ] || refuse "the base holds $collision, which the source has"
)

# ---- restoring ---------------------------------------------------------------------------------------------

# The time for restored artifacts: younger than every input outside the source, hence just now; but no
# younger than the times that ninja noted when it made them, or it makes them again.
incremental_artifact_time() (
    now=$1
    if [ "$incremental_epoch" != auto ]; then
        printf '%s\n' "$incremental_epoch"
        return
    fi
    find "$incremental_base/tree" -name .ninja_log -exec cat {} + | LC_ALL=C awk -F '\t' -v time=$((now - 2)) '
        # Seconds in old logs, nanoseconds since ninja 1.9.
        /^[0-9]/ && NF >= 4 && $3 + 0 > 0 {
            noted = length($3) > 12 ? substr($3, 1, length($3) - 9) + 0 : $3 + 0
            if (noted < time) time = noted
        }
        END { printf "%d\n", time }
    '
)

incremental_restore() (
    state=$incremental_state
    now=$(date +%s)
    cp -dR --preserve=mode,links "$incremental_base/tree/." .
    chmod -R u+w .
    artifact_time=$(incremental_artifact_time "$now")
    find "$incremental_base/tree" -mindepth 1 -printf '%P\0' | xargs -0 -r touch -h -c -d "@$artifact_time" --
    incremental_age_sources
    # Between the two: what had changed already when the base failed to compile, and what it did make of that.
    base=$incremental_base
    if [ -f "$base/pending" ]; then
        cat "$base/pending" "$base/remade" |
            incremental_each touch -h -c -d "@$((now - 1))" --
    fi
    cat "$state/changed" "$state/added" |
        incremental_each touch -h -c -d "@$now" --
)

incremental_age_sources() {
    cut -f 2 "$incremental_state/sources" |
        incremental_each touch -h -c -d "@$incremental_source_time" --
}

# To be called between configuration and build. Returns when the clock of the file system has moved on, so
# that what is written from now on is younger than the stamp.
incremental_configured() {
    touch "$incremental_state/stamp" "$incremental_state/clock"
    until [ -n "$(find "$incremental_state/clock" -newer "$incremental_state/stamp")" ]; do
        touch "$incremental_state/clock"
    done
}

incremental_begin() {
    incremental_root=$PWD
    incremental_state=${TMPDIR:-/tmp}/.incremental
    mkdir "$incremental_state"
    # In the tree only where the source was unpacked into the build directory itself.
    incremental_prune=./${incremental_state#"$incremental_root"/}
    incremental_read_policy
    incremental_base=${incrementalBase:-}
    if [ -z "$incremental_base" ] && [ -d "$incremental_hidden_base" ]; then
        incremental_base=$incremental_hidden_base
    fi
    incremental_base_name=${incremental_base##*/}
    case $incremental_base in
        "${NIX_STORE:-/nix/store}"/*) incremental_base_name=${incremental_base_name#*-} ;;
    esac
    for incremental_path in $incremental_base ${src:-} ${srcs:-}; do
        incremental_hash_of "$incremental_path"
    done >"$incremental_state/foreign-hashes"
    incremental_write_renamings
    cut -d / -f 2 "$incremental_state/to-stable" >"$incremental_state/own-hashes"
    incremental_hash_of "$intermediates" >>"$incremental_state/own-hashes"
    incremental_environment=$(incremental_hash_environment)
    incremental_start_stable_prefix
    # A build that knew its base could write it down.
    unset incrementalBase
    incremental_list_sources
    incremental_reason=$(incremental_refusal)
    if [ -n "$incremental_reason" ]; then
        incremental_say "full build: $incremental_reason"
        incremental_age_sources
    else
        incremental_restore
        incremental_say "base $incremental_base_name:" \
            "$(wc -l <"$incremental_state/changed") changed," \
            "$(wc -l <"$incremental_state/added") added," \
            "$(wc -l <"$incremental_state/deleted") deleted;" \
            "restored $(find "$incremental_base/tree" ! -type d -printf x | wc -c) files"
    fi
}

# ---- saving ------------------------------------------------------------------------------------------------

# Print the artifacts: f or d, a tab, the name. Sources are none, whatever the build did to them.
incremental_list_artifacts() (
    set -f
    IFS=$incremental_newline
    set -- -path "$incremental_prune" -o -name "*[$incremental_tab$incremental_newline]*"
    if [ "$incremental_root" = "${NIX_BUILD_TOP:-}" ]; then set -- "$@" -o -path ./env-vars; fi
    for pattern in $incremental_exclude; do
        case $pattern in
            */*) set -- "$@" -o -path "./$pattern" ;;
            *) set -- "$@" -o -name "$pattern" ;;
        esac
    done
    set -- \( "$@" \) -prune -o \( -false
    for pattern in $incremental_artifacts; do
        if [ "$pattern" = auto ]; then
            set -- "$@" -o -true
        else
            set -- "$@" -o -path "./${pattern%/}" -o -path "./${pattern%/}/*"
        fi
    done
    find . -mindepth 1 "$@" \) \( -type d -printf 'd\t%P\n' -o \
        \( -type l -o -type f -readable \) -printf 'f\t%P\n' \) |
        LC_ALL=C awk -F '\t' '
            FILENAME == ARGV[1] { source[$1]; next }
            FILENAME == ARGV[2] { source[$2]; next }
            !($2 in source)
        ' "$incremental_state/directories" "$incremental_state/sources" -
)

# Print the first saved file that holds a hash which it must not, and what that is of.
incremental_find_reference() (
    cd "$intermediates/tree"
    for kind in own foreign; do
        hashes=$incremental_state/$kind-hashes
        [ -s "$hashes" ] || continue
        found=$({
            LC_ALL=C grep -rlFf "$hashes" . || :
            find . -mindepth 1 -printf '%P\t%l\n' | { LC_ALL=C grep -Ff "$hashes" || :; }
        } | LC_ALL=C sort | sed -n '1{s/\t.*//;s|^\./||;p;}')
        [ -z "$found" ] || { printf '%s %s\n' "$kind" "$found" && return; }
    done
)

# Save the artifacts and the manifest; $1 is the status of the compilation.
incremental_save() {
    cd "$incremental_root"
    incremental_list_artifacts >"$incremental_state/artifacts"
    mkdir -p "$intermediates/tree"
    sed -n "s/^d$incremental_tab//p" "$incremental_state/artifacts" |
        (cd "$intermediates/tree" && incremental_each mkdir -p --)
    sed -n "s/^f$incremental_tab//p" "$incremental_state/artifacts" |
        incremental_each cp -dR --preserve=mode,links --parents -t "$intermediates/tree" --
    cp "$incremental_state/sources" "$intermediates/sources"
    if [ "$1" != 0 ] && [ -z "$incremental_reason" ]; then incremental_save_pending; fi
    {
        printf 'format 1\nsystem %s\nroot %s\n' "${system:-}" "$incremental_root"
        printf 'environment %s\nstatus %s\n' "$incremental_environment" "$1"
    } >"$intermediates/incremental"
    incremental_why=$(incremental_unusable)
    if [ -z "$incremental_why" ]; then
        incremental_say "saved $(grep -c '^f' "$incremental_state/artifacts" || :) files"
    else
        incremental_save_nothing
    fi
}

# What was restored and not made again, because something failed before, is as old as the base: the sources
# that changed since stay changed, but for what was made of them.
incremental_save_pending() {
    {
        if [ -f "$incremental_base/pending" ]; then cat "$incremental_base/pending"; fi
        cat "$incremental_state/changed" "$incremental_state/added"
    } | LC_ALL=C sort -u >"$intermediates/pending"
    find . -mindepth 1 -newer "$incremental_state/stamp" -printf '%P\n' | LC_ALL=C awk -F '\t' '
        FILENAME == ARGV[1] { if ($1 == "f") artifact[$2]; next }
        $0 in artifact
    ' "$incremental_state/artifacts" - | LC_ALL=C sort >"$intermediates/remade"
}

# Print why what was saved must not be a base.
incremental_unusable() (
    found=$(incremental_find_reference)
    case $found in
        '') ;;
        'own '*) printf '%s refers to an output of this derivation\n' "${found#own }" ;;
        *) printf '%s refers to the source or the base in the store\n' "${found#foreign }" ;;
    esac
    [ -n "$found" ] || incremental_find_rewritten
)

# A build that wrote over a source and left a mark that it did (patches applied, a stamp) would not do so
# again, and go on with the source as it was before.
incremental_find_rewritten() {
    find . -type f -cnewer "$incremental_state/stamp" -printf '%P\n' | LC_ALL=C awk -F '\t' '
        FILENAME == ARGV[1] { source[$2]; next }
        $0 in source && !found++ { print "the build wrote over " $0 ", which is a source" }
    ' "$incremental_state/sources" -
}

incremental_save_nothing() {
    chmod -R u+w "$intermediates/tree"
    rm -rf "$intermediates/tree"
    mkdir "$intermediates/tree"
    printf 'unusable %s\n' "$incremental_why" >>"$intermediates/incremental"
    incremental_say "not saved: $incremental_why"
}

# ---- compiling in a stage of its own -----------------------------------------------------------------------

# Let make go on after an error, and remove what a failed rule left half written: a later build would take
# that for finished. In a file older than everything, because makefiles may depend on $(MAKEFILE_LIST).
incremental_keep_going() {
    printf '.DELETE_ON_ERROR:\n' >"$incremental_state/keep-going.mk"
    touch -d "@$incremental_source_time" "$incremental_state/keep-going.mk"
    export MAKEFILES="$incremental_state/keep-going.mk${MAKEFILES:+ $MAKEFILES}"
    export MAKEFLAGS="k${MAKEFLAGS:+ $MAKEFLAGS}"
}

# End the compile stage: save, and make the other outputs, which nobody uses, empty directories.
incremental_finish_compile_stage() {
    incremental_say "compiled with status $1"
    if [ "$incremental_prefixed" = yes ]; then
        incremental_prefixed=no
        incremental_rename_variables "$incremental_state/to-real"
    fi
    incremental_save "$1"
    for incremental_output in $incrementalOutputs; do
        eval "mkdir -p \"\$$incremental_output\""
    done
}
