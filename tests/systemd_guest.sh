#!/bin/bash
# systemd_guest.sh COMMAND... - runs COMMAND under a real systemd and exits with its status.
#
# Boots systemd as PID 1 in new pid, mount, uts, ipc, net and cgroup namespaces over a throw-away overlay of this machine's
# root file system (the upper layer is a tmpfs: nothing persists), runs COMMAND in there and tears everything down.
# This machine's /run, /dev, /sys and /proc/sys are never written. The guest sees this machine's files, but /run, /tmp
# and /dev/shm are its own and empty.
#
# Needs root with CAP_SYS_ADMIN, overlayfs, cgroup2, seccomp; the packages systemd, systemd-sysv, util-linux.
# Environment:
#   READABLE="/path ..."  bind-mounted read-only at the same place (for what lies in this machine's /tmp or /run)
#   WRITABLE="/path ..."  bind-mounted read-write at the same place: results come out there
# Exit 125: the guest did not boot; the boot log is on stderr.
set -u
PATH=$PATH:/usr/sbin:/sbin  # pivot_root, where the caller's PATH is a user's

name=guestpid1-$$
work=$(mktemp -d "${TMPDIR:-/tmp}/$name.XXXXXX")
cgroups=$(awk '$3 == "cgroup2" { print $2; exit }' /proc/self/mounts)
[ -n "$cgroups" ] || { cgroups=$work/cgroup; mkdir "$cgroups"; mount -t cgroup2 none "$cgroups" || exit 125; }
mkdir "$cgroups/$name" || exit 125

cat >"$work/init.sh" <<'INIT'
set -eu
work=$1 root=$1/overlay/root
mkdir -p "$work/overlay"
mount -t tmpfs -o mode=755 tmpfs "$work/overlay"
mkdir "$work"/overlay/{upper,scratch,root}
mount -t overlay overlay -o "lowerdir=/,upperdir=$work/overlay/upper,workdir=$work/overlay/scratch" "$root"

mount -t proc proc "$root/proc"
mount --bind "$root/proc/sys" "$root/proc/sys"
mount -o remount,bind,ro "$root/proc/sys"
if [ -e "$root/proc/sysrq-trigger" ]; then mount --bind /dev/null "$root/proc/sysrq-trigger"; fi
mount -t sysfs -o ro,nosuid,nodev,noexec sysfs "$root/sys"
mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 "$root/sys/fs/cgroup"
mount -t tmpfs -o mode=755,nosuid tmpfs "$root/dev"
for node in null zero full random urandom tty; do touch "$root/dev/$node"; mount --bind "/dev/$node" "$root/dev/$node"; done
mkdir "$root"/dev/{pts,shm,mqueue}
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
ln -s fd/0 "$root/dev/stdin"; ln -s fd/1 "$root/dev/stdout"; ln -s fd/2 "$root/dev/stderr"
mount -t tmpfs tmpfs "$root/dev/shm"
mount -t tmpfs -o mode=755,nosuid,nodev tmpfs "$root/run"
mkdir -p "$root/run/lock"
mount -t tmpfs tmpfs "$root/tmp"
for path in ${READABLE:-}; do mkdir -p "$root$path"; mount --rbind "$path" "$root$path"; mount -o remount,bind,ro "$root$path"; done
for path in ${WRITABLE:-}; do mkdir -p "$root$path"; mount --bind "$path" "$root$path"; done

