/* team: what vincs_guest.h has, used from C, on whatever memory there is. Prints what it finds, one line each. */
#define _GNU_SOURCE
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "vincs_guest.h"

enum { NUMBERS = 100000, ROUNDS = 1000, MOST = 256 };

struct shared {
    int64_t *numbers;
    int64_t *count;
    int processor[MOST];
    double sum[MOST];
    int64_t largest[MOST];
    vincs_status not_held, held, no_such;
};

static void check(const char *what, vincs_status status) {
    if (status != VINCS_STATUS_OK) {
        fprintf(stderr, "%s: %d: %s\n", what, status, vincs_error());
        exit(1);
    }
}

static void square(size_t index, void *context) {
    struct shared *shared = context;
    shared->numbers[index] = (int64_t)index * (int64_t)index;
}

static void work(const vincs_member *member, void *context) {
    struct shared *shared = context;
    uint32_t number = vincs_member_number(member), count = vincs_member_count(member);
    if (count > MOST) {
        fprintf(stderr, "%u members, there is room for %d\n", count, MOST);
        exit(3);
    }
    shared->processor[number] = sched_getcpu();
    /* Each adds up the part of the one after it, which wrote it before the run. */
    size_t first = 0, end = NUMBERS;
    check("part", vincs_member_part(member, &first, &end));
    double sum = 0;
    for (size_t i = first; i < end; i++)
        sum += (double)shared->numbers[NUMBERS - 1 - i];
    shared->sum[number] = vincs_sum_double(member, sum);
    shared->largest[number] = vincs_max_int64(member, number);
    for (int round = 0; round < ROUNDS; round++) {
        check("lock", vincs_lock(member, 3));
        *shared->count += 1;
        check("unlock", vincs_unlock(member, 3));
    }
    vincs_barrier(member);
    if (*shared->count != (int64_t)ROUNDS * count)
        fprintf(stderr, "member %u counted %ld before all had\n", number, (long)*shared->count);
    if (number == 0) {
        shared->not_held = vincs_unlock(member, 3);
        check("lock", vincs_lock(member, 4));
        shared->held = vincs_lock(member, 4);
        check("unlock", vincs_unlock(member, 4));
        shared->no_such = vincs_lock(member, 1024);
    }
}

int main(void) {
    vincs_relaxed *relaxed;
    check("open", vincs_relaxed_open(&relaxed));
    printf("device %d\nleft %zu\n", vincs_relaxed_is_device(relaxed), vincs_relaxed_left(relaxed));
    struct shared shared = {0};
    void *piece;
    check("allocate", vincs_relaxed_allocate(relaxed, NUMBERS * sizeof *shared.numbers, &piece));
    shared.numbers = piece;
    check("allocate", vincs_relaxed_allocate(relaxed, sizeof *shared.count, &piece));
    shared.count = piece;
    vincs_status status = vincs_relaxed_allocate(relaxed, vincs_relaxed_left(relaxed) + 1, &piece);
    printf("too much %d %s\n", status, vincs_error());

    vincs_team *team;
    status = vincs_team_start(100000, &team);
    printf("too many %d %s\n", status, vincs_error());
    check("start", vincs_team_start(0, &team));
    check("for each", vincs_team_for_each(team, 0, NUMBERS, square, &shared));
    check("run", vincs_team_run(team, work, &shared));
    uint32_t members = (uint32_t)shared.largest[0] + 1;
    printf("processors");
    for (uint32_t i = 0; i < members; i++)
        printf(" %d", shared.processor[i]);
    printf("\ncounted %ld\n", (long)*shared.count / ROUNDS);
    for (uint32_t i = 0; i < members; i++)
        if (shared.sum[i] != shared.sum[0] || shared.largest[i] != shared.largest[0])
            printf("member %u has another result\n", i);
    printf("sum %.0f\n", shared.sum[0]);
    printf("misuse %d %d %d\n", shared.not_held, shared.held, shared.no_such);
    vincs_team_end(team);
    vincs_relaxed_close(relaxed);
    return 0;
}
