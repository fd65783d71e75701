#!/bin/sh
# A real systemd as the first process of a container, on a machine that runs none. For root on Debian.
#
#   usage: systemd-box.sh root ROOT [SUITE]               make ROOT, a small Debian with systemd, if it is not there
#          systemd-box.sh up FOLDER ROOT [HERE=THERE]...  start; what is HERE is seen THERE, read-only
#          systemd-box.sh in FOLDER COMMAND...            run a command inside
#          systemd-box.sh down FOLDER
#   environment: MIRROR, a Debian mirror; by default the one that this machine's apt uses
#
# SUITE is this machine's own, or testing, for a newer systemd.
# FOLDER holds what is known of one box. Whatever happens inside is written to memory and gone with it: ROOT
# stays as it was made, and is kept.
set -eu

die() { echo "systemd-box: $*" >&2; exit 1; }

packages=systemd,systemd-sysv,dbus,procps,git,openssh-client,ca-certificates,libsqlite3-0,libffi8,libbz2-1.0,liblzma5,libexpat1

make_root() {
    . /etc/os-release
    suite=${2:-$VERSION_CODENAME}
    [ "$(cat "$1/.made" 2>/dev/null)" != "$suite $packages" ] || return 0
    command -v debootstrap >/dev/null || die "no debootstrap: apt-get install debootstrap"
    # Where the system's own packages come from.
    mirror=${MIRROR:-$(apt-get indextargets --format '$(REPO_URI)' \
        'Created-By: Packages' 'Origin: Debian' 'Label: Debian' | sort -u | head -n 1)}
    [ -n "$mirror" ] || die "apt knows no Debian mirror: run 'apt-get update', or set MIRROR"
    rm -rf "$1"
    debootstrap --variant=minbase --include="$packages" "$suite" "$1" "$mirror" >"$1.log" 2>&1 ||
        die "debootstrap failed: see $1.log"
    echo "$suite $packages" >"$1/.made"
}

up() {
    folder=$(realpath "$1") root=$(realpath "$2")
    shift 2
    mkdir -p "$folder/top"
    cat >"$folder/init.sh" <<END
set -e
# The outer /proc still: this process, which becomes systemd, as the machine numbers it.
read -r pid _ </proc/self/stat
echo "\$pid" >$folder/pid
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs $folder/top
cd $folder/top
mkdir upper work box
mount -t overlay overlay -o lowerdir=$root,upperdir=upper,workdir=work box
cd box
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
mount -t tmpfs -o mode=755 tmpfs dev
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
mount -t tmpfs -o mode=1777 tmpfs dev/shm
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
for device in null zero full random urandom tty; do
    touch dev/\$device
    mount --bind /dev/\$device dev/\$device
done
mount -t tmpfs tmpfs sys/fs/cgroup
mount -t cgroup2 cgroup2 sys/fs/cgroup
END
    for bind; do
        cat >>"$folder/init.sh" <<END
mkdir -p .${bind#*=}
mount --rbind ${bind%%=*} .${bind#*=}
mount -o remount,bind,ro .${bind#*=}
END
    done
    cat >>"$folder/init.sh" <<END
ip link set lo up 2>/dev/null || true
hostname systemd-box
mkdir .old
pivot_root . .old
umount -l /.old
# As systemd does itself, except in a container: credentials are mounted elsewhere, and come from there.
mount --make-rshared /
exec env -i container=unshare PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd \
    --unit=multi-user.target systemd.unified_cgroup_hierarchy=1
END
    # In a cgroup of its own first: it is the root of the cgroup namespace.
    group=$(awk '$3 == "cgroup2" { print $2; exit }' /proc/mounts)/systemd-box-$$
    mkdir "$group"
    echo "$group" >"$folder/cgroup"
    setsid sh -c 'echo $$ >"$1/cgroup.procs"; exec unshare -m -u -i -n -p -C -f --kill-child sh "$2"' \
        sh "$group" "$folder/init.sh" </dev/null >"$folder/log" 2>&1 &
    outer=$!
    echo "$outer" >"$folder/outer"
    state=
    for _ in $(seq 300); do
        kill -0 "$outer" 2>/dev/null || break
        if [ -s "$folder/pid" ]; then
            state=$(inside "$folder" systemctl is-system-running 2>/dev/null || :)
            case $state in running | degraded) return 0 ;; esac
        fi
        sleep 0.1
    done
    down "$folder"
    die "it does not start (${state:-no answer}): $(cat "$folder/log")"
}

inside() {
    pid=$(cat "$1/pid")
    shift
    nsenter -t "$pid" -a -- "$@"
}

down() {
    [ -e "$1/outer" ] || return 0
    outer=$(cat "$1/outer")
    [ ! -s "$1/pid" ] || kill -9 "$(cat "$1/pid")" 2>/dev/null || :
    kill -9 "$outer" 2>/dev/null || :
    while kill -0 "$outer" 2>/dev/null; do sleep 0.1; done
    # Empty as soon as the last process of the namespace is gone.
    group=$(cat "$1/cgroup")
    for _ in $(seq 100); do
        find "$group" -depth -type d -exec rmdir {} + 2>/dev/null || :
        [ -e "$group" ] || break
        sleep 0.1
    done
    rm -f "$1/outer" "$1/pid" "$1/cgroup" "$1/init.sh"
}

[ "$(id -u)" = 0 ] || die "it takes root"
verb=${1:-}
[ $# -lt 2 ] || shift
case $verb in
root) make_root "$@" ;;
up) up "$@" ;;
in) inside "$@" ;;
down) down "$1" ;;
*) die "usage: systemd-box.sh root|up|in|down …; see its first lines" ;;
esac
