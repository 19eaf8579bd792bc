#!/bin/bash
# Runs in one testbed node: a Slurm of four nodes, and a machine of Linux that grows and shrinks as its jobs come and go.
here=$1
# Seconds that each wait of a case may take: that for the boot is the longest.
limit=600
# shellcheck source-path=SCRIPTDIR source=../cases.sh
. "$here/../cases.sh"
# shellcheck source-path=SCRIPTDIR source=../slurm/common.sh
. "$here/../slurm/common.sh"
bash "$here/../cluster/slurm.sh" up "$work/slurm" 4 >&2 || exit
export SLURM_CONF=$work/slurm/slurm.conf
export SBATCH_EXCLUSIVE=exclusive SBATCH_OUTPUT=%j.job

elastic() {
    local machine
    mkdir -p project && cd project && ln -s "$scripts" slurm && cp "$here/work.sh" . || return
    machine=$(number "$(sbatch --nodes=2 slurm/start.sh --transport tcp --mem 512M --vcpus 4 -- bash work.sh 4)") || return
    stage started 2 || return
    # shellcheck disable=SC2317 # called by wait_for
    all_work() { [ "$(grep -c 'works$' "$machine.job")" = 4 ]; }
    wait_for "work on all processors" all_work || return
    # shellcheck disable=SC2119 # no options
    grow_and_shrink || return
    founder_leaves || return
    touch stop
    echo "machine $(ended "$machine")"
    cat "$machine.job"
}

in_case elastic elastic
cp "$work"/slurm/*.log "$work"/project/*.job "$out/" 2>/dev/null
bash "$here/../cluster/slurm.sh" down "$work/slurm"
kept_cases
