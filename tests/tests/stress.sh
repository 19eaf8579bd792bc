#!/bin/bash
# stress.sh SECONDS INSTANCES [OPTIONS…]: runs in a guest: stressors that check what they do, each for so many seconds and so many of each at once;
# then one more turn of stress-ng for each further argument, which has its options. `vm` has longer, as it counts nothing before it has gone through all
# of its memory.
# stress.sh brief: most of them at once, so in two turns: to start stress-ng takes longer than it runs, where it is pages of another rank.
turn() {
    local seconds=$1
    shift
    stress-ng --verify --metrics-brief --timeout "${seconds}s" "$@" 2>&1 || exit 1
}
if [ "$1" = brief ]; then
    turn 20 --fork 1 --pipe 1 --futex 1 --sigq 1 --mutex 1 --atomic 1
    turn 20 --vm 2 --vm-bytes 1M --vm-method zero-one
    exit
fi
seconds=$1
instances=$2
shift 2
for stressor in fork pipe futex sigq mutex atomic; do
    turn "$seconds" --$stressor "$instances"
done
turn $((4 * seconds)) --vm "$instances" --vm-bytes 4M
for options; do
    # shellcheck disable=SC2086 # several words
    turn "$seconds" $options
done
