/* Iterations that wait for each other: an ordered region, and a wavefront by dependences between iterations. */
#include <stdio.h>
#include <stdlib.h>

/* Fewer where iterations wait for each other over a network. */
#ifndef ORDERED_STEPS
#define ORDERED_STEPS 500
#define ORDERED_ROWS 200
#endif

enum { STEPS = ORDERED_STEPS, ROWS = ORDERED_ROWS, COLUMNS = 200 };

int main(void) {
    long *order = calloc(STEPS * 100, sizeof *order);
    long(*grid)[COLUMNS] = calloc(ROWS, sizeof *grid), (*alone)[COLUMNS] = calloc(ROWS, sizeof *alone);
    if (!order || !grid || !alone)
        return 1;
    int next = 0, wrong = 0;
#pragma omp parallel for ordered schedule(dynamic)
    for (int i = 0; i < STEPS; i++) {
        long square = (long)i * i;
#pragma omp ordered
        order[next++ * 100] = square;
    }
    for (int i = 0; i < STEPS; i++)
        wrong += order[i * 100] != (long)i * i;
#pragma omp parallel for ordered(1)
    for (int row = 0; row < ROWS; row++) {
        grid[row][0] = row;
#pragma omp ordered depend(sink : row - 1)
        for (int column = 1; column < COLUMNS; column++)
            grid[row][column] = (grid[row][column - 1] + (row ? grid[row - 1][column] : column)) % 1009;
#pragma omp ordered depend(source)
    }
    for (int row = 0; row < ROWS; row++) {
        alone[row][0] = row;
        for (int column = 1; column < COLUMNS; column++)
            alone[row][column] = (alone[row][column - 1] + (row ? alone[row - 1][column] : column)) % 1009;
        for (int column = 0; column < COLUMNS; column++)
            wrong += grid[row][column] != alone[row][column];
    }
    printf("ordered wrong %d\n", wrong);
    free(order), free(grid), free(alone);
    return wrong != 0;
}
