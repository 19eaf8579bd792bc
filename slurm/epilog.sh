#!/bin/bash
# Epilog of Slurm for nodes that have ranks of machines (slurm.conf: Epilog=…/epilog.sh): nothing of a job stays.
#
# slurmd runs it as root when a job's last step has ended on the node. Slurm itself ends what it knows of the job; where it tracks processes by their
# parents (proctrack/linuxproc, proctrack/pgid) one that has left its parent stays, and with it /dev/kvm, memory and ports. This ends processes of
# vincs that have the job's number in their environment. It fails, and Slurm drains the node, when one stays all the same. Set in a script that ends with
# `exec …/epilog.sh`:
#
#   VINCS_END_SECONDS  how long a process may take to end after TERM, and again after KILL   default: 5
set -euo pipefail
export PATH=${PATH:-/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin}
limit=${VINCS_END_SECONDS:-5}
job=${SLURM_JOB_ID:?this is an epilog: slurm.conf has Epilog=}
log() { logger --tag vincs-epilog -- "job $job: $*" 2>/dev/null || true; }

# left: the processes of vincs that belong to the job. The name is the first 15 bytes of the program's.
left() {
    local comm folder
    for folder in /proc/[0-9]*; do
        comm=$(cat "$folder/comm" 2>/dev/null) || continue
        case $comm in
        vincs | vincs-rank | vincs-mpi) grep --quiet --null-data --line-regexp "SLURM_JOB_ID=$job" "$folder/environ" 2>/dev/null && echo "${folder#/proc/}" ;;
        esac
    done
    return 0
}

for signal in TERM KILL; do
    mapfile -t processes < <(left)
    [ ${#processes[@]} -gt 0 ] || exit 0
    log "SIG$signal to what is left: ${processes[*]}"
    kill -s "$signal" "${processes[@]}" 2>/dev/null || true
    for ((wait = 0; wait < limit * 10; wait++)); do
        [ -n "$(left)" ] || exit 0
        sleep 0.1
    done
done
echo "vincs epilog: processes ${processes[*]} of job $job do not end" >&2
exit 1
