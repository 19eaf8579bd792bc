/* relaxed FILE: the device of VINCS_RELAXED as two processes have it, and as the machine's devices do, which read FILE into it past the
   kernel's own memory. Prints what it finds, one line each. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

enum { DIRECT = 1 << 20 };

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static size_t size_of(const char *device) {
    struct stat status;
    if (stat(device, &status) != 0)
        fail(device);
    printf("owner %u mode %o\n", status.st_uid, status.st_mode & 0777);
    char path[64];
    snprintf(path, sizeof path, "/sys/dev/char/%u:%u/size", major(status.st_rdev), minor(status.st_rdev));
    FILE *file = fopen(path, "r");
    size_t size = 0;
    if (file == NULL || fscanf(file, "%zu", &size) != 1)
        fail(path);
    fclose(file);
    return size;
}

/* The device as a process of its own has it, not as it is inherited. */
static volatile uint64_t *mapped(const char *device, size_t size) {
    int fd = open(device, O_RDWR);
    if (fd < 0)
        fail(device);
    void *start = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (start == MAP_FAILED)
        fail("mmap");
    return start;
}

/* Words that differ from those of this round; writes those of the next. */
static size_t wrong(volatile uint64_t *words, size_t count, uint64_t round) {
    size_t wrong = 0;
    for (size_t i = 0; i < count; i++) {
        if (words[i] != i * round)
            wrong++;
        words[i] = i * (round + 1);
    }
    return wrong;
}

int main(int argc, char **argv) {
    const char *device = getenv("VINCS_RELAXED");
    if (argc != 2 || device == NULL) {
        fputs("relaxed FILE, with VINCS_RELAXED\n", stderr);
        return 2;
    }
    printf("device %s\n", device);
    size_t size = size_of(device), count = size / sizeof(uint64_t);
    printf("size %zu\n", size);
    fflush(stdout);
    /* It starts zero; each process finds what the one before has written. */
    for (uint64_t round = 0; round < 2; round++) {
        pid_t child = fork();
        if (child == 0) {
            printf("wrong %zu\n", wrong(mapped(device, size), count, round));
            exit(0);
        }
        int status;
        if (child < 0 || waitpid(child, &status, 0) != child || status != 0)
            fail("child");
    }
    volatile uint64_t *words = mapped(device, size);
    printf("wrong %zu\n", wrong(words, count, 2));

    char *expected = malloc(DIRECT), *at = (char *)words + size - DIRECT;
    int direct = open(argv[1], O_RDONLY | O_DIRECT), plain = open(argv[1], O_RDONLY);
    if (direct < 0 || plain < 0)
        fail(argv[1]);
    if (read(direct, at, DIRECT) != DIRECT || read(plain, expected, DIRECT) != DIRECT)
        fail("read");
    printf("direct %s\n", memcmp(at, expected, DIRECT) == 0 ? "same" : "different");
    return 0;
}
