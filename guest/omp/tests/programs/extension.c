/* What another program loads: a parallel sum under a lock, by the runtime that it brings along. */
#include <omp.h>

int sum(void)
{
    omp_lock_t lock;
    omp_init_lock(&lock);
    int sum = 0;
#pragma omp parallel num_threads(2)
    {
        omp_set_lock(&lock);
        sum += omp_get_thread_num() + 1;
        omp_unset_lock(&lock);
    }
    omp_destroy_lock(&lock);
    return sum;
}
