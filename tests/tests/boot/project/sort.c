#include "project.h"

void sort(int *numbers, int count)
{
    for (int gap = count / 2; gap > 0; gap /= 2)
        for (int i = gap; i < count; i++) {
            int moved = numbers[i], j = i;
            for (; j >= gap && numbers[j - gap] > moved; j -= gap)
                numbers[j] = numbers[j - gap];
            numbers[j] = moved;
        }
}
