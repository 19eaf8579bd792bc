#!/bin/bash
# bench-ranks.sh [RANKS...]: how long machines of so many ranks take from the kernel's entry to the command, beside one rank with as many vCPUs, in one
# testbed node; each three times, medians in seconds. A machine of 8 ranks takes minutes there.
set -eu
cd "$(dirname "$0")/.."
[ $# -gt 0 ] || set -- 2 4 8
# shellcheck disable=SC2016 # expanded in the node
exec target/release/testbed --timeout 7200 run --sh '
    # seconds COMMAND...: from the kernel'\''s entry to the command, the median of three runs.
    seconds() {
        for _ in 1 2 3; do
            "$@" --stats stats.json -- true >&2 || { echo 0; continue; }
            awk -F "[:,]" "/kernel_entry_to_command/ { print \$2 }" stats.json
        done | sort -n | sed -n 2p
    }
    cd "$(mktemp -d)"
    echo "ranks  one rank  so many ranks  ratio  goal"
    for n in '"$*"'; do
        one=$(seconds vincs --vcpus "$n")
        many=$(seconds mpirun -n "$n" vincs)
        case $n in 8) goal=12 ;; *) goal=4 ;; esac
        awk -v n="$n" -v one="$one" -v many="$many" -v goal="$goal" \
            "BEGIN { if (one * many == 0) print n, \"failed\"; else printf \"%5d  %8.1f  %13.1f  %5.1f  %4d\n\", n, one, many, many / one, goal }"
    done'
