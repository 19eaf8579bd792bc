#!/bin/bash
# Runs in one testbed node: every case is one run of vincs, on one rank but for one.
here=$1
limit=600
# shellcheck source-path=SCRIPTDIR source=../cases.sh
. "$here/../cases.sh"
busybox=$VINCS_CACHE/tools/busybox

small() { local name=$1; shift; case_ "$name" vincs --vcpus 1 --mem 512M "$@"; }

# Processors and their arrangement.
for n in 1 2; do
    case_ "vcpus-$n" vincs --vcpus "$n" --stats "$out/stats-$n.json" -- sh -c 'nproc; uname -r'
done
# shellcheck disable=SC2016 # expanded in the guest
case_ topology env MARK='a value' vincs --vcpus 4 --numa 2 --mem 2G -- bash -c '
    echo "cpus $(cat /sys/devices/system/cpu/online)"
    for node in 0 1; do echo "node$node $(cat /sys/devices/system/node/node$node/cpulist) $(cat /sys/devices/system/node/node$node/distance)"; done
    for node in 0 1; do awk "/MemTotal/{print \"memory$node\", \$4}" /sys/devices/system/node/node$node/meminfo; done
    lscpu -p=CPU,CORE,SOCKET,NODE | grep -v "^#" | sed "s/^/lscpu /"
    echo "clock $(cat /sys/devices/system/clocksource/clocksource0/current_clocksource)"
    echo "directory $PWD"; echo "environment $MARK"; echo "user $(id -u)"
    echo "date $(date +%s.%N)"
    echo written in the guest >/etc/vincs-case && cat /etc/vincs-case
    echo kept >kept-file
    for port in ttyS0 virtio; do grep -q $port /proc/interrupts && echo "interrupts $port"; done'
date +%s.%N >"$out/topology/host-date"
[ -e /etc/vincs-case ] && touch "$out/topology/overlay-leaked"
cp "$work/kept-file" "$out/topology/" 2>/dev/null

# Statuses, signals and streams.
small status-3 -- sh -c 'exit 3'
# shellcheck disable=SC2016
small killed -- sh -c 'kill -9 $$'
small not-found -- no-such-command
: >"$work/not-executable"
small not-executable -- ./not-executable
small apart -- sh -c 'printf "one\0two"; printf "three" >&2'
head -c 10000000 /dev/urandom >"$work/ten-megabytes"
mkdir -p "$out/through"
# shellcheck disable=SC2016
case_ through bash -c 'vincs --vcpus 2 --mem 512M -- cat <ten-megabytes >came-through; s=$?; cmp ten-megabytes came-through && echo same; exit $s'
case_ reader-gone bash -c 'vincs --vcpus 1 --mem 512M -- yes | head -n 2'
# shellcheck disable=SC2016
case_ terminated bash -c '
    vincs --vcpus 1 --mem 512M -- sh -c "trap \"echo caught; exit 42\" TERM; echo ready; while :; do sleep 0.1; done" >said & vincs=$!
    for _ in $(seq 600); do grep -q ready said && break; sleep 0.1; done
    kill -TERM $vincs; wait $vincs; s=$?; cat said; exit $s'
# script(1) gives vincs a terminal.
case_ terminal script -qec "stty rows 33 cols 101; vincs --vcpus 1 --mem 512M -- sh -c 'tty; stty size; tty <&2'" /dev/null

# A build in the shared directory, by four processors.
cp -r "$here/project" "$work/project"
case_ build bash -c 'cd project && vincs --vcpus 4 -- sh -c "nproc; uname -r; exec make -j4 >&2"'
keep_build build "$work/project"

# Disks: durable, read-only, locked; a share that is read-only.
truncate -s 16M "$work/disk"
small disk --disk disk -- sh -c 'printf durable | dd of=/dev/vda bs=512 seek=100 conv=sync,notrunc,fsync'
dd if="$work/disk" bs=512 skip=100 count=1 2>/dev/null >"$out/disk/sector"
small disk-ro --disk disk,ro -- sh -c '
    cat /sys/block/vda/ro
    if printf overwritten | dd of=/dev/vda bs=512 seek=100 conv=sync,notrunc,fsync; then exit 9; else exit 1; fi'