etc=$root/etc/systemd
: >"$root/etc/fstab"
rm -rf "$etc"/system/*.wants "$etc"/system/*.requires
mkdir -p "$etc/system" "$etc/system.conf.d" "$etc/journald.conf.d" "$root/var/log/journal"
printf '[Manager]\nDefaultTimeoutStopSec=10s\nShowStatus=no\n' >"$etc/system.conf.d/guest.conf"
printf '[Journal]\nStorage=volatile\nRateLimitBurst=0\nAudit=no\nReadKMsg=no\nForwardToConsole=no\n' >"$etc/journald.conf.d/guest.conf"
# What talks to hardware, clocks or consoles has no place in a guest.
for unit in systemd-{udevd,udev-trigger,udev-settle,sysctl,modules-load,binfmt,random-seed,remount-fs,timesyncd,logind}.service \
  systemd-{update-utmp,pstore,boot-system-token,hwdb-update,firstboot,sysusers,machine-id-commit}.service \
  systemd-udevd-{control,kernel}.socket systemd-journald-audit.socket dev-hugepages.mount dev-mqueue.mount \
  sys-{kernel-debug,kernel-tracing,kernel-config,fs-fuse-connections}.mount proc-sys-fs-binfmt_misc.automount \
  kmod-static-nodes.service getty.target console-getty.service e2scrub_reap.service apt-daily{,-upgrade}.timer; do
  ln -sf /dev/null "$etc/system/$unit"
done
# tmpfiles would empty /tmp at boot and by timer: the paths bound there are this machine's.
mkdir -p "$root/etc/tmpfiles.d"
ln -sf /dev/null "$root/etc/tmpfiles.d/tmp.conf"
ln -sf /dev/null "$etc/system/systemd-tmpfiles-clean.timer"
rm -rf "$root"/etc/rc?.d "$root"/etc/init.d/*   # no SysV services
printf '[Unit]\nRequires=basic.target dbus.socket\nAfter=basic.target\nAllowIsolate=yes\n' >"$etc/system/guest.target"
tr -d - </proc/sys/kernel/random/uuid >"$root/etc/machine-id"
hostname guest

cd "$root"
mkdir -p .old
pivot_root . .old
umount -l /.old
mount --make-rshared /   # so that mounts made by COMMAND reach the units
exec env -i container=guest PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
  setpriv --bounding-set=-sys_time,-sys_module,-sys_rawio,-syslog,-wake_alarm,-mac_admin,-mac_override \
  /lib/systemd/systemd --system --unit=guest.target --log-target=journal
INIT

# Whatever kills this script, even SIGKILL, takes the guest with it: pdeathsig to unshare, --kill-child to its PID 1.
( echo "$BASHPID" >"$cgroups/$name/cgroup.procs"
  exec setpriv --pdeathsig KILL unshare --fork --pid --mount --uts --ipc --net --cgroup --propagation private --kill-child \
    bash "$work/init.sh" "$work" ) </dev/null >"$work/boot.log" 2>&1 &
outer=$!
init=
for _ in $(seq 100); do
  init=$(cat "/proc/$outer/task/$outer/children" 2>/dev/null); init=${init%% *}
  [ -n "$init" ] && break
  kill -0 "$outer" 2>/dev/null || break
  sleep .05
done

inside() { nsenter -t "$init" -m -u -i -n -p -C env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin container=guest HOME=/root LC_ALL=C.UTF-8 "$@"; }

# shellcheck disable=SC2317
cleanup() {
  if [ -n "$init" ]; then
    inside systemctl exit >/dev/null 2>&1
    for _ in $(seq 60); do kill -0 "$init" 2>/dev/null || break; sleep .1; done
    kill -KILL "$init" 2>/dev/null
  fi
  kill -KILL "$outer" 2>/dev/null
  wait "$outer" 2>/dev/null
  for _ in $(seq 10); do
    find "$cgroups/$name" -depth -type d -exec rmdir {} \; 2>/dev/null
    [ -d "$cgroups/$name" ] || break
    sleep .1
  done
  mountpoint -q "$work/cgroup" && umount "$work/cgroup"
  rm -rf --one-file-system "$work"
}
trap cleanup EXIT
trap 'exit 143' TERM INT HUP

state=
for _ in $(seq 300); do
  if [ "$(cat "/proc/$init/comm" 2>/dev/null)" = systemd ]; then
    state=$(timeout 5 nsenter -t "$init" -m -p -n -C systemctl is-system-running 2>/dev/null)
    case $state in running | degraded) break ;; esac
  fi
  { [ -n "$init" ] && kill -0 "$init" 2>/dev/null; } || break
  sleep .1
done
case $state in
  running | degraded) ;;
  *) echo "systemd_guest.sh: the guest did not boot (state: ${state:-PID 1 died}):" >&2; cat "$work/boot.log" >&2; exit 125 ;;
esac
[ $# -gt 0 ] || { echo "usage: systemd_guest.sh COMMAND..." >&2; exit 2; }
inside "$@"
