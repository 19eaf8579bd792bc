#!/bin/bash
# Runs in one testbed node: machines of more ranks than two, which all share its one processor.
here=$1
limit=400
# shellcheck source-path=SCRIPTDIR source=../cases.sh
. "$here/../cases.sh"

for ranks in 4 8; do
    case_ ranks-$ranks mpirun -n $ranks vincs -- nproc
done

kept_cases
