#!/bin/bash
# Runs in a guest: a minute of stressors that check what they do, so many of each at once.
for stressors in "--fork $1" "--pipe $1" "--futex $1" "--sigq $1" "--mutex $1" "--vm $1 --vm-bytes 8M" "--atomic $1 --affinity $1"; do
    # shellcheck disable=SC2086 # several words
    stress-ng --verify --metrics-brief --timeout 9s $stressors 2>&1 || exit 1
done
