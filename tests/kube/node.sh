# The first process of one node, in network, mount, UTS and PID namespaces of its own: it arranges the views a node
# has of its machine, says so by the file "ready", and then only waits. Its end is the end of everything on the node.
#   bash node.sh NAME FOLDER
set -eu
name=$1 folder=$2
hostname "$name"
mount -t proc proc /proc
mount --make-rshared /

# /sys of this network namespace, with the cgroups of the machine in it. Not version 2's tree: runc would make groups
# there too, which this kubelet never removes.
mkdir -p "$folder/cgroup"
mount --rbind /sys/fs/cgroup "$folder/cgroup"
mount --make-rslave "$folder/cgroup"
mount -t sysfs sysfs /sys
mount --rbind "$folder/cgroup" /sys/fs/cgroup
umount -l "$folder/cgroup"
umount /sys/fs/cgroup/unified 2>/dev/null || true

# What the node writes below these stays in its folder. The state of containerd and kubelet is bound, as an overlay
# cannot be the upper layer of another.
for top in etc opt var; do
  mkdir -p "$folder/$top.upper" "$folder/$top.work"
  mount -t overlay overlay -o "lowerdir=/$top,upperdir=$folder/$top.upper,workdir=$folder/$top.work" "/$top"
done
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/netns /run/lock /run/containerd
[ -L /var/run ] || { rm -rf /var/run && ln -s /run /var/run; }
for path in var/lib/containerd var/lib/kubelet var/log/pods var/log/containers var/lib/cni etc/cni/net.d opt/cni/bin; do
  mkdir -p "$folder/$path" "/$path"
  mount --bind "$folder/$path" "/$path"
done
mount --make-rshared /

# kubelet would set these for the whole machine: it is shown the values that it wants.
for pair in vm/overcommit_memory=1 kernel/panic=10 kernel/panic_on_oops=1; do
  file=$folder/sysctl/${pair%%=*}
  mkdir -p "$(dirname "$file")"
  echo "${pair##*=}" >"$file"
  mount --bind "$file" "/proc/sys/${pair%%=*}"
done

ip link set lo up
sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0
[ ! -e /proc/sys/net/bridge/bridge-nf-call-iptables ] || sysctl -qw net.bridge.bridge-nf-call-iptables=1
touch "$folder/ready"
trap 'exit 0' TERM INT
while :; do sleep 3600 & wait $!; done
