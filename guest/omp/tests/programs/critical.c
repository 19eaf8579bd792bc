/* Who may change what: critical regions with and without names, locks, nested locks, a single with copyprivate, and a flush. */
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>

#ifndef ROUNDS
#define ROUNDS 500
#endif

enum { WORDS = 100000 };

int main(void) {
    long *count = calloc(WORDS, sizeof *count);
    if (!count)
        return 1;
    omp_lock_t lock;
    omp_nest_lock_t nested;
    omp_init_lock(&lock);
    omp_init_nest_lock(&nested);
    int threads = 0;
#pragma omp parallel
    {
        int told;
#pragma omp single copyprivate(told)
        threads = told = omp_get_num_threads();
        for (int i = 0; i < ROUNDS; i++) {
#pragma omp critical
            count[0] += told;
#pragma omp critical(another)
            count[50000] += told;
            omp_set_lock(&lock);
            count[1000] += told;
            omp_unset_lock(&lock);
            while (!omp_test_lock(&lock))
                ;
            count[1001] += told;
            omp_unset_lock(&lock);
            omp_set_nest_lock(&nested);
            omp_set_nest_lock(&nested);
            count[99999] += told;
            omp_unset_nest_lock(&nested);
            omp_unset_nest_lock(&nested);
        }
#pragma omp flush
    }
    omp_destroy_lock(&lock);
    omp_destroy_nest_lock(&nested);
    long each = (long)ROUNDS * threads * threads;
    int wrong = count[0] != each || count[50000] != each || count[1000] != each || count[1001] != each || count[99999] != each;
    printf("critical wrong %d\n", wrong);
    free(count);
    return wrong;
}
