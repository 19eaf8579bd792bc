#!/bin/bash
# Runs on the first of two testbed nodes, node0: every case is a machine with a rank on each of the two, or one that cannot be. Cases are functions of
# the transport, so that each can be had over every one; TRANSPORTS names those that there are. Names of cases begin with it.
here=$1
limit=600
# shellcheck source-path=SCRIPTDIR source=../cases.sh
. "$here/../cases.sh"
# Seconds that the ranks of a machine may take to end after one was lost, and some for a busy node: the test has the real bound.
end_limit=40
# Seconds after which a rank gives up to wait for the others, where one cannot come.
wireup_limit=10
TRANSPORTS="tcp rdma"
on node1 "mkdir -p '$out' '$work'"
# Says how many processors there are, and then that it goes on, once a second.
# shellcheck disable=SC2016 # expanded in the guest
echo 'nproc; n=0; while :; do echo "tick $n"; n=$((n + 1)); sleep 1; done' >"$work/ticks.sh"

# One machine, started as on a cluster.
nproc_case() {
    case_ "$1-nproc" mpirun -n 2 --host node0,node1 vincs --transport "$1" --net-if eth1 --mem 512M --stats "$out/stats-$1.json" -- nproc
}

# start_rank CASE RANK OPTION...: one rank of two in the background, each on its own node. Its streams are in the case's folder, and its status and the
# time of its end as soon as it has ended. Nodes have no files in common: rank 1 gets rank 0's address file as it is now, or waits for it in vain.
start_rank() {
    local folder=$out/$1 rank=$2
    shift 2
    mkdir -p "$folder"
    if [ "$rank" = 1 ]; then
        for _ in $(seq 100); do
            [ -s "$folder/address" ] && break
            sleep 0.2
        done
        on node1 "umask 077; mkdir -p '$folder'; cat >'$folder/address'" <"$folder/address"
    fi
    (
        on "node$rank" "cd '$work' && exec vincs-rank --rank $rank --ranks 2 --address-file '$folder/address' --mem 512M $* -- sh ticks.sh" \
            >"$folder/stdout.$rank" 2>"$folder/stderr.$rank" </dev/null
        echo "$? $EPOCHREALTIME" >"$folder/ending.$rank" && mv "$folder/ending.$rank" "$folder/ended.$rank"
    ) &
}

# ended CASE RANK: waits until it has.
ended() {
    local try
    for ((try = 0; try < end_limit * 5; try++)); do
        [ -e "$out/$1/ended.$2" ] && return
        sleep 0.2
    done
}

# endings CASE START RANK...: each rank's status, how many seconds after START it ended, and how many ranks are left on its node.
endings() {
    local folder=$out/$1 start=$2 rank
    shift 2
    for rank in "$@"; do
        ended "${folder##*/}" "$rank"
        if [ -e "$folder/ended.$rank" ]; then
            awk -v rank="$rank" -v start="$start" '{printf "rank%d %d %.1f\n", rank, $1, $2 - start}' "$folder/ended.$rank"
        else
            echo "rank$rank hangs"
        fi
        echo "left$rank $(on "node$rank" 'pgrep -c ^vincs; pkill -KILL ^vincs')"
    done >"$folder/stdout" </dev/null
    echo 0 >"$folder/status"
    cat "$folder"/stderr.* >"$folder/stderr"
    echo "${folder##*/}: $(paste -sd ' ' "$folder/stdout")" >&2
}

# up NODE: brings the network of machines up again, and its RDMA device.
up() {
    on "$1" "ip link set eth1 up; for _ in \$(seq 100); do grep -q ACTIVE /sys/class/infiniband/rxe1/ports/1/state && break; sleep 0.2; done" </dev/null
}

# Hosts that do not reach each other: rank 0 is on a network that the other does not have, or their common one is down before they start.
other_network_case() {
    local name=$1-other-network start=$EPOCHREALTIME
    start_rank "$name" 0 --transport "$1" --net-if eth0 --wireup-timeout $wireup_limit
    start_rank "$name" 1 --transport "$1" --net-if eth1 --wireup-timeout $wireup_limit
    endings "$name" "$start" 0 1
    wait
}
down_before_case() {
    local name=$1-down-before start=$EPOCHREALTIME
    on node1 "ip link set eth1 down"
    start_rank "$name" 0 --transport "$1" --net-if eth1 --wireup-timeout $wireup_limit
    start_rank "$name" 1 --transport "$1" --net-if eth1 --wireup-timeout $wireup_limit
    endings "$name" "$start" 0 1
    up node1
    wait
}

# lost_case TRANSPORT NAME RANKS COMMAND...: what COMMAND does while the guest runs loses rank 1. RANKS are those whose end can be seen.
lost_case() {
    local name=$1-$2 transport=$1 ranks=$3 start try
    shift 3
    start_rank "$name" 0 --transport "$transport" --net-if eth1
    start_rank "$name" 1 --transport "$transport" --net-if eth1
    for ((try = 0; try < limit * 5; try++)); do
        grep -q tick "$out/$name/stdout.0" && break
        sleep 0.2
    done
    start=$EPOCHREALTIME
    "$@"
    # shellcheck disable=SC2086 # a list of ranks
    endings "$name" "$start" $ranks
}

for transport in $TRANSPORTS; do
    other_network_case "$transport"
    down_before_case "$transport"
done
# Machines that run are a minute of this test each, so each way to lose a host is had once.
nproc_case rdma
lost_case rdma cut '0 1' ip link set eth1 down
up node0
wait
lost_case tcp killed '0 1' on node1 'pkill -KILL ^vincs-rank'
wait
# Last, as it does not come back. Nothing is written to disks: there are none.
lost_case tcp powered-off 0 timeout 2 on node1 'echo b >/proc/sysrq-trigger'

kept_cases
