/* races: two members write the same word with nothing between, and one under a lock: the first is a race, the second is none. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "vincs_guest.h"

enum { WORDS = 4096, RACY = 1000, LOCKED = 3000, MEMBERS };

static void check(const char *what, vincs_status status) {
    if (status != VINCS_STATUS_OK) {
        fprintf(stderr, "%s: %s\n", what, vincs_error());
        exit(1);
    }
}

static void work(const vincs_member *member, void *context) {
    int64_t *words = context;
    uint32_t number = vincs_member_number(member);
    /* A member that begins late hears what others have told by then. */
    vincs_barrier(member);
    words[number] = 1;
    words[RACY] = 2 + number;
    check("lock", vincs_lock(member, 0));
    words[LOCKED] += 1;
    words[MEMBERS] = vincs_member_count(member);
    check("unlock", vincs_unlock(member, 0));
}

int main(void) {
    vincs_relaxed *relaxed;
    vincs_team *team;
    void *piece;
    check("open", vincs_relaxed_open(&relaxed));
    check("allocate", vincs_relaxed_allocate(relaxed, WORDS * sizeof(int64_t), &piece));
    check("start", vincs_team_start(0, &team));
    check("run", vincs_team_run(team, work, piece));
    int64_t *words = piece;
    printf("counted %ld of %ld\nracy %d\n", (long)words[LOCKED], (long)words[MEMBERS], (int)((uintptr_t)&words[RACY] % 4096));
    return 0;
}
