#!/bin/bash
# Runs in one testbed node: machines of more ranks than two, which all share its one processor, and one of two with relaxed memory. Over TCP;
# without that it would be RDMA, as the node has a device.
here=$1
limit=400
# shellcheck source-path=SCRIPTDIR source=../cases.sh
. "$here/../cases.sh"

for ranks in 4 8; do
    case_ ranks-$ranks mpirun -n $ranks vincs --transport tcp -- nproc
done

# Relaxed memory on two ranks: a kernel, a program that dies with a lock, and one that finds nothing of it.
guest=$here/../../../guest
library=$(dirname "$(command -v vincs)")/libvincs_guest.a
for program in "$guest/tests/team.c" "$here/dies.c"; do
    gcc -O2 -o "$work/$(basename "$program" .c)" -I "$guest/include" "$program" "$library" -lpthread -ldl -lm
done
# shellcheck disable=SC2016 # expanded in the guest
case_ relaxed mpirun -n 2 vincs --mem 512M --relaxed 64M --stats "$out/stats-relaxed.json" -- sh -c '
    npb is S | grep -e threads -e VERIFICATION
    ./dies; echo "died $?"
    ./team'
case_ relaxed-rdma mpirun -n 2 vincs --transport rdma --relaxed 64M -- true
case_ relaxed-small mpirun -n 2 vincs --relaxed 2M -- true

kept_cases
