#include "project.h"

double trace_of_product(int size)
{
    double trace = 0;
    for (int i = 0; i < size; i++)
        for (int k = 0; k < size; k++)
            trace += (i + 1.0) * (k + 1.0) / (1.0 + (i ^ k));
    return trace;
}
