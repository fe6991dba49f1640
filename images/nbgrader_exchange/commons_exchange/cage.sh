# Runs as the first process of fresh mount, pid, network and IPC namespaces. It builds a root of its own that holds Python, a copy of one
# notebook's folder in memory and nothing else, gives it to the kernel without any capability, and, once the kernel listens, makes the
# folder of its sockets read-only: from then on nothing inside can write to the host's disks.
#
#   cage.sh WORK SOCKETS DISK_MIB UID READ_ONLY_PATHS… -- COMMAND…      UID `-`: stay who we are (in a user namespace of our own)
set -eu
work=$1 sockets=$2 disk=$3 uid=$4; shift 4
unset JPY_PARENT_PID || true
umask 022
root=$(dirname "$work")/root
mkdir -p "$root"
mount --make-rprivate /
mount -t tmpfs -o size=16m,mode=755 cage "$root"
bind() {
  [ -e "$1" ] || return 0
  if [ -L "$1" ]; then mkdir -p "$root$(dirname "$1")"; ln -s "$(readlink "$1")" "$root$1"; return; fi
  if [ -d "$1" ]; then mkdir -p "$root$1"; else mkdir -p "$root$(dirname "$1")"; : > "$root$1"; fi
  mount --rbind "$1" "$root$1"
  mount -o remount,bind,ro,nosuid "$root$1" 2>/dev/null || mount -o remount,bind,ro,nosuid,nodev "$root$1"
}
mkdir -p "$root/tmp"
mount -t tmpfs -o size=64m,mode=1777 tmp "$root/tmp"  # before what is shown: Python itself may lie under /tmp
while [ "$1" != -- ]; do bind "$1"; shift; done; shift
for one in passwd group ld.so.cache ld.so.conf ld.so.conf.d localtime alternatives nsswitch.conf fonts; do bind "/etc/$one"; done
mkdir -p "$root/proc" "$root/dev" "$root/notebook" "$root/old"
for one in null zero random urandom; do : > "$root/dev/$one"; mount --bind "/dev/$one" "$root/dev/$one"; done
mount -t proc proc "$root/proc"
mount -t tmpfs -o "size=${disk}m,mode=1777" notebook "$root/notebook"
cp -r "$work/." "$root/notebook/"
chmod -R a+rwX "$root/notebook"
mkdir -p "$root$sockets"
mount --bind "$sockets" "$root$sockets"
cd "$root"
pivot_root . old
umount -l /old
rmdir /old
cd /notebook
export HOME=/notebook TMPDIR=/tmp IPYTHONDIR=/tmp/ipython
as=""
[ "$uid" = - ] || as="--reuid=$uid --regid=$uid --clear-groups"
# shellcheck disable=SC2086
setpriv $as --no-new-privs --inh-caps=-all --ambient-caps=-all --bounding-set=-all -- "$@" &
kernel=$!
tries=0
while [ "$(find "$sockets" -type s | wc -l)" -lt 5 ] && [ $tries -lt 600 ]; do
  kill -0 $kernel 2>/dev/null || exit 1
  tries=$((tries + 1)); sleep 0.1
done
mount -o remount,bind,ro "$sockets"
trap : INT
while kill -0 $kernel 2>/dev/null; do wait $kernel || true; done