dd if="$work/disk" bs=512 skip=100 count=1 2>/dev/null >"$out/disk-ro/sector"
# shellcheck disable=SC2016
case_ disk-locked bash -c 'exec 9<disk; flock -x 9; vincs --vcpus 1 --disk disk -- true'
mkdir "$work/read-only" && echo seen >"$work/read-only/file"
small share-ro --share read-only:ro -- sh -c 'cat read-only/file; echo x >read-only/new'

# Relaxed memory: by itself, and by the library for programs in the guest.
gcc -O2 -o "$work/relaxed" "$here/relaxed.c"
library=$here/../../../guest
gcc -O2 -o "$work/team" -I "$library/include" "$library/tests/team.c" "$(dirname "$(command -v vincs)")/libvincs_guest.a" -lpthread -ldl -lm
head -c 2000000 /dev/urandom >"$work/two-megabytes"
# shellcheck disable=SC2016 # expanded in the guest
case_ relaxed vincs --vcpus 2 --mem 512M --relaxed 128M -- sh -c '
    ./relaxed two-megabytes && ./team && awk "/MemTotal/{print \"memory\", \$2}" /proc/meminfo'

# OpenMP programs as they are, in relaxed memory: each one's words, status and counters. The test has compiled them, as that takes a minute here.
# Their threads sleep rather than spin: both processors of the guest take turns on the node's one.
release=$(dirname "$(command -v vincs)")
cp "$release"/../tmp/openmp/* "$work"
# shellcheck disable=SC2016 # expanded in the guest
case_ openmp env LIBRARY="$release/libvincs_omp.so" KMP_BLOCKTIME=0 vincs --vcpus 2 --mem 512M --relaxed 128M -- sh -c '
    for program in parallel_for reduction critical tasks ordered; do
        env VINCS_OMP_STATS=statistics LD_PRELOAD="$LIBRARY" "./$program"
        echo "$program status $?"
        sed "s/^/$program /" statistics
    done'

# Machines that end by themselves, and boots that fail.
small panic -- sh -c 'echo c >/proc/sysrq-trigger; sleep 60'
small power-off -- sh -c 'echo o >/proc/sysrq-trigger; sleep 60'
small reset -- sh -c 'echo b >/proc/sysrq-trigger; sleep 60'
small boot-panic --append rdinit=/no-such-init --append init=/no-such-init -- true
small boot-hang --boot-timeout 25 --append 'panic=0 rdinit=/no-such-init' -- true

# Without a command: an initramfs of its own, and a disk, to the console.
mkdir -p "$work/ramdisk/bin" && cp "$busybox" "$work/ramdisk/bin/" && ln -s bin/busybox "$work/ramdisk/init"
printf '#!/bin/busybox sh\necho "from the initramfs"\n/bin/busybox poweroff -f\n' >"$work/ramdisk/start" && chmod +x "$work/ramdisk/start"
(cd "$work/ramdisk" && find . | "$busybox" cpio -o -H newc 2>/dev/null) >"$work/ramdisk.cpio"
case_ initrd vincs --vcpus 1 --mem 512M --initrd ramdisk.cpio --append 'rdinit=/start quiet'
mkdir -p "$work"/root/{sbin,bin,dev,proc,sys} && cp "$busybox" "$work/root/bin/"
cat >"$work/root/sbin/init" <<'INIT'
#!/bin/busybox sh
echo "from the disk"
/bin/busybox sleep 1
read -r processors </sys/devices/system/cpu/online
echo "processors $processors"
[ "$processors" = 0 ] || /bin/busybox taskset 2 /bin/busybox echo "from the second"
/bin/busybox poweroff -f
INIT
chmod +x "$work/root/sbin/init"
truncate -s 64M "$work/root.img" && mke2fs -q -t ext4 -d "$work/root" "$work/root.img"
case_ disk-boot mpirun -n 2 vincs --mem 512M --disk root.img --append quiet --stats "$out/stats-disk.json"

kept_cases
