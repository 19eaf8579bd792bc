/* Reductions: of numbers, and of an array that is a large allocation itself. */
#include <stdio.h>
#include <stdlib.h>

enum { NUMBERS = 200000, BINS = 20000 };

int main(void) {
    long *numbers = malloc(NUMBERS * sizeof *numbers);
    long *bins = calloc(BINS, sizeof *bins);
    if (!numbers || !bins)
        return 1;
    long sum = 0, most = 0;
#pragma omp parallel for reduction(+ : sum) reduction(max : most)
    for (int i = 0; i < NUMBERS; i++) {
        numbers[i] = (long)i * i % 10007;
        sum += numbers[i];
        most = numbers[i] > most ? numbers[i] : most;
    }
#pragma omp parallel for reduction(+ : bins[:BINS])
    for (int i = 0; i < NUMBERS; i++)
        bins[numbers[i]] += 1;
    long expected = 0, counted = 0, weighted = 0;
    for (int i = 0; i < NUMBERS; i++)
        expected += (long)i * i % 10007;
    for (int i = 0; i < BINS; i++) {
        counted += bins[i];
        weighted += bins[i] * i;
    }
    printf("sum wrong %d, most %ld, counted %ld, bins wrong %d\n", sum != expected, most, counted, weighted != expected);
    free(numbers), free(bins);
    return sum != expected || counted != NUMBERS || weighted != expected;
}
