#!/bin/bash
# Prolog of Slurm for nodes that have ranks of machines (slurm.conf: Prolog=…/prolog.sh): looks whether the node can be one.
#
# slurmd runs it as root before the first step of a job on the node; when it fails, Slurm drains the node and puts the job back into its queue. Each
# check is one of `vincs doctor`, made as the job's user, who has to be able to do it. Slurm gives it no
# environment but its own: a site's settings go into a script of its own that ends with `exec …/prolog.sh`.
#
#   VINCS             the program                              default: vincs on PATH
#   VINCS_PARTITIONS  partitions that it looks at, by spaces   default: all
#   VINCS_CHECKS      checks that a node has to pass           default: kvm userfaultfd
#   VINCS_WARNINGS    checks that are only logged              default: locked-memory
#
# Only RDMA needs locked memory: where machines are to use it, put locked-memory with the checks. The limit is slurmd's own (LimitMEMLOCK=infinity of
# its systemd unit); a job has it unless slurm.conf's PropagateResourceLimits gives it that of the login node.
set -euo pipefail
export PATH=${PATH:-/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin}
vincs=${VINCS:-vincs}
partitions=${VINCS_PARTITIONS:-}
log() { logger --tag vincs-prolog -- "job ${SLURM_JOB_ID:-?}: $*" 2>/dev/null || true; }

if [ -n "$partitions" ] && [[ " $partitions " != *" ${SLURM_JOB_PARTITION:-} "* ]]; then
    exit 0
fi

# doctor CHECK: makes it as the job's user; its line says what to do.
doctor() {
    if [ "$(id -u)" = 0 ] && [ "${SLURM_JOB_UID:-0}" != 0 ]; then
        setpriv --reuid "$SLURM_JOB_UID" --regid "${SLURM_JOB_GID:-$SLURM_JOB_UID}" --init-groups "$vincs" doctor --check "$1" 2>&1
    else
        "$vincs" doctor --check "$1" 2>&1
    fi
}

for check in ${VINCS_WARNINGS-locked-memory}; do
    line=$(doctor "$check") || log "$line"
done
for check in ${VINCS_CHECKS-kvm userfaultfd}; do
    if ! line=$(doctor "$check"); then
        log "$line"
        # slurmd keeps it in its log.
        echo "vincs prolog: $line" >&2
        exit 1
    fi
done
