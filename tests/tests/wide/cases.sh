#!/bin/bash
# Runs in one testbed node: machines of more ranks than two, which all share its one processor.
here=$1
limit=900
# shellcheck source-path=SCRIPTDIR source=../cases.sh
. "$here/../cases.sh"

cp "$here/../stress.sh" "$work/"
for n in 4 8; do
    cp -r "$here/../boot/project" "$work/project-$n"
    case_ "ranks-$n" mpirun -n "$n" vincs -- nproc
    case_ "build-$n" mpirun -n "$n" vincs -- make -C "project-$n" -j8
    keep_build "build-$n" "$work/project-$n"
    case_ "stress-$n" mpirun -n "$n" vincs -- bash stress.sh 2
done

kept_cases
