/* lent: a lock that one rank alone uses costs it nothing; then the other rank takes it, and sees what was written under it. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "vincs_guest.h"

enum { ROUNDS = 100000, LOCK = 7 };

static void check(const char *what, vincs_status status) {
    if (status != VINCS_STATUS_OK) {
        fprintf(stderr, "%s: %s\n", what, vincs_error());
        exit(1);
    }
}

static void add(const vincs_member *member, int64_t *count, int rounds) {
    for (int round = 0; round < rounds; round++) {
        check("lock", vincs_lock(member, LOCK));
        *count += 1;
        check("unlock", vincs_unlock(member, LOCK));
    }
}

static void work(const vincs_member *member, void *context) {
    uint32_t number = vincs_member_number(member), members = vincs_member_count(member);
    for (uint32_t turn = 0; turn < members; turn++) {
        if (turn == number)
            add(member, context, ROUNDS);
        vincs_barrier(member);
    }
    /* And all at once, from where it is lent. */
    add(member, context, 10);
}

int main(void) {
    vincs_relaxed *relaxed;
    vincs_team *team;
    void *piece;
    check("open", vincs_relaxed_open(&relaxed));
    check("allocate", vincs_relaxed_allocate(relaxed, sizeof(int64_t), &piece));
    check("start", vincs_team_start(0, &team));
    check("run", vincs_team_run(team, work, piece));
    printf("lent %ld\n", (long)*(int64_t *)piece);
    return 0;
}
