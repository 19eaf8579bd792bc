/* dies: a team of which one member ends the process with a lock that the others wait for, and with changes that are not brought home. */
#define _GNU_SOURCE
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "vincs_guest.h"

enum { NUMBERS = 50000 };

static void check(const char *what, vincs_status status) {
    if (status != VINCS_STATUS_OK) {
        fprintf(stderr, "%s: %d: %s\n", what, status, vincs_error());
        exit(1);
    }
}

static void work(const vincs_member *member, void *context) {
    int64_t *numbers = context;
    uint32_t number = vincs_member_number(member);
    if (number == 0)
        check("lock", vincs_lock(member, 3));
    vincs_barrier(member);
    if (number != 0)
        check("lock", vincs_lock(member, 3));
    for (size_t i = 0; i < NUMBERS; i++)
        numbers[i] = -1;
    /* The others are on their way to the lock. */
    usleep(200000);
    kill(getpid(), SIGKILL);
}

int main(void) {
    vincs_relaxed *relaxed;
    vincs_team *team;
    void *numbers;
    check("open", vincs_relaxed_open(&relaxed));
    check("allocate", vincs_relaxed_allocate(relaxed, NUMBERS * sizeof(int64_t), &numbers));
    check("start", vincs_team_start(0, &team));
    check("run", vincs_team_run(team, work, numbers));
    return 3;
}
