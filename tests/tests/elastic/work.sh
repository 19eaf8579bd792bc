#!/bin/bash
# Work for every processor of a guest, until there is a file `stop`: work.sh PROCESSORS. Each does the same sums again and again, bound to it, and says at the
# end how many rounds it did and what all of them came to. One that came to something else ends with status 1.
set -u

# sums SEED: two thousand steps of a linear congruential generator.
sums() {
    local step
    sum=$1
    for ((step = 0; step < 2000; step++)); do
        sum=$(((sum * 1103515245 + 12345) & 0x7fffffff))
    done
}

# work PROCESSOR
work() {
    local rounds=0 sum first
    taskset --cpu-list --pid "$1" "$BASHPID" >/dev/null || return
    sums "$1"
    first=$sum
    echo "processor $1 works"
    while [ ! -e stop ]; do
        sums "$1"
        [ "$sum" = "$first" ] || { echo "processor $1: round $rounds came to $sum, not $first"; return 1; }
        rounds=$((rounds + 1))
    done
    echo "processor $1 rounds $rounds sum $first"
}

workers=()
for ((processor = 0; processor < $1; processor++)); do
    work "$processor" &
    workers+=($!)
done
status=0
for worker in "${workers[@]}"; do
    wait "$worker" || status=1
done
exit $status
