#!/bin/sh
# machine.sh RANKS [TRANSPORT]: runs on the host, or in the node: a machine of two NUMA nodes on one rank, or one of several ranks, the job in its guest,
# and of several ranks a line of what that took.
set -eu
ranks=$1
transport=${2:-}
if [ "$ranks" -eq 1 ]; then
	echo "demo: vincs --vcpus 2 --numa 2 -- scripts/demo/job.sh (host: $(nproc) processors)"
	exec vincs --vcpus 2 --numa 2 --mem 1G -- scripts/demo/job.sh "$(nproc)"
fi
stats=$(mktemp "${TMPDIR:-/tmp}/vincs-demo-XXXXXX")
trap 'rm -f "$stats"' EXIT

# A demo is to run for root too, and on fewer processors than there are ranks.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
set -- --map-by :OVERSUBSCRIBE --bind-to none
echo "demo: mpirun -n $ranks vincs -- scripts/demo/job.sh (host: $(nproc) processors)"
mpirun "$@" -n "$ranks" vincs --mem 1G ${transport:+--transport "$transport"} --stats "$stats" -- scripts/demo/job.sh "$(nproc)"
scripts/demo/statistics.sh "$stats"
