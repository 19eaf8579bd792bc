#!/bin/bash
# Runs in one testbed node: every case is one machine of several ranks, or one that is refused.
here=$1
limit=600
# shellcheck source-path=SCRIPTDIR source=../cases.sh
. "$here/../cases.sh"
# shellcheck source-path=SCRIPTDIR source=../lost.sh
. "$here/../lost.sh"

# Over TCP where a case does not say otherwise: without that it would be RDMA, as the node has a device.
tcp=(--transport tcp)

# A boot of 2 ranks, and a build by both processors.
cp -r "$here/../boot/project" "$work/project-2"
# shellcheck disable=SC2016 # expanded in the guest
case_ ranks-2 mpirun -n 2 vincs "${tcp[@]}" --stats "$out/stats-2.json" -- bash -c '
    nproc
    for node in 0 1; do echo "node$node $(cat /sys/devices/system/node/node$node/cpulist) $(cat /sys/devices/system/node/node$node/distance)"; done
    for node in 0 1; do awk "/MemTotal/{print \"memory$node\", \$4}" /sys/devices/system/node/node$node/meminfo; done
    echo "nodes $(cat /sys/devices/system/node/online)"
    echo "clock $(cat /sys/devices/system/clocksource/clocksource0/current_clocksource)"
    for cpu in 0 1; do taskset -c $cpu awk "{print \"ran\", \$39}" /proc/self/stat; done
    exec make -C project-2 -j8'
keep_build ranks-2 "$work/project-2"

# Where too little memory may be locked for RDMA, which root may as long as it has the capability. So streams and statuses come through mpirun over TCP.
# shellcheck disable=SC2016
locked() { bash -c 'ulimit -l 64; exec setpriv --bounding-set=-ipc_lock "$@"' locked "$@"; }
export -f locked
case_ rdma-locked bash -c 'locked mpirun -n 2 vincs --mem 512M --transport rdma -- nproc'
case_ rdma-doctor-locked bash -c 'locked vincs doctor --check rdma'
head -c 3000000 /dev/urandom >"$work/three-megabytes"
# shellcheck disable=SC2016
case_ through bash -c '
    locked mpirun -n 2 vincs --mem 512M --stats '"'$out/stats-through.json'"' -- sh -c "cat; echo apart >&2; exit 3" <three-megabytes >came-through; s=$?
    cmp three-megabytes came-through && echo same; exit $s'

# Through srun with PMIx, which is over RDMA by itself. (`elastic` has srun without PMIx.)
bash "$here/slurm.sh" up "$work/slurm" 2 >&2
export SLURM_CONF=$work/slurm/slurm.conf
case_ srun srun --quiet --mpi=pmix -N 2 -n 2 vincs-rank --mem 512M --stats "$out/stats-srun.json" -- sh -c 'nproc; exit 3'
bash "$here/slurm.sh" down "$work/slurm"

# A working set that does not fit the cache of the rank that uses it.
gcc -O2 -o "$work/remote" "$here/remote.c"
case_ small-cache mpirun -n 2 vincs "${tcp[@]}" --mem 512M --cache 16M --stats "$out/stats-small-cache.json" -- ./remote 20 1

# Stress for most of a minute over RDMA; `long` has more of it, and over TCP.
cp "$here/../stress.sh" "$work/"
case_ rdma mpirun -n 2 vincs --transport rdma --stats "$out/stats-rdma.json" -- sh -c 'nproc; exec bash stress.sh brief'
case_ rdma-doctor vincs doctor --check rdma

# Over iWARP, as the ranks listen for each other where that device is.
bash "$here/../soft-iwarp.sh" && case_ siw mpirun -n 2 vincs --mem 512M --net-if iw0 --transport rdma --stats "$out/stats-siw.json" -- nproc

# refused NAME OPTIONS OF RANK 0, OPTIONS OF RANK 1: a machine that is refused: nothing starts. By hand, as mpirun alone takes a while here.
refused() {
    # shellcheck disable=SC2016 # by bash -c
    case_ "$1" bash -c '
        start() { vincs-rank --rank "$1" --ranks 2 --address-file "$2" $3 -- true; }
        start 1 "$1" "$3" & start 0 "$1" "$2"; s=$?
        wait $!; [ $? = $s ] || s=90; exit $s' refused "$work/address-$1" "$2" "$3"
}
refused too-few-vcpus '--vcpus 1' '--vcpus 1'
refused out-of-reach '--mem 2T' '--mem 2T'
refused other-arguments '--vcpus 2' '--vcpus 3'
# A node has no files of its kernel's modules to load KVM anew with; what it says of itself is what counts here, as nothing is booted.
echo 0 >"$work/npt" && mount --bind "$work/npt" /sys/module/kvm_amd/parameters/npt
refused without-nested-paging '' ''
case_ without-nested-paging-doctor vincs doctor --check page-walks
umount /sys/module/kvm_amd/parameters/npt

# Every address that rank 0 listens on, whatever it is for, hears nonsense, and then the guest goes on. Rank 0's door is one of them: who comes late is
# told there.
strangers() {
    local folder=$out/$1 address
    ss --no-header --listening --tcp --processes --numeric | grep vincs | awk '{print $4}' >"$folder/listening"
    while IFS= read -r address; do
        for _ in 1 2 3; do
            (exec 3>"/dev/tcp/127.0.0.1/${address##*:}" && echo "$address" >>"$folder/connected" && head -c 100000 /dev/urandom >&3)
        done 2>/dev/null
    done <"$folder/listening"
    ticks "$1" $(($(grep -c tick "$folder/stdout.0") + 2))
    grep -c tick "$folder/stdout.0" >"$folder/ticks"
}

# Ranks that are killed or stopped: one each way here, `long` has the others.
lost_by KILL killed-1 tcp 1 strangers
lost_by STOP stopped-0 tcp 0

# Under mpirun, whose own processes are part of what may hang.
# shellcheck disable=SC2016
case_ stopped-under-mpirun bash -c '
    mpirun -n 2 vincs --transport tcp --mem 512M -- sh -c "echo ready; sleep 1000" >said & mpirun=$!
    for _ in $(seq 1000); do grep -q ready said && break; sleep 0.2; done
    for pid in $(pgrep -x vincs); do grep -qz "^OMPI_COMM_WORLD_RANK=1$" /proc/$pid/environ && kill -STOP $pid; done
    start=$EPOCHREALTIME
    wait $mpirun; s=$?
    echo "$start $EPOCHREALTIME" | awk "{printf \"seconds %.1f\\n\", \$2 - \$1}"
    sleep 1; echo "left $(pgrep -c ^vincs)"; exit $s'

kept_cases
