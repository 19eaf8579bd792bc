/* Parallel loops over arrays from malloc and calloc: a stencil, with its sum as a sequential program has it. */
#include <stdio.h>
#include <stdlib.h>

enum { CELLS = 100000, SWEEPS = 20 };

static void sweep(const double *from, double *to, int i) {
    to[i] = (from[i - 1] + from[i] + from[i + 1]) / 3;
}

int main(void) {
    double *a = malloc(CELLS * sizeof *a), *b = calloc(CELLS, sizeof *b);
    double *c = malloc(CELLS * sizeof *c), *d = calloc(CELLS, sizeof *d);
    if (!a || !b || !c || !d)
        return 1;
#pragma omp parallel for
    for (int i = 0; i < CELLS; i++)
        a[i] = i % 17;
    for (int i = 0; i < CELLS; i++)
        c[i] = i % 17;
#pragma omp parallel
    for (int step = 0; step < SWEEPS; step++) {
        double *from = step % 2 ? b : a, *to = step % 2 ? a : b;
#pragma omp for schedule(dynamic, 1000)
        for (int i = 1; i < CELLS - 1; i++)
            sweep(from, to, i);
    }
    for (int step = 0; step < SWEEPS; step++)
        for (int i = 1; i < CELLS - 1; i++)
            sweep(step % 2 ? d : c, step % 2 ? c : d, i);
    int wrong = 0;
    for (int i = 0; i < CELLS; i++)
        wrong += a[i] != c[i];
    printf("stencil wrong %d of %d\n", wrong, CELLS);
    free(a), free(b), free(c), free(d);
    return wrong != 0;
}
