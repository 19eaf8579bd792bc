#!/bin/sh
# The main job: a guest of four processors on a stock Debian kernel runs a shell job with this machine's own programs and files.
# On this machine's KVM where that runs a kernel, otherwise in the testbed.
set -eu
cd "$(dirname "$0")/.."

# Runs in the guest; its words are expanded there.
# shellcheck disable=SC2016
job='echo "guest: $(nproc) processors, kernel $(uname -r), on the files of this machine: $(pwd)"
for i in 1 2 3 4; do
	( n=0; while [ $n -lt 2000 ]; do n=$((n + 1)); done; echo "worker $i counted to $n on processor $(awk "{print \$39}" /proc/self/stat)" ) &
done
wait
echo "sources: $(cat $(find . -name "*.rs" -not -path "./target/*") | wc -l) lines of Rust, counted in the guest"'

vincs=target/release/vincs
if why=$($vincs doctor --check kvm-native); then
	echo "demo: on this machine's KVM: $why"
	set -- $vincs
else
	echo "demo: in the testbed, an emulated node: $why"
	set -- target/release/testbed --verbose --mem 3G run -- vincs
fi
echo "demo: vincs --vcpus 4 -- sh -c '…'"
exec "$@" --vcpus 4 -- sh -c "$job"
