#!/bin/sh
# job.sh HOST_PROCESSORS: runs in the guest, where each rank is a NUMA node. Fibonacci tasks, first one after the other on one processor, then all at once; then a build.
# There is nothing of a cluster in it: the guest's kernel distributes the processes.
set -eu
host_processors=$1
processors=$(nproc)
all_processors=0-$((processors - 1))
here=$(dirname "$(realpath "$0")")
tasks=4
# Seconds that one task should take, so that starting it is little beside it.
long_enough=6

node_of() { for node in /sys/devices/system/cpu/cpu"$1"/node*; do echo "${node##*node}"; done; }
now() { date +%s.%N; }
# since START: seconds from then to now.
since() { echo "$1 $(now)" | awk '{ printf "%.2f", $2 - $1 }'; }

# fibonacci N: the N-th number the slow way, and the processor that the process was on at its end.
fibonacci() {
	awk -v n="$1" '
		function fib(n) { return n < 2 ? n : fib(n - 1) + fib(n - 2) }
		BEGIN { value = fib(n); getline < "/proc/self/stat"; print value, $39 }'
}

# task NUMBER N: one task, and where it ran.
task() (
	start=$(now)
	result=$(fibonacci "$2")
	processor=${result#* }
	echo "  task $1: fib($2) = ${result% *} on processor $processor, node $(node_of "$processor"), in $(since "$start") s"
)

echo "guest: $processors processors on nodes $(cat /sys/devices/system/node/online), kernel $(uname -r)"
for processor in $(seq 0 $((processors - 1))); do
	echo "  processor $processor is on node $(node_of "$processor")"
done

# Calls grow by the golden ratio from one N to the next. What starting a process takes is taken off.
start=$(now)
fibonacci 1 >/dev/null
startup=$(since "$start")
n=18
took=0
while awk -v took="$took" 'BEGIN { exit !(took < 1) }'; do
	n=$((n + 2))
	start=$(now)
	fibonacci $n >/dev/null
	took=$(echo "$(since "$start") $startup" | awk '{ print $1 - $2 }')
done
n=$(awk -v n=$n -v took="$took" -v goal=$long_enough 'BEGIN { print n + (took < goal ? int(log(goal / took) / log(1.618) + 0.5) : 0) }')

echo "$tasks Fibonacci tasks, one after the other on processor 0:"
start=$(now)
taskset -cp 0 $$ >/dev/null
for i in $(seq $tasks); do
	task "$i" "$n"
done
alone=$(since "$start")
taskset -cp "$all_processors" $$ >/dev/null
echo "  all: $alone s"

echo "the same tasks at once, each started with & by this shell script, then wait:"
start=$(now)
for i in $(seq $tasks); do
	task "$i" "$n" &
done
wait
together=$(since "$start")
echo "  all: $together s"
echo "$alone $together $processors $host_processors" | awk '{
	printf "speed-up over one processor: %.2f with %d", $1 / $2, $3
	if ($4 < $3)
		printf " (no more than %d can be had: the host has %d for all of its ranks)", $4, $4
	print ""
}'

project=/tmp/project
cp -r "$here/../../tests/tests/boot/project" $project
echo "make -j$processors of a small C project, compilers shown as they start:"
start=$(now)
make -s -C $project "-j$processors" CC="gcc -wrapper $here/compiler.sh"
echo "  built in $(since "$start") s; its program says: $(head -n 1 $project/checked)"
