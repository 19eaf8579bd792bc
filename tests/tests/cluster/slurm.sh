#!/bin/bash
# slurm.sh up DIR NODES | down DIR: a Slurm of several nodes on this machine, on loopback only, for tests as root: no systemd,
# no munge, no control groups. Everything of it is in DIR; SLURM_CONF is DIR/slurm.conf. Each slurmd has a host name (n1, n2, …) and a
# process tree of its own, as a node has, so that killing the tree's first process takes the node down. Partitions, prolog and epilog are those of
# slurm/; what is in DIR/checks when a job starts is what the prolog checks.
set -euo pipefail
command=$1 dir=$2
scripts=$(realpath "$(dirname "${BASH_SOURCE[0]}")/../../../slurm")
export SLURM_CONF=$dir/slurm.conf
controller_port=16817
# The node's N slurmd listens on this port plus N.
node_port=17000

configure() {
    # config_overrides: nodes may claim more processors than there are. The daemons' own accounts and credentials are switched off
    # (auth/none, cred/none), since whoever can reach loopback here is root anyway.
    cat >"$dir/slurm.conf" <<END
ClusterName=testbed
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort=$controller_port
SlurmUser=root
SlurmdUser=root
AuthType=auth/none
CredType=cred/none
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool/%n
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/spool/%n/pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=5
SlurmdTimeout=10
SchedulerParameters=bf_interval=1,sched_interval=2
Prolog=$dir/prolog
Epilog=$scripts/epilog.sh
END
    local n
    for ((n = 1; n <= $1; n++)); do
        echo "NodeName=n$n NodeAddr=127.0.0.1 Port=$((node_port + n)) CPUs=8 RealMemory=1000"
    done >>"$dir/slurm.conf"
    echo "include $scripts/preemption.conf" >>"$dir/slurm.conf"
    # As a site does: prologs have no environment but Slurm's own.
    echo 'kvm userfaultfd' >"$dir/checks"
    cat >"$dir/prolog" <<END
#!/bin/bash
export VINCS='$(command -v vincs)'
VINCS_CHECKS=\$(cat '$dir/checks')
export VINCS_CHECKS
exec '$scripts/prolog.sh'
END
    chmod +x "$dir/prolog"
    # slurmd starts its control group plug-in even when nothing uses it; the one for version 1 does not insist on a tree.
    echo CgroupPlugin=cgroup/v1 >"$dir/cgroup.conf"
    # PMIx keeps its sockets here by job and step: the nodes of one machine would meet in one folder, so each mounts its own.
    echo "PMIxCliTmpDirBase=$dir/pmix" >"$dir/mpi.conf"
}

# idle NODES: whether that many nodes take work. sinfo names each for each of its partitions.
idle() { [ "$(sinfo --noheader --Node --states idle --format %N 2>/dev/null | sort -u | wc -l)" = "$1" ]; }

up() {
    local nodes=$1 n
    mkdir -p "$dir/state" "$dir/pmix"
    configure "$nodes"
    slurmctld
    for ((n = 1; n <= nodes; n++)); do
        mkdir -p "$dir/spool/n$n"
        # shellcheck disable=SC2016 # expanded by the inner shell
        setsid unshare --uts --mount --pid --fork --kill-child --mount-proc sh -c \
            'hostname "$1"; mount -t tmpfs pmix "$2"; exec slurmd -D -N "$1"' sh "n$n" "$dir/pmix" \
            </dev/null >"$dir/n$n.out" 2>&1 &
        echo $! >"$dir/n$n.pid"
    done
    for ((n = 0; n < 300; n++)); do
        idle "$nodes" && return
        sleep 0.1
    done
    echo "slurm.sh: $nodes nodes are not idle after 30 s" >&2
    tail -n 20 "$dir"/*.log "$dir"/*.out >&2
    return 1
}

down() {
    local file
    for file in "$dir"/n*.pid; do
        # --kill-child: the first process of the node's tree goes with it, and the tree with that one.
        kill -KILL "$(<"$file")" 2>/dev/null || true
    done
    kill -KILL "$(<"$dir/slurmctld.pid")" 2>/dev/null || true
}

case $command in
up) up "$3" ;;
down) down ;;
*)
    echo "slurm.sh: up DIR NODES, or down DIR" >&2
    exit 2
    ;;
esac
