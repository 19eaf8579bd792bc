#!/bin/bash
# stress.sh INSTANCES [OPTIONS…]: runs in a guest: a minute of stressors that check what they do, so many of each at once; then one more turn
# of stress-ng for each further argument, which has its options.
instances=$1
shift
for turn in "--fork $instances" "--pipe $instances" "--futex $instances" "--sigq $instances" "--mutex $instances" \
    "--vm $instances --vm-bytes 8M" "--atomic $instances" "$@"; do
    # shellcheck disable=SC2086 # several words
    stress-ng --verify --metrics-brief --timeout 9s $turn 2>&1 || exit 1
done
