#include "project.h"
#include "table.h"

unsigned checksum(const char *text)
{
    unsigned sum = 0;
    for (; *text; text++)
        sum = sum * 31 + (unsigned)table[(unsigned char)*text % TABLE_SIZE];
    return sum;
}
