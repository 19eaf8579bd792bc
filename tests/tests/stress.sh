#!/bin/bash
# stress.sh SECONDS INSTANCES [OPTIONS…]: runs in a guest: stressors that check what they do, each for so many seconds and so many of each at once;
# then one more turn of stress-ng for each further argument, which has its options.
seconds=$1
instances=$2
shift 2
for turn in "--fork $instances" "--pipe $instances" "--futex $instances" "--sigq $instances" "--mutex $instances" \
    "--vm $instances --vm-bytes 8M" "--atomic $instances" "$@"; do
    # shellcheck disable=SC2086 # several words
    stress-ng --verify --metrics-brief --timeout "${seconds}s" $turn 2>&1 || exit 1
done
