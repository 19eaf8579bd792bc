# shellcheck shell=bash
# OpenMP programs as they are on machines of several ranks, for scripts of cases. They source it after cases.sh.
: "${here:?}" "${work:?}"

# compile_openmp PROGRAM...: those of vincs-omp's tests, as omp_PROGRAM, with less of what they repeat.
compile_openmp() {
    local clang program
    clang=$(for folder in /usr/lib/llvm-*; do [ -e "$folder/lib/libomp.so" ] && echo "$folder/bin/clang"; done | sort -V | tail -n 1)
    for program in "$@"; do
        "$clang" -O2 -fno-builtin -fopenmp -DROUNDS=2 -DORDERED_STEPS=100 -DORDERED_ROWS=50 -o "$work/omp_$program" "$here/../../../guest/omp/tests/programs/$program.c"
    done
}

# What a guest runs: each of its arguments, with its status and its counters.
# shellcheck disable=SC2034,SC2016 # for who sources this; expanded in the guest
run_openmp='
    for program; do
        VINCS_OMP_STATS=counters KMP_BLOCKTIME=0 LD_PRELOAD=$OMP_PRELOAD ./$program
        echo "$program status $?"
        while read -r name number; do echo "$program $name $number"; done <counters
        rm counters
    done'
OMP_PRELOAD=$(dirname "$(command -v vincs)")/libvincs_omp.so
export OMP_PRELOAD
