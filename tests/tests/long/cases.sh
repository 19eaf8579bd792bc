#!/bin/bash
# Runs in one testbed node: what takes minutes on machines of several ranks, which all share its one processor.
here=$1
limit=900
# shellcheck source-path=SCRIPTDIR source=../cases.sh
. "$here/../cases.sh"

# As a user would write it: over RDMA, as the node has a device.
case_ nproc-8 mpirun -n 8 vincs --stats "$out/stats-nproc-8.json" -- nproc
cp "$here/../stress.sh" "$work/"
case_ stress-2 mpirun -n 2 vincs --transport tcp -- bash stress.sh 9 2 "--affinity 2"
for ranks in 4 8; do
    # Where they are: it is about pages that all ranks want.
    case_ stress-$ranks mpirun -n $ranks vincs --transport tcp --gather never -- bash stress.sh 9 2
done
# build NAME RANKS TRANSPORT
build() {
    cp -r "$here/../boot/project" "$work/project-$1"
    case_ "build-$1" mpirun -n "$2" vincs --transport "$3" -- make -C "project-$1" -j8
    keep_build "build-$1" "$work/project-$1"
}
build 4 4 tcp
build 8 8 tcp
build 4-rdma 4 rdma

kept_cases
