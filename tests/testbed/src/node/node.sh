#!/bin/busybox sh
# shellcheck shell=dash
# Second half of a node's start, inside the machine's root: file systems, names, network, RDMA. Then it runs the command with
# its streams on the virtio ports and reports how it ended.
#
# Ports: 1 standard output, 2 standard error, 3 reports to the host, 4 standard input.

here=/run/testbed
$here/bin/busybox --install -s $here/bin
export PATH=$here/bin:/usr/sbin:/usr/bin:/sbin:/bin
read -r mark <$here/end-mark

fail() {
	echo "testbed: $*"
	echo "failed $*" >&9
	sleep 10
	poweroff -f
}

# The host tells the last of these lines when the node does not come up.
stage() { echo "testbed: $*"; }

stage "waiting for the virtio ports"
# Ports appear when the host has answered the driver, which may be after the module is loaded. Their names begin with the number
# of the virtio device, which only the kernel knows.
tries=0
while set -- /dev/vport*p[1-4] && [ $# -lt 4 ]; do
	tries=$((tries + 1))
	[ $tries -lt 500 ] || { echo "testbed: the virtio ports did not appear"; poweroff -f; }
	usleep 10000
done
port=${1%1}
exec 9>"${port}3"

stage "mounting file systems"
mkdir -p /dev/pts /dev/shm /run/lock /run/user
mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /dev/pts
mount -t tmpfs -o mode=1777 shm /dev/shm
ln -sf /proc/self/fd /dev/fd
ln -sf /proc/self/fd/0 /dev/stdin
ln -sf /proc/self/fd/1 /dev/stdout
ln -sf /proc/self/fd/2 /dev/stderr
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir /sys/fs/cgroup/command || fail "no cgroup for the command"

# This node's number, and how many there are. Those side by side know each other on two networks: that of the cluster, and that of commands (`on`).
read -r number hosts <$here/place
name=node$number
hostname "$name"
rm -f /etc/hosts /etc/hostname
echo "$name" >/etc/hostname
echo '127.0.0.1 localhost' >/etc/hosts
if [ "$hosts" -gt 1 ]; then
	for other in $(seq 0 $((hosts - 1))); do
		printf '10.0.3.%d node%d\n10.0.4.%d node%d-control\n' $((other + 1)) "$other" $((other + 1)) "$other" >>/etc/hosts
	done
else
	echo "10.0.2.15 $name" >>/etc/hosts
fi

stage "setting up the network"
ip link set lo up
ip link set eth0 up || fail "eth0 is missing"
ip addr add 10.0.2.15/24 dev eth0
rdma link add rxe0 type rxe netdev eth0 || fail "rdma_rxe cannot be put on eth0"
if [ "$hosts" -gt 1 ]; then
	# Jumbo frames, as clusters have them: a page is one packet, over RDMA too.
	for network in 3 4; do
		card=eth$((network - 2))
		ip link set $card mtu 9000 up || fail "$card is missing"
		ip addr add "10.0.$network.$((number + 1))/24" dev $card
	done
	rdma link add rxe1 type rxe netdev eth1 || fail "rdma_rxe cannot be put on eth1"
fi
[ -c /dev/kvm ] || fail "the node's kernel has no /dev/kvm: kvm-amd found no SVM"
chmod 666 /dev/kvm
ulimit -l unlimited

# Pipes, not the ports themselves, are the command's streams: a port can be opened only once, and is no end of file to anybody.
# The end mark tells the host that the stream is whole, however much of it still is on its way.
mkfifo $here/in $here/out $here/err
{ cat $here/out; printf %s "$mark"; } >"${port}1" 9>&- &
out=$!
{ cat $here/err; printf %s "$mark"; } >"${port}2" 9>&- &
err=$!
if [ -e $here/with-stdin ]; then
	cat "${port}4" >$here/in 9>&- &
	in=$here/in
else
	in=/dev/null
fi

stage "starting the command"
read -r uptime _ </proc/uptime
echo "ready $uptime" >&9
(
	echo 0 >/sys/fs/cgroup/command/cgroup.procs
	exec sh $here/command
) <$in >$here/out 2>$here/err 9>&-
status=$?

# What the command left running would hold its pipes open for ever.
echo 1 >/sys/fs/cgroup/command/cgroup.kill
wait $out
wait $err
echo "exit $status" >&9
# The host ends the node once it has every byte.
sleep 3600
