#!/bin/bash
# Runs in one testbed node: machines of more ranks than two, which all share its one processor. Over TCP; without that
# it would be RDMA, as the node has a device.
here=$1
limit=900
# shellcheck source-path=SCRIPTDIR source=../cases.sh
. "$here/../cases.sh"

cp "$here/../stress.sh" "$work/"
cp -r "$here/../boot/project" "$work/project"
case_ ranks-4 mpirun -n 4 vincs --transport tcp -- nproc
case_ stress-4 mpirun -n 4 vincs --transport tcp -- bash stress.sh 2
case_ ranks-8 mpirun -n 8 vincs --transport tcp -- nproc
case_ build-8 mpirun -n 8 vincs --transport tcp -- make -C project -j8
keep_build build-8 "$work/project"

kept_cases
