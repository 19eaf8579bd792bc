#!/bin/bash
# Runs in one testbed node: machines of more ranks than two, which all share its one processor, and one of two with relaxed memory. Over TCP;
# without that it would be RDMA, as the node has a device.
here=$1
limit=1800
# shellcheck source-path=SCRIPTDIR source=../cases.sh
. "$here/../cases.sh"
# shellcheck source-path=SCRIPTDIR source=../openmp.sh
. "$here/../openmp.sh"

for ranks in 4 8; do
    case_ ranks-$ranks mpirun -n $ranks vincs --transport tcp -- nproc
done

# Relaxed memory on two ranks: a kernel, a program that dies with a lock, one that finds nothing of it, one whose
# first thread is where it would be moved from, one that has devices read into it, one that takes a lock without end, and OpenMP programs as they are.
guest=$here/../../../guest
library=$(dirname "$(command -v vincs)")/libvincs_guest.a
for program in "$guest/tests/team.c" "$here/dies.c" "$here/stays.c" "$here/files.c" "$here/lent.c"; do
    gcc -O2 -o "$work/$(basename "$program" .c)" -I "$guest/include" "$program" "$library" -lpthread -ldl -lm
done
# Those that end in a minute here: the runtime's own words are in strict memory, which ranks that share a processor hand to and fro. `long` has the others.
compile_openmp reduction critical
# shellcheck disable=SC2016 # expanded in the guest
case_ relaxed mpirun -n 2 vincs --mem 512M --relaxed 64M --stats "$out/stats-relaxed.json" -- bash -c '
    trap "case \$BASH_COMMAND in */*) echo \"\$SECONDS s: \$BASH_COMMAND\" >&2 ;; esac" DEBUG
    npb cg S | grep -e threads -e VERIFICATION
    ./dies; echo "died $?"
    ./team
    ./stays
    ./lent
    ./files ./files
    set -- omp_*'"$run_openmp"
case_ relaxed-rdma mpirun -n 2 vincs --transport rdma --relaxed 64M -- true
case_ relaxed-small mpirun -n 2 vincs --relaxed 2M -- true

kept_cases
