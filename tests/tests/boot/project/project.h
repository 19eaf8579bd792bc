#ifndef PROJECT_H
#define PROJECT_H

int count_primes(int limit);
void sort(int *numbers, int count);
unsigned checksum(const char *text);
double trace_of_product(int size);

#endif
