#!/bin/bash
# Starts a machine: sbatch -N 2 slurm/start.sh [OPTIONS of vincs] -- CMD [ARGS]
#
# One rank on each node of the job; CMD runs in the machine that they make, and the job ends with its status. Other jobs join by the machine's
# address file (slurm/add-rank.sh). All nodes have to see the directory that it is in. Set for sbatch, which passes them on:
#
#   VINCS_RANK     the program                                    default: vincs-rank on PATH
#   VINCS_SHARED   directory of address files, seen by all nodes  default: where sbatch was called
#   VINCS_MACHINE  the machine's name, one for each that runs     default: machine
#   VINCS_MPI      what srun --mpi takes: none, pmix, pmi2        default: none, the ranks find each other by the address file
#
#SBATCH --job-name=vincs
#SBATCH --ntasks-per-node=1
# A job that lost a node starts again from the beginning: there are no checkpoints. With --no-requeue it ends instead.
#SBATCH --requeue
# The output of all starts stays.
#SBATCH --open-mode=append
set -euo pipefail
rank=${VINCS_RANK:-vincs-rank}
shared=${VINCS_SHARED:-${SLURM_SUBMIT_DIR:?this is a job script: sbatch -N 2 slurm/start.sh -- CMD}}
file=$shared/vincs-${VINCS_MACHINE:-machine}.address

# What a job hands down that was itself inside of a job: its steps' numbers, and the place of a rank that this is not.
unset "${!SLURM_STEP_@}" "${!PMIX_@}" "${!PMI_@}" "${!OMPI_@}"

# Since Slurm 22.05 srun does not take the job's --cpus-per-task by itself.
[ -z "${SLURM_CPUS_PER_TASK:-}" ] || export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK

if [ "${SLURM_RESTART_COUNT:-0}" -gt 0 ]; then
    echo "start.sh: restart $SLURM_RESTART_COUNT of job $SLURM_JOB_ID: the command starts from its beginning" >&2
fi

# --wait=0: a rank that leaves ends before the others, which a site's WaitTime must not make their end. --kill-on-bad-exit=0: the machine itself
# sees to it that all ranks end when one is lost, and says why; being killed meanwhile they could not.
# exec: nothing is left between Slurm and srun that could take a signal.
exec srun --mpi="${VINCS_MPI:-none}" --wait=0 --kill-on-bad-exit=0 --unbuffered \
    "$rank" --address-file "$file" "$@"
