# shellcheck shell=bash
# What the scripts of cases share. They source it, with $limit set to the seconds that one case may take. What each case gave is put in
# a folder of its own below $out (status, stdout, stderr and what else it keeps); kept_cases writes all of it to standard output as a
# tar archive, which vincs_tests::cases takes apart. A case that hangs is ended by its own limit, so that the others still run.
set -u
: "${limit:?}"
out=$(mktemp -d /var/tmp/cases.XXXXXX)
work=$(mktemp -d /var/tmp/work.XXXXXX)

# case_ NAME COMMAND...: runs the command in $work and keeps its status and streams.
case_() {
    local name=$1
    shift
    mkdir -p "$out/$name"
    local start=$SECONDS
    (cd "$work" && timeout --kill-after=5 "$limit" "$@") >"$out/$name/stdout" 2>"$out/$name/stderr" </dev/null
    echo $? >"$out/$name/status"
    echo "$name: status $(cat "$out/$name/status") after $((SECONDS - start)) s" >&2
}

# keep_build NAME PROJECT: keeps what make made in a copy of the small C project.
keep_build() {
    mkdir -p "$out/$1/made"
    cp "$2"/*.o "$2"/{libproject.a,program,checked} "$out/$1/made/" 2>/dev/null
}

# kept_cases: the archive, with the last lines of the node's kernel.
kept_cases() {
    dmesg | tail -n 50 >"$out/node-log"
    tar -C "$out" -c .
}
