#!/bin/bash
# Runs in one testbed node: what takes minutes on machines of several ranks, which all share its one processor.
here=$1
limit=1800
# shellcheck source-path=SCRIPTDIR source=../cases.sh
. "$here/../cases.sh"
# shellcheck source-path=SCRIPTDIR source=../lost.sh
. "$here/../lost.sh"
# shellcheck source-path=SCRIPTDIR source=../openmp.sh
. "$here/../openmp.sh"

# As a user would write it: over RDMA, as the node has a device.
case_ nproc-8 mpirun -n 8 vincs --stats "$out/stats-nproc-8.json" -- nproc

# stress NAME RANKS TRANSPORT [OPTION...] -- [TURN]
cp "$here/../stress.sh" "$work/"
stress() {
    local name=stress-$1 ranks=$2 transport=$3
    local -a options=()
    shift 3
    while [ "$1" != -- ]; do options+=("$1") && shift; done
    case_ "$name" mpirun -n "$ranks" vincs --transport "$transport" "${options[@]}" --stats "$out/stats-$name.json" -- bash stress.sh 9 2 "${@:2}"
}
stress 2 2 tcp -- "--affinity 2"
# Where they are: it is about pages that all ranks want.
stress 4 4 tcp --gather never --
stress 8 8 tcp --gather never --
stress 4-rdma 4 rdma --gather never --

# build NAME RANKS TRANSPORT
build() {
    cp -r "$here/../boot/project" "$work/project-$1"
    case_ "build-$1" mpirun -n "$2" vincs --transport "$3" --stats "$out/stats-build-$1.json" -- make -C "project-$1" -j8
    keep_build "build-$1" "$work/project-$1"
}
build 4 4 tcp
build 8 8 tcp
build 2-rdma 2 rdma
build 4-rdma 4 rdma

# What `cluster` has over TCP alone.
head -c 3000000 /dev/urandom >"$work/three-megabytes"
# shellcheck disable=SC2016
case_ through-rdma bash -c 'mpirun -n 2 vincs --transport rdma --mem 512M -- sh -c "cat; echo apart >&2; exit 3" <three-megabytes >came-through; s=$?
    cmp three-megabytes came-through && echo same; exit $s'
gcc -O2 -o "$work/remote" "$here/../cluster/remote.c"
case_ small-cache-rdma mpirun -n 2 vincs --transport rdma --mem 512M --cache 16M --stats "$out/stats-small-cache-rdma.json" -- ./remote 24 2

# Those that `cluster` has not.
lost_by KILL killed-0 tcp 0
lost_by STOP stopped-1 tcp 1
lost_by KILL rdma-killed-1 rdma 1
lost_by KILL rdma-killed-0 rdma 0
lost_by STOP rdma-stopped-0 rdma 0
lost_by STOP rdma-stopped-1 rdma 1

# Relaxed memory on two ranks: races are told, and OpenMP programs as they are whose runtime hands its own words to and fro for minutes.
guest=$here/../../../guest
gcc -O2 -o "$work/races" -I "$guest/include" "$here/races.c" "$(dirname "$(command -v vincs)")/libvincs_guest.a" -lpthread -ldl -lm
case_ races env VINCS_RACE_CHECK=1 mpirun -n 2 vincs --transport tcp --mem 512M --relaxed 64M -- ./races
for program in parallel_for tasks ordered; do
    compile_openmp $program
    case_ omp_$program mpirun -n 2 vincs --transport tcp --mem 512M --relaxed 64M -- sh -c "$run_openmp" sh omp_$program
done

kept_cases
