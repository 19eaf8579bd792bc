#!/bin/bash
# bench-ranks.sh [RANKS...]: how long machines of so many ranks take from the kernel's entry to the command, and to its end when it has run on every
# processor, beside one rank with as many vCPUs, in one testbed node; over TCP; each five times, medians in seconds.
set -eu
cd "$(dirname "$0")/.."
[ $# -gt 0 ] || set -- 2 4 8
# shellcheck disable=SC2016 # expanded in the node
exec target/release/testbed --timeout 7200 run --sh '
    everywhere="for cpu in \$(seq 0 \$((\$(nproc) - 1))); do taskset -c \$cpu true || exit 1; done"
    # seconds COMMAND...: the medians of five runs, to the command and to its end.
    seconds() {
        rm -f times
        for _ in 1 2 3 4 5; do
            "$@" --stats stats.json -- sh -c "$everywhere" >&2 || echo "\"kernel_entry_to_command\": 0, \"kernel_entry_to_end\": 0" >stats.json
            tr "," "\n" <stats.json >lines
            for time in command end; do awk -F : -v time=$time "/kernel_entry_to_/ && index(\$1, \"to_\" time) { print time, \$2 }" lines; done >>times
        done
        for time in command end; do grep "^$time " times | sort -n -k 2 | sed -n "3s/.* //p"; done | paste -s -d " "
    }
    cd "$(mktemp -d)"
    echo "ranks  one rank: to CMD, to the end  so many ranks: to CMD, to the end  ratio: to CMD, to the end  goal"
    for n in '"$*"'; do
        one=$(seconds vincs --vcpus "$n")
        many=$(seconds mpirun -n "$n" vincs --transport tcp)
        case $n in 8) goal=12 ;; *) goal=4 ;; esac
        echo "$n $one $many $goal" | awk "{
            if (\$2 * \$3 * \$4 * \$5 == 0) print \$1, \"failed\"
            else printf \"%5d  %16.1f %12.1f  %21.1f %12.1f  %13.1f %12.1f  %4d\n\", \$1, \$2, \$3, \$4, \$5, \$4 / \$2, \$5 / \$3, \$6 }"
    done'
