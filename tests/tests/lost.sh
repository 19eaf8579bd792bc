# shellcheck shell=bash
# Machines of two ranks that lose one, for scripts of cases. They source it after cases.sh.
: "${limit:?}" "${out:?}" "${work:?}"
# Seconds that the ranks of a machine may take to end after one was lost, and some for a busy node: the test has the real bound.
end_limit=40

# start_rank CASE RANK [COMMAND...]: one rank of two in the background, with $options, under COMMAND when one is given. Its pid and streams are in the
# case's folder, and its status and the time of its end as soon as it has ended.
start_rank() {
    local folder=$out/$1 rank=$2
    shift 2
    (
        cd "$work" || exit
        # shellcheck disable=SC2016 # expanded in the guest
        "$@" vincs-rank --rank "$rank" --ranks 2 --address-file "$folder/address" --mem 512M "${options[@]}" -- \
            sh -c 'n=0; while :; do echo "tick $n"; n=$((n + 1)); sleep 1; done' \
            >"$folder/stdout.$rank" 2>"$folder/stderr.$rank" </dev/null &
        echo $! >"$folder/pid.$rank"
        wait $!
        echo "$? $EPOCHREALTIME" >"$folder/ending.$rank" && mv "$folder/ending.$rank" "$folder/ended.$rank"
    ) &
}

# ticks CASE N: waits until the guest has said N ticks.
ticks() {
    local try
    for ((try = 0; try < limit * 5; try++)); do
        [ "$(grep -c tick "$out/$1/stdout.0")" -ge "$2" ] && return
        sleep 0.2
    done
    echo "$1: no tick $2: $(cat "$out/$1"/stderr.*)" >&2
    return 1
}

# lost CASE RANK COMMAND...: what COMMAND does to a running machine loses that rank. Keeps each rank's status, how many seconds after that it
# ended, and how many processes of vincs are left.
lost() {
    local name=$1 lost=$2 rank try start
    shift 2
    start=$EPOCHREALTIME
    "$@"
    for ((try = 0; try < end_limit * 5; try++)); do
        [ -e "$out/$name/ended.$((1 - lost))" ] && break
        sleep 0.2
    done
    # A rank that was stopped learns of the end when it goes on.
    kill -CONT "$(cat "$out/$name/pid.$lost")" 2>/dev/null
    for ((try = 0; try < end_limit * 5; try++)); do
        [ -e "$out/$name/ended.$lost" ] && break
        sleep 0.2
    done
    echo 0 >"$out/$name/status"
    echo "left $(pgrep -c '^vincs')" >"$out/$name/stdout"
    cat "$out/$name"/stderr.* >"$out/$name/stderr"
    for rank in 0 1; do
        kill -KILL "$(cat "$out/$name/pid.$rank")" 2>/dev/null
        if [ -e "$out/$name/ended.$rank" ]; then
            awk -v rank=$rank -v start="$start" '{printf "rank%d %d %.1f\n", rank, $1, $2 - start}' "$out/$name/ended.$rank"
        else
            echo "rank$rank hangs"
        fi >>"$out/$name/stdout"
    done
    wait
    echo "$name: $(paste -sd ' ' "$out/$name/stdout")" >&2
}

# pid CASE RANK: the process of a rank.
pid() { cat "$out/$1/pid.$2"; }

# lost_by SIGNAL CASE TRANSPORT RANK [BEFORE]: a machine that runs, and loses this rank by a signal. BEFORE is called with the case's name before that.
lost_by() {
    local signal=$1 name=$2 lost=$4
    options=(--transport "$3")
    shift 4
    mkdir -p "$out/$name"
    start_rank "$name" 0
    start_rank "$name" 1
    ticks "$name" 1 || return
    [ $# -eq 0 ] || "$1" "$name"
    lost "$name" "$lost" kill "-$signal" "$(pid "$name" "$lost")"
}
