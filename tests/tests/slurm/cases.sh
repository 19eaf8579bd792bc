#!/bin/bash
# A real Slurm of four nodes on this machine, and machines that run the micro-guest as its jobs: cases.sh HERE MICRO_GUEST. Runs as the first process of
# name spaces of its own for processes, network and mounts, so that all of it ends with it and nothing of it is seen from outside.
here=$1 micro_guest=$2
# Seconds that each wait of a case may take.
limit=40
# shellcheck source-path=SCRIPTDIR source=../cases.sh
. "$here/../cases.sh"
trap 'rm -rf "$out" "$work"' EXIT
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$here/common.sh"
ip link set lo up
# Slurm looks names up for the kinds of addresses that there are beside 127.0.0.1 and ::1 (AI_ADDRCONFIG of getaddrinfo(3)).
ip address add 10.0.3.1/32 dev lo

# Sockets of this test's machines alone.
export XDG_RUNTIME_DIR=$work/run
mkdir -m 0700 "$XDG_RUNTIME_DIR"
bash "$here/../cluster/slurm.sh" up "$work/slurm" 4 >&2 || exit
export SLURM_CONF=$work/slurm/slurm.conf
: >"$work/empty"

# guest: options of a machine that works until something is typed. vincs-rank powers off with the guest, with status 0.
guest=(--net-if lo --vcpus 4 --mem 128M --kernel "$micro_guest" --initrd "$work/empty"
    --append 'report=serial program=work vcpus=4 megabytes=1 iterations=100000 seed=7')

# start NAME [OPTIONS of sbatch]: a machine of two ranks; its job's number is in $job, and what is written to descriptor 9 it reads.
start() {
    local name=$1
    shift
    mkfifo "$work/$name.in" && exec 9<>"$work/$name.in" || return
    job=$(submit "$name" --nodes=2 --input="$work/$name.in" "$@" "$scripts/start.sh" "${guest[@]}") || return
}

# finish NAME: tells the guest to stop; its report and the job's end.
finish() {
    echo stop >&9
    ended "$job" || return
    cat "$work/$1.job"
}

start_on_two() {
    start two || return
    stage started 2 || return
    # The name of the machine is taken: the second one says so and changes nothing.
    local second
    second=$(submit second --nodes=2 --input=/dev/null "$scripts/start.sh" "${guest[@]}") || return
    echo "second $(ended "$second")"
    grep -h 'vincs:' "$work/second.job"
    stage still 2 || return
    finish two
}

elastic() {
    local -x SBATCH_EXCLUSIVE=exclusive
    mkdir project && cd project && ln -s "$scripts" slurm && start growing || return
    stage started 2 || return
    # shellcheck disable=SC2119 # no options
    grow_and_shrink || return
    founder_leaves || return
    finish growing
}

requeue() {
    start again || return
    stage first 2 || return
    scontrol requeue "$job" || return
    wait_for "the end of the first start" is_state "$job" PENDING || return
    # Slurm lets a job rest for two minutes before it starts again. A node takes nothing of a job that it has ended in the same second ("Job credential
    # revoked"), which would be the job's end.
    scontrol update JobId="$job" StartTime=now+2 || return
    stage second 2 || return
    echo "restarts $(field "$job" Restarts)"
    finish again
}

# A process of vincs that has left its job's tree.
leftover() {
    local script=$work/leave.sh
    cat >"$script" <<END
#!/bin/bash
cd '$work' && mkfifo left && setsid vincs-rank --rank 1 --ranks 2 --address-file nobody --wireup-timeout 600 >'$work/left.out' 2>&1 &
sleep 0.5
END
    job=$(submit leave --nodes=1 "$script") || return
    wait_for "a process that is left" pgrep -x vincs-rank >/dev/null || return
    echo "left $(pgrep -x vincs-rank | wc -l)"
    ended "$job" || return
    # shellcheck disable=SC2317 # called by wait_for
    nothing_left() { ! pgrep -x vincs-rank >/dev/null; }
    wait_for "the epilog" nothing_left || return
    echo "left 0"
}

# A node that does not pass a check is taken out of service, and the job waits.
prolog() {
    echo 'kvm no-such-check' >"$work/slurm/checks"
    job=$(submit unfit --nodes=1 --nodelist=n4 --wrap true) || return
    # shellcheck disable=SC2317
    drained() { [ "$(sinfo --noheader --nodes=n4 --partition=work --format=%t)" = drain ]; }
    wait_for "n4 to be drained" drained || return
    echo "node $(sinfo --noheader --nodes=n4 --partition=work --format=%t)"
    grep -h 'vincs prolog' "$work/slurm/slurmd.n4.log" "$work/slurm/n4.out" | tail -n 1
    scancel "$job"
    echo 'kvm userfaultfd' >"$work/slurm/checks"
    scontrol update NodeName=n4 State=RESUME
    # shellcheck disable=SC2317
    usable() { [ "$(sinfo --noheader --nodes=n4 --partition=work --format=%t)" = idle ]; }
    wait_for "n4 to be idle" usable
}

# refused COMMAND...: its status and its line.
refused() {
    "$@" 2>&1
    echo "status $?"
}

bad_input() {
    job=$(submit other --nodes=1 --job-name=other --wrap 'sleep 60') || return
    wait_for "a job that runs" is_state "$job" RUNNING || return
    refused "$scripts/remove-rank.sh"
    refused "$scripts/remove-rank.sh" x
    refused "$scripts/remove-rank.sh" 4000000
    refused "$scripts/remove-rank.sh" "$job"
    refused "$scripts/remove-rank.sh" --node
    refused "$scripts/remove-rank.sh" --node n1
    VINCS_LEAVE_SECONDS=soon refused "$scripts/remove-rank.sh" 1
    is_state "$job" RUNNING && echo "still RUNNING"
    scancel "$job"
    ended "$job"
}

in_case start start_on_two
in_case elastic elastic
in_case requeue requeue
in_case leftover leftover
in_case prolog prolog
in_case bad-input bad_input
cp "$work"/slurm/*.log "$out/"
bash "$here/../cluster/slurm.sh" down "$work/slurm"
kept_cases
