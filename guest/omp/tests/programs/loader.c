/* Without an OpenMP runtime, until it loads one with its argument, for that library alone. */
#include <dlfcn.h>
#include <stdio.h>

int main(int count, char **arguments)
{
    void *extension = count == 2 ? dlopen(arguments[1], RTLD_NOW | RTLD_LOCAL) : NULL;
    if (!extension) {
        fprintf(stderr, "loader: %s\n", dlerror());
        return 2;
    }
    int (*sum)(void) = (int (*)(void))dlsym(extension, "sum");
    printf("%d\n", sum());
    return 0;
}
