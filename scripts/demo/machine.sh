#!/bin/sh
# Runs on the host, or in the node: two ranks, the job in their guest, and a line of what that took.
set -eu
stats=$(mktemp "${TMPDIR:-/tmp}/vincs-demo-XXXXXX")
trap 'rm -f "$stats"' EXIT

# A demo is to run for root too, and on fewer processors than there are ranks.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
set -- --map-by :OVERSUBSCRIBE --bind-to none
echo "demo: mpirun -n 2 vincs -- scripts/demo/job.sh (host: $(nproc) processors)"
mpirun "$@" -n 2 vincs --mem 1G --stats "$stats" -- scripts/demo/job.sh "$(nproc)"
scripts/demo/statistics.sh "$stats"
