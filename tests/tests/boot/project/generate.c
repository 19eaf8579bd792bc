/* Writes the table of squares that the other units are compiled with. */
#include <stdio.h>

int main(void)
{
    printf("#define TABLE_SIZE 256\nstatic const int table[TABLE_SIZE] = {\n");
    for (int i = 0; i < 256; i++)
        printf("    %d,\n", i * i);
    printf("};\n");
    return 0;
}
