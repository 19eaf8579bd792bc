#!/bin/bash
# Runs in one testbed node: what takes minutes on machines of several ranks, which all share its one processor.
here=$1
limit=900
# shellcheck source-path=SCRIPTDIR source=../cases.sh
. "$here/../cases.sh"

cp "$here/../stress.sh" "$work/"
case_ stress-2 mpirun -n 2 vincs --transport tcp -- bash stress.sh 9 2 "--affinity 2"
for ranks in 4 8; do
    case_ stress-$ranks mpirun -n $ranks vincs --transport tcp -- bash stress.sh 9 2
done
for ranks in 4 8; do
    cp -r "$here/../boot/project" "$work/project-$ranks"
    case_ build-$ranks mpirun -n $ranks vincs --transport tcp -- make -C project-$ranks -j8
    keep_build build-$ranks "$work/project-$ranks"
done

kept_cases
