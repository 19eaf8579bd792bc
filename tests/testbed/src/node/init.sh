#!/bin/busybox sh
# shellcheck shell=dash
# First program of an emulated node, run from the initramfs. It loads the modules, puts the machine's own root (9p, read-only)
# under a tmpfs overlay, and hands over to node.sh inside that root. What it prints goes to the node's console.

/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev

fail() {
	echo "testbed: $*"
	for port in /dev/vport*p3; do
		[ -c "$port" ] && echo "failed $*" >"$port"
	done
	# The line is in QEMU's hands as soon as it is written; the host ends the node on reading it.
	sleep 10
	poweroff -f
}

# The host tells the last of these lines when the node does not come up.
stage() { echo "testbed: $*"; }

# load ROW: the archive names a row's modules so that the shell's order is the load order.
load() {
	for module in "/modules/$1"/*.ko; do
		insmod "$module" || fail "module ${module##*/} cannot be loaded"
	done
}
stage "loading the kernel's modules"
load cluster &
load own

stage "mounting the machine's root over 9p"
mkdir -p /lower /upper /root
mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,cache=loose,ro host /lower ||
	fail "the machine's root cannot be mounted over 9p"
mount -t tmpfs -o mode=755 upper /upper
mkdir /upper/data /upper/work
mount -t overlay -o lowerdir=/lower,upperdir=/upper/data,workdir=/upper/work overlay /root ||
	fail "the overlay over the machine's root cannot be mounted"

for dir in proc sys dev run; do
	[ -d /root/$dir ] || mkdir /root/$dir
done
mount --move /proc /root/proc
mount --move /sys /root/sys
mount --move /dev /root/dev
mount -t tmpfs -o mode=755 run /root/run
mv /node /root/run/testbed
mkdir /root/run/testbed/bin
cp /bin/busybox /root/run/testbed/bin/busybox

stage "waiting for the last of the kernel's modules"
wait
stage "changing to the machine's root"
exec switch_root /root /run/testbed/bin/busybox sh /run/testbed/node.sh
