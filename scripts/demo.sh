#!/bin/sh
# The main job: one machine out of two ranks, started by mpirun, distributes a workload that a plain shell script starts.
# On this machine's KVM where that runs a kernel, otherwise in the testbed.
set -eu
cd "$(dirname "$0")/.."

if why=$(target/release/vincs doctor --check kvm-native); then
	echo "demo: on this machine's KVM: $why"
	PATH=$PWD/target/release:$PATH exec scripts/demo/machine.sh
fi
echo "demo: in the testbed, an emulated node: $why"
exec target/release/testbed --verbose --mem 3G run -- scripts/demo/machine.sh
