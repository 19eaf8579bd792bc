# shellcheck shell=bash
# What the scripts of tests/tests/slurm and tests/tests/elastic share, beside tests/tests/cases.sh, which they source before: jobs, and the machine that
# they make. A case is a function that runs in $work, with its folder in $folder; what it cannot do it says, and fails.
: "${out:?}" "${work:?}" "${limit:?}"
# shellcheck disable=SC2034 # for those who source this
scripts=$(realpath "$(dirname "${BASH_SOURCE[0]}")/../../../slurm")

# in_case NAME FUNCTION [ARGUMENTS]: runs the function and keeps its status and streams. None may take longer than all of its waits together.
in_case() {
    local name=$1 folder=$out/$1 start=$SECONDS
    shift
    mkdir -p "$folder"
    (cd "$work" && "$@") >"$folder/stdout" 2>"$folder/stderr" </dev/null
    echo $? >"$folder/status"
    echo "$name: status $(cat "$folder/status") after $((SECONDS - start)) s" >&2
}

# wait_for WHAT COMMAND...: until the command succeeds.
wait_for() {
    local what=$1 try
    shift
    for ((try = 0; try < limit * 10; try++)); do
        "$@" && return
        sleep 0.1
    done
    echo "waited $limit s in vain for: $what" >&2
    squeue >&2
    scontrol show job | grep -e JobId= -e JobState= -e Restarts= >&2
    tail -n 5 ./*.job >&2
    return 1
}

# submit OUTPUT ARGUMENTS...: sbatch with its output in a file, the number of the job on standard output.
submit() {
    local output=$1
    shift
    sbatch --parsable --output="$work/$output.job" "$@"
}

# field JOB NAME: what Slurm says of a job.
field() { scontrol show job "$1" | tr ' ' '\n' | sed -n "s/^$2=//p" | head -n 1; }

# is_state JOB STATE
is_state() { [ "$(field "$1" JobState)" = "$2" ]; }

# has_ended JOB
has_ended() { case $(field "$1" JobState) in PENDING | RUNNING | COMPLETING | CONFIGURING | SUSPENDED) return 1 ;; *) return 0 ;; esac; }

# ended JOB: waits for the end, and says the state and the status.
ended() {
    wait_for "the end of job $1" has_ended "$1" || return
    echo "job $(field "$1" JobState) $(field "$1" ExitCode)"
}

# has_ranks N: whether a machine runs on N ranks, each with processors.
has_ranks() {
    local status
    status=$(vincs ctl status 2>/dev/null) || return
    [ "$(grep -c '^rank .*[0-9]$' <<<"$status")" = "$1" ] && ! grep -q ', leaving\|, joining$\|is on its way' <<<"$status"
}

# stage NAME RANKS: waits for the machine to have so many ranks, and keeps what it says.
stage() {
    wait_for "$2 ranks ($1)" has_ranks "$2" || { vincs ctl status >&2; return 1; }
    vincs ctl status >"$folder/stage-$1"
    echo "stage $1"
}

# number TEXT: the job's number in what sbatch says.
number() { grep -o '[0-9]*$' <<<"$1"; }

# founder_leaves: the rank that has started the machine with rank 0 leaves as well. That may take longer than the order waits.
founder_leaves() {
    vincs ctl remove 1 || [ $? = 1 ] || return
    stage founder-left 1
}

# grow_and_shrink [OPTIONS of vincs-rank]: two jobs add a rank each to the machine that runs on two; the first is asked to leave, the second preempted. In
# a directory with `slurm`, the folder of the scripts. Each job has nodes of its own, and ranks that are added give way to others.
grow_and_shrink() {
    local first second other
    local -x SBATCH_PARTITION=spare SBATCH_OUTPUT=%j.job
    first=$(number "$(sbatch slurm/add-rank.sh "$@")") || return
    stage grown 3 || return
    second=$(number "$(sbatch slurm/add-rank.sh "$@")") || return
    stage grown-again 4 || return
    scancel -s TERM "$first"
    stage shrunk 3 || return
    echo "first $(ended "$first")"
    other=$(number "$(sbatch --partition=work --nodelist="$(field "$second" NodeList)" --wrap hostname)")
    stage preempted 2 || return
    echo "second $(ended "$second")"
    echo "preempted $(field "$second" PreemptTime)"
    echo "other $(ended "$other")"
}
