/* Large arrays from files and into them, by all that programs call for it; one thread each for a part of the file, too.
   Its file is in the working directory. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/uio.h>
#include <unistd.h>

enum { NUMBERS = 200000, PARTS = 4, PART = NUMBERS / PARTS };

static const size_t ALL = NUMBERS * sizeof(long);
static int failed;

static void check(const char *what, int is_right) {
    if (!is_right) {
        perror(what);
        failed = 1;
    }
}

static int differs(const long *numbers, long from, long step) {
    int wrong = 0;
#pragma omp parallel for reduction(+ : wrong)
    for (int i = 0; i < NUMBERS; i++)
        wrong += numbers[i] != from + step * i;
    return wrong;
}

static void fill(long *numbers, long from, long step) {
#pragma omp parallel for
    for (int i = 0; i < NUMBERS; i++)
        numbers[i] = from + step * i;
}

int main(void) {
    long *out = malloc(ALL), *in = calloc(NUMBERS, sizeof *in), small[2];
    if (!out || !in)
        return 1;
    int wrong = 0;
    fill(out, 7, 3);
    FILE *stream = fopen("files.data", "w+");
    check("fwrite", stream && fwrite(out, sizeof *out, NUMBERS, stream) == NUMBERS && fflush(stream) == 0);
    rewind(stream);
    check("fread", fread(in, sizeof *in, NUMBERS + 1, stream) == NUMBERS && feof(stream));
    wrong += differs(in, 7, 3);
    fclose(stream);
    int file = open("files.data", O_RDWR);
    fill(out, 1, 2);
    check("write", write(file, out, ALL) == (ssize_t)ALL);
#pragma omp parallel for
    for (int part = 0; part < PARTS; part++)
        check("pread", pread(file, in + part * PART, PART * sizeof *in, part * PART * sizeof *in) == PART * sizeof *in);
    wrong += differs(in, 1, 2);
    fill(out, 5, 1);
#pragma omp parallel for
    for (int part = 0; part < PARTS; part++)
        check("pwrite", pwrite(file, out + part * PART, PART * sizeof *out, part * PART * sizeof *out) == PART * sizeof *out);
    check("lseek", lseek(file, 0, SEEK_SET) == 0);
    check("read", read(file, in, ALL) == (ssize_t)ALL && read(file, in, ALL) == 0);
    wrong += differs(in, 5, 1);
    struct iovec pieces[] = {{small, sizeof small}, {in, ALL - sizeof small}};
    check("lseek", lseek(file, 0, SEEK_SET) == 0);
    check("readv", readv(file, pieces, 2) == (ssize_t)ALL);
    wrong += small[0] != 5 || small[1] != 6 || in[0] != 7 || in[NUMBERS - 3] != 5 + NUMBERS - 1;
    check("lseek", lseek(file, sizeof small, SEEK_SET) == sizeof small);
    check("writev", writev(file, pieces, 2) == (ssize_t)ALL);
    check("pread", pread(file, in, ALL, 2 * sizeof small) == (ssize_t)(ALL - sizeof small));
    wrong += in[0] != 7 || in[NUMBERS - 3] != 5 + NUMBERS - 1;
    check("a file that is not open", read(-1, in, ALL) == -1 && write(-1, in, ALL) == -1);
    close(file);
    unlink("files.data");
    printf("files wrong %d\n", wrong + failed);
    free(out), free(in);
    return wrong != 0 || failed;
}
