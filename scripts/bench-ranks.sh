#!/bin/bash
# bench-ranks.sh [RANKS...]: how long machines of so many ranks take from the kernel's entry to the command, and to its end when it has run on every
# processor, beside one rank with as many vCPUs, in one testbed node; over TCP; each five times, medians in seconds. A run that fails counts as longer than
# any other, and is told. What a goal is held against is the end: before the command begins all processors are on the first rank.
set -eu
cd "$(dirname "$0")/.."
[ $# -gt 0 ] || set -- 2 4 8
# shellcheck disable=SC2016 # expanded in the node
exec target/release/testbed --timeout 7200 run --sh '
    everywhere="for cpu in \$(seq 0 \$((\$(nproc) - 1))); do taskset -c \$cpu true || exit 1; done"
    # seconds COMMAND...: the medians of five runs, to the command and to its end, and how many have failed.
    seconds() {
        rm -f times
        failed=0
        for _ in 1 2 3 4 5; do
            if "$@" --stats stats.json -- sh -c "$everywhere" >&2; then
                tr "," "\n" <stats.json >lines
            else
                failed=$((failed + 1))
                printf "%s\n" "\"kernel_entry_to_command\": inf" "\"kernel_entry_to_end\": inf" >lines
            fi
            for time in command end; do awk -F : -v time=$time "/kernel_entry_to_/ && index(\$1, \"to_\" time) { print time, \$2 }" lines; done >>times
            tail -n 2 times | paste -s -d " " | sed "s/^/  /" >&2
        done
        for time in command end; do grep "^$time " times | sed "s/inf/1e9/" | sort -g -k 2 | sed -n "3s/.* //p"; done | paste -s -d " " | sed "s/\$/ $failed/"
    }
    cd "$(mktemp -d)"
    echo "ranks  one rank: to CMD, to the end  so many ranks: to CMD, to the end  ratio: to CMD, to the end  goal  failed of 5 and 5"
    for n in '"$*"'; do
        one=$(seconds vincs --vcpus "$n")
        many=$(seconds mpirun -n "$n" vincs --transport tcp)
        case $n in 8) goal=12 ;; *) goal=4 ;; esac
        echo "$n $one $many $goal" | awk "{
            if (\$3 >= 1e9 || \$6 >= 1e9) { print \$1, \"failed\", \$4, \"and\", \$7, \"of 5\"; next }
            verdict = \$6 <= \$8 * \$3 ? \"met\" : \"missed\"
            printf \"%5d  %16.1f %12.1f  %21.1f %12.1f  %13.1f %12.1f  %4d: %s  %d and %d\n\", \$1, \$2, \$3, \$5, \$6, \$5 / \$2, \$6 / \$3, \$8, verdict, \$4, \$7 }"
    done'
