#!/bin/bash
# Runs in one testbed node: machines of more ranks than two, which all share its one processor. Over TCP; without that
# it would be RDMA, as the node has a device.
here=$1
limit=400
# shellcheck source-path=SCRIPTDIR source=../cases.sh
. "$here/../cases.sh"

for ranks in 4 8; do
    case_ ranks-$ranks mpirun -n $ranks vincs --transport tcp -- nproc
done

kept_cases
