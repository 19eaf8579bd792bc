/* remote MIB PASSES: on the last processor, which is on the last rank, writes and reads memory of node 0, which is rank 0's, and checks
   every word. With a cache smaller than MIB every pass brings each page anew and gives it back changed. */
#define _GNU_SOURCE
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define MPOL_BIND 2 /* linux/mempolicy.h */

static void fail(const char *what) {
    perror(what);
    exit(1);
}

int main(int argc, char **argv) {
    size_t bytes = argc == 3 ? strtoul(argv[1], NULL, 10) << 20 : 0;
    uint64_t passes = argc == 3 ? strtoul(argv[2], NULL, 10) : 0;
    if (bytes == 0 || passes == 0) {
        fputs("remote MIB PASSES\n", stderr);
        return 2;
    }
    unsigned long node_0 = 1;
    if (syscall(SYS_set_mempolicy, MPOL_BIND, &node_0, 8 * sizeof node_0) != 0)
        fail("set_mempolicy");
    long last = sysconf(_SC_NPROCESSORS_ONLN) - 1;
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(last, &set);
    if (sched_setaffinity(0, sizeof set, &set) != 0)
        fail("sched_setaffinity");
    /* Volatile: every word is to be written and read back, not remembered. */
    volatile uint64_t *words = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (words == MAP_FAILED)
        fail("mmap");
    size_t count = bytes / sizeof *words, wrong = 0;
    for (uint64_t pass = 1; pass <= passes; pass++) {
        for (size_t i = 0; i < count; i++) {
            if (words[i] != (pass == 1 ? 0 : i * (pass - 1)))
                wrong++;
            words[i] = i * pass;
        }
    }
    for (size_t i = 0; i < count; i++)
        if (words[i] != i * passes)
            wrong++;
    printf("cpu %d\npages %zu\nwrong %zu\n", sched_getcpu(), bytes / 4096, wrong);
    return wrong != 0;
}
