#!/bin/sh
# Install Nix from Debian's archive into a prefix of its own.
#
#   usage: install-nix.sh PREFIX [SUITE]        SUITE: forky (the default), trixie, …
#   environment: MIRROR, a Debian mirror; by default the one that this machine's apt uses
#
# Debian 12's own Nix is 2.8, too old to speak to; newer suites have newer ones. Everything lands below
# PREFIX: no package is installed, no user made, nothing written to /nix or /etc, so a Nix that the
# system has of its own is left alone, and root is needed only where PREFIX asks for it.
# Started again on a prefix that works, it does nothing.
set -eu

die() { echo "install-nix: $*" >&2; exit 1; }

[ $# -ge 1 ] || die "usage: install-nix.sh PREFIX [SUITE]"
case $1 in /*) prefix=$1 ;; *) prefix=$PWD/$1 ;; esac
suite=${2:-forky}
keys=/usr/share/keyrings/debian-archive-keyring.gpg

if "$prefix/bin/nix" --version 2>/dev/null; then exit 0; fi

for tool in apt-get apt-cache dpkg dpkg-deb; do
    command -v "$tool" >/dev/null ||
        die "no $tool: this script needs Debian; elsewhere put a Nix of 2.24 or later on PATH"
done
[ -r "$keys" ] || die "no $keys: apt-get install debian-archive-keyring"
mkdir -p "$prefix" 2>/dev/null && [ -w "$prefix" ] ||
    die "cannot write to $prefix: name another with NIX_PREFIX, or put a Nix of 2.24 or later on PATH"

work=$(mktemp -d "$prefix/.install.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
new=$work/root

# Origin and Label stand in the release files of the mirror, so apt must have fetched them once. The
# label tells the archive proper from its security and backports sections, which have no such suite.
mirror() {
    apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 'Label: Debian' |
        sort -u | head -n 1
}
MIRROR=${MIRROR:-$(mirror)}
if [ -z "$MIRROR" ] && [ "$(id -u)" = 0 ]; then
    apt-get -qq update
    MIRROR=$(mirror)
fi
[ -n "$MIRROR" ] || die "apt knows no Debian mirror: run 'apt-get update' as root, or set MIRROR"

# An apt of our own: its sources, lists, cache and an empty status of installed packages, so that it
# fetches a whole closure and the system's apt never hears of the suite. Signatures are checked against
# Debian's archive keys only, and there is no insecure fallback. The system's apt.conf is still read
# (proxies); locks are off since they guard a database that is not ours.
mkdir -p "$new" "$work/lists/partial" "$work/cache/archives/partial" "$work/state"
: >"$work/state/status"
echo "deb [arch=$(dpkg --print-architecture) signed-by=$keys] $MIRROR $suite main" >"$work/sources.list"
cat >"$work/apt.conf" <<END
Dir::Etc::sourcelist "$work/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::trusted "/dev/null";
Dir::Etc::trustedparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::State "$work/state";
Dir::State::lists "$work/lists";
Dir::State::status "$work/state/status";
Dir::Cache "$work/cache";
Dir::Log "$work";
APT::Install-Recommends "false";
APT::Sandbox::User "root";
APT::Get::AllowUnauthenticated "false";
Acquire::AllowInsecureRepositories "false";
Acquire::Languages "none";
Acquire::Retries "3";
Debug::NoLocking "true";
END
APT_CONFIG=$work/apt.conf
export APT_CONFIG
echo "install-nix: fetching Nix from Debian $suite into $prefix"
apt-get -qq update -o APT::Update::Error-Mode=any
apt-get -qq install -y --download-only nix-bin patchelf bash-static >/dev/null
version=$(apt-cache policy nix-bin | sed -n 's/^ *Candidate: //p')
unset APT_CONFIG

# Programs wanted, and libraries; not what only Debian's package scripts need (perl, debconf, …).
for deb in "$work"/cache/archives/*.deb; do
    case ${deb##*/} in
        *perl*) ;;
        nix-bin_* | patchelf_* | bash-static_* | zlib1g_* | lib*) dpkg-deb -x "$deb" "$new" ;;
    esac
done
loader=$(find "$new"/usr/lib/*-linux-* -maxdepth 1 -name 'ld-linux*.so.*' | head -n 1)
[ -n "$loader" ] || die "no dynamic loader among the packages of $suite"
libraries=${loader%/*}

# One file is patched. A DT_RPATH (not a RUNPATH) on the program serves its libraries' libraries too, and
# unlike LD_LIBRARY_PATH or a wrapper nothing leaks into what Nix starts (git, ssh, builders), and
# /proc/self/exe, by which Nix starts itself again, is Nix. patchelf is as new as the libraries, so it
# runs on their loader too.
root=$prefix/root
final=$root${libraries#"$new"}
"$loader" --library-path "$libraries" "$new/usr/bin/patchelf" \
    --set-interpreter "$final/${loader##*/}" --force-rpath --set-rpath "$final" "$new/usr/bin/nix"

rm -rf "$root"
mv "$new" "$root"
mkdir -p "$prefix/bin"
for program in "$root"/usr/bin/nix*; do ln -sfn "$program" "$prefix/bin/${program##*/}"; done
# A shell for sandboxes: a hard link, since Nix mounts a symbolic link as such and not what it points to.
ln -f "$root/usr/bin/bash-static" "$prefix/bin/bash-static"
echo "$version" >"$prefix/version"
"$prefix/bin/nix" --version || die "the Nix in $prefix does not start"
