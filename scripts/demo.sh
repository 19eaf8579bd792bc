#!/bin/sh
# demo.sh [RANKS]: the main job: one machine, of one rank or of several, distributes a workload that a plain shell script starts.
# On this machine's KVM where that runs a kernel, otherwise in the testbed.
set -eu
cd "$(dirname "$0")/.."
ranks=${1:-2}

if why=$(target/release/vincs doctor --check kvm-native); then
	echo "demo: on this machine's KVM: $why"
	PATH=$PWD/target/release:$PATH exec scripts/demo/machine.sh "$ranks"
fi
echo "demo: in the testbed, an emulated node: $why"
# Seconds: the job takes minutes on several ranks there. Over TCP, though the node has an RDMA device: what the job takes is known by that.
exec target/release/testbed --verbose --mem 3G --timeout $((ranks * 1800)) run -- scripts/demo/machine.sh "$ranks" tcp
