#!/bin/busybox sh
# The first process of the lane's guest (lane.py): makes a root to write to, runs the job in it, powers off.
# The host's files are below, read-only; what is written goes to memory. /out is the directory shared with the host.
box=/bin/busybox
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8
trap '$box poweroff -f' EXIT

$box mount -t proc proc /proc
shared=$($box sed 's/.*weavepy.shared=\([^ ]*\).*/\1/' /proc/cmdline)
modules=$($box sed 's/.*weavepy.modules=\([^ ]*\).*/\1/' /proc/cmdline)
$box insmod "$modules/$($box uname -r)/kernel/fs/overlayfs/overlay.ko"
$box mount -t tmpfs -o size=75% tmpfs /mnt
$box mkdir /mnt/upper /mnt/work /mnt/root
$box mount -t overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work overlay /mnt/root || exit 1
cd /mnt/root || exit 1

$box mkdir -p out usr/lib/modules
$box mount -t hostfs -o "$shared" hostfs out || exit 1
$box mount --bind "$modules" usr/lib/modules
$box mount -t proc proc proc
$box mount -t sysfs sysfs sys
$box mount -t cgroup2 cgroup2 sys/fs/cgroup
$box mount -t bpf bpf sys/fs/bpf
$box mount -t devtmpfs devtmpfs dev
$box mkdir -p dev/pts dev/shm
$box ln -s /proc/self/fd dev/fd
$box mount -t devpts -o ptmxmode=666 devpts dev/pts
$box mount -t tmpfs tmpfs dev/shm
$box mount -t tmpfs tmpfs run

# The kernel looks for its modules below what was the root when it began, so the new one takes its place.
$box pivot_root . mnt
$box umount -l /mnt

$box hostname lane
$box ip link set lo up
# A VXLAN device asks for this module while it holds the lock that the module needs to be loaded.
modprobe -a ipv6 tun
bash /out/job
$box sync
