#include "project.h"
#include <stdio.h>

int main(void)
{
    int numbers[1000];
    for (int i = 0; i < 1000; i++)
        numbers[i] = (i * 7919) % 1000;
    sort(numbers, 1000);
    printf("%d %d %u %.6f\n", count_primes(100000), numbers[500], checksum("vincs"), trace_of_product(200));
    return 0;
}
