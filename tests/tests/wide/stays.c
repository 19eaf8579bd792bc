/* stays: the thread that opens relaxed memory is kept on a rank, though teams have all processors; what it writes members see, and it sees what they write. It
 * opens on the last processor, where the kernel would not leave it. */
#define _GNU_SOURCE
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "vincs_guest.h"

enum { NUMBERS = 20000, RUNS = 5 };

static void check(const char *what, int is_right) {
    if (!is_right) {
        fprintf(stderr, "%s: %s\n", what, vincs_error());
        exit(1);
    }
}

static void work(const vincs_member *member, void *context) {
    int64_t *numbers = context;
    uint32_t number = vincs_member_number(member), members = vincs_member_count(member);
    for (size_t i = NUMBERS * number / members; i < NUMBERS * (number + 1) / members; i++)
        numbers[i] += (int64_t)i;
}

int main(void) {
    vincs_relaxed *relaxed;
    vincs_team *team;
    void *memory;
    cpu_set_t all, last;
    check("processors", sched_getaffinity(0, sizeof all, &all) == 0);
    CPU_ZERO(&last);
    CPU_SET(CPU_COUNT(&all) - 1, &last);
    check("onto the last", sched_setaffinity(0, sizeof last, &last) == 0);
    check("anywhere", sched_setaffinity(0, sizeof all, &all) == 0);
    check("open", vincs_relaxed_open(&relaxed) == VINCS_STATUS_OK);
    cpu_set_t own;
    check("processors", sched_getaffinity(0, sizeof own, &own) == 0);
    check("allocate", vincs_relaxed_allocate(relaxed, NUMBERS * sizeof(int64_t), &memory) == VINCS_STATUS_OK);
    check("start", vincs_team_start(0, &team) == VINCS_STATUS_OK);
    int64_t *numbers = memory;
    size_t wrong = 0;
    for (int run = 0; run < RUNS; run++) {
        for (size_t i = 0; i < NUMBERS; i++)
            numbers[i] = run;
        check("run", vincs_team_run(team, work, numbers) == VINCS_STATUS_OK);
        for (size_t i = 0; i < NUMBERS; i++)
            wrong += numbers[i] != run + (int64_t)i;
    }
    printf("stays on %d of %d, %zu wrong\n", CPU_COUNT(&own), CPU_COUNT(&all), wrong);
    return wrong != 0;
}
