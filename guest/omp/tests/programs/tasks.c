/* Tasks: a tree of them, a chain by dependences, a loop of them, untied ones, one with a large copy of its own, and one that others end. */
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>

struct large {
    char bytes[200000];
};

enum { LEAVES = 1 << 16, STEPS = 64, BLOCK = 1 << 12 };

/* Fills a part of the array, each half by a task of its own, and gives the sum of it. */
static long fill(long *words, long first, long end) {
    if (end - first <= BLOCK) {
        long sum = 0;
        for (long i = first; i < end; i++)
            sum += words[i] = i;
        return sum;
    }
    long middle = (first + end) / 2, left, right;
#pragma omp task shared(left)
    left = fill(words, first, middle);
#pragma omp task shared(right)
    right = fill(words, middle, end);
#pragma omp taskwait
    return left + right;
}

int main(void) {
    long *words = malloc(LEAVES * sizeof *words), *chain = calloc(LEAVES, sizeof *chain);
    if (!words || !chain)
        return 1;
    long sum = 0, looped = 0, grouped = 0;
    int detached = 0, copied = 0;
#pragma omp parallel
#pragma omp single
    {
        sum = fill(words, 0, LEAVES);
        for (int i = 1; i < STEPS; i++) {
#pragma omp task depend(in : chain[(i - 1) * 1000]) depend(out : chain[i * 1000])
            chain[i * 1000] = chain[(i - 1) * 1000] + i;
        }
#pragma omp taskwait depend(in : chain[(STEPS - 1) * 1000])
        detached += chain[(STEPS - 1) * 1000] == (long)STEPS * (STEPS - 1) / 2;
#pragma omp taskwait
#pragma omp taskloop grainsize(1024)
        for (long i = 0; i < LEAVES; i++)
            words[i] += i;
        for (long i = 0; i < LEAVES; i++)
            looped += words[i];
#pragma omp taskgroup
        for (int i = 0; i < STEPS; i++) {
#pragma omp task untied
            {
                chain[i * 1000 + 1] = i;
#pragma omp taskyield
                chain[i * 1000 + 1] += i;
            }
        }
        for (int i = 0; i < STEPS; i++)
            grouped += chain[i * 1000 + 1];
        struct large large = {{[0] = 1, [sizeof large.bytes - 1] = 2}};
#pragma omp task firstprivate(large) shared(copied)
        copied = large.bytes[0] + large.bytes[sizeof large.bytes - 1];
        large.bytes[0] = 50;
#pragma omp taskwait
        detached += copied == 3;
        omp_event_handle_t event;
#pragma omp task detach(event)
        chain[2] = 1;
#pragma omp task
        {
            chain[3] = 1;
            omp_fulfill_event(event);
        }
#pragma omp taskwait
        detached += chain[2] + chain[3] == 2;
    }
    long all = (long)LEAVES * (LEAVES - 1) / 2;
    int wrong = sum != all || looped != 2 * all || grouped != STEPS * (STEPS - 1) || detached != 3;
    printf("tasks wrong %d: %d %d %d %d\n", wrong, sum == all, looped == 2 * all, grouped == STEPS * (STEPS - 1), detached);
    free(words), free(chain);
    return wrong;
}
