#!/bin/sh
# Runs systemd as process 1 of namespaces of its own, over the files of this host. What it writes is gone with it.
#
#   systemd.sh FOLDER BINARY CGROUP     FOLDER/units becomes /etc/systemd/system, FOLDER/etc becomes /etc/pillion,
#                                       and BINARY /usr/bin/pillion. CGROUP is a new group of version 2.
set -e
if [ "$1" != --inside ]; then
    echo $$ >"$3/cgroup.procs"
    exec unshare --cgroup --pid --mount --uts --ipc --fork --kill-child=KILL "$0" --inside "$1" "$2"
fi
folder=$2 binary=$3 root=$2/mnt/root

mount --make-rprivate /
mount -t tmpfs none "$folder/mnt"
mkdir "$folder/mnt/upper" "$folder/mnt/work" "$root"
mount -t overlay -o "lowerdir=/,upperdir=$folder/mnt/upper,workdir=$folder/mnt/work" none "$root"
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t cgroup2 none "$root/sys/fs/cgroup"
for place in dev run tmp; do mount -t tmpfs none "$root/$place"; done
for device in null zero full random urandom tty; do
    : >"$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
ln -s /proc/self/fd "$root/dev/fd"
ln -s pts/ptmx "$root/dev/ptmx"

grep -q '^pillion:' "$root/etc/passwd" || {
    echo 'pillion:x:64990:64990::/nonexistent:/usr/sbin/nologin' >>"$root/etc/passwd"
    echo 'pillion:x:64990:' >>"$root/etc/group"
}
: >"$root/etc/machine-id"
: >>"$root/usr/bin/pillion"
mkdir -p "$root/etc/pillion" "$root/etc/systemd/system" "$root/old"
mount --bind "$binary" "$root/usr/bin/pillion"
mount --bind "$folder/etc" "$root/etc/pillion"
mount --bind "$folder/units" "$root/etc/systemd/system"
cd "$root"
pivot_root . old
umount -l /old
exec env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd --unit=begin.target --log-target=journal --show-status=no
