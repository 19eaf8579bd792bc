#!/bin/bash
# Takes ranks away from machines that run: remove-rank.sh JOB…, or remove-rank.sh --node NODE
#
# Asks each job of slurm/add-rank.sh (with --node: each of yours on that node) to leave, waits until it has, and cancels what has not left in time:
# then the machine has lost a rank. For a node that is to go: first `scontrol update NodeName=NODE State=DRAIN Reason=…`, which keeps new jobs away
# but tells those that run nothing, then this. Set before:
#
#   VINCS_LEAVE_SECONDS  how long a rank may take to leave        default: 300
#
# Exit status 0 when all have left by themselves, 1 when one was cancelled, 2 for bad arguments.
set -euo pipefail
limit=${VINCS_LEAVE_SECONDS:-300}

refuse() {
    echo "remove-rank.sh: $*" >&2
    exit 2
}

[[ $limit =~ ^[0-9]+$ ]] || refuse "VINCS_LEAVE_SECONDS=$limit is no number of seconds"
jobs=("$@")
if [ "${1-}" = --node ]; then
    [ $# = 2 ] || refuse "--node takes the name of one node"
    mapfile -t jobs < <(squeue --noheader --me --name=vincs-rank --states=RUNNING --nodelist="$2" --format=%A)
    [ ${#jobs[@]} -gt 0 ] || refuse "none of your jobs of add-rank.sh runs on node $2; squeue --me lists them"
fi
[ ${#jobs[@]} -gt 0 ] || refuse "give jobs of add-rank.sh, or --node NODE"
for job in "${jobs[@]}"; do
    [[ $job =~ ^[0-9]+$ ]] || refuse "$job is no number of a job"
    [ "$(squeue --noheader --jobs="$job" --states=RUNNING --format=%A 2>/dev/null)" = "$job" ] || refuse "job $job does not run"
    # A machine's own ranks leave it with the machine: TERM goes to its command there.
    name=$(squeue --noheader --jobs="$job" --format=%j)
    [ "$name" = vincs-rank ] || refuse "job $job is named $name, not vincs-rank: only jobs of add-rank.sh are ranks to remove"
done

# To the steps alone: srun and the batch script must not get it.
scancel --signal=TERM "${jobs[@]}"
status=0
for job in "${jobs[@]}"; do
    while [ "$SECONDS" -lt "$limit" ] && [ -n "$(squeue --noheader --jobs="$job" --format=%A 2>/dev/null)" ]; do
        sleep 1
    done
    if [ -n "$(squeue --noheader --jobs="$job" --states=RUNNING --format=%A 2>/dev/null)" ]; then
        echo "remove-rank.sh: job $job has not left within $limit s and is cancelled" >&2
        scancel "$job"
        status=1
    fi
done
exit $status
