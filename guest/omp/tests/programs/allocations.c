/* What malloc(3) promises, at and around the size from which allocations are large; in children and at the end of threads, too.
   Prints what differs, then how many pieces were looked at. With an argument it gives back what it has not got. */
#define _GNU_SOURCE
#include <errno.h>
#include <malloc.h>
#include <omp.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { LARGE = 128 << 10 };

static int pieces;

#define CHECK(what)                                            \
    do {                                                       \
        if (!(what))                                           \
            printf("line %d: not %s\n", __LINE__, #what);      \
    } while (0)

static int is(const unsigned char *piece, size_t bytes, int byte) {
    pieces++;
    for (size_t i = 0; i < bytes; i++)
        if (piece[i] != byte)
            return 0;
    return 1;
}

static void *filled(size_t bytes, int byte) {
    void *piece = malloc(bytes);
    CHECK(piece && malloc_usable_size(piece) >= bytes);
    return memset(piece, byte, bytes);
}

static void changes(void) {
    const size_t sizes[] = {1, 1000, LARGE - 1, LARGE, LARGE + 1, LARGE * 3 / 2, 4 * LARGE};
    const size_t many = sizeof sizes / sizeof *sizes;
    for (size_t i = 0; i < many; i++)
        for (size_t j = 0; j < many; j++) {
            size_t least = sizes[i] < sizes[j] ? sizes[i] : sizes[j];
            void *piece = realloc(filled(sizes[i], 7), sizes[j]);
            CHECK(piece && is(piece, least, 7) && malloc_usable_size(piece) >= sizes[j]);
            piece = reallocarray(memset(piece, 8, sizes[j]), sizes[i], 2);
            CHECK(is(piece, sizes[j] < 2 * sizes[i] ? sizes[j] : 2 * sizes[i], 8));
            free(piece);
        }
    void *piece = realloc(NULL, LARGE);
    CHECK(piece);
    CHECK(realloc(piece, 0) == NULL);
    free(NULL);
    piece = filled(LARGE, 7);
    errno = 0;
    CHECK(reallocarray(piece, SIZE_MAX / 4, 8) == NULL && errno == ENOMEM && is(piece, LARGE, 7));
    free(piece);
}

static void alignments(void) {
    for (size_t alignment = sizeof(void *); alignment <= 4 << 20; alignment *= 2)
        for (size_t bytes = 1000; bytes <= LARGE; bytes += LARGE - 1000) {
            void *pieces[3];
            CHECK(posix_memalign(&pieces[0], alignment, bytes) == 0);
            pieces[1] = aligned_alloc(alignment, bytes);
            pieces[2] = memalign(alignment, bytes);
            for (int i = 0; i < 3; i++) {
                CHECK(pieces[i] && (uintptr_t)pieces[i] % alignment == 0);
                memset(pieces[i], i, bytes);
            }
            for (int i = 0; i < 3; i++) {
                CHECK(is(pieces[i], bytes, i));
                free(pieces[i]);
            }
        }
    void *piece = (void *)1;
    CHECK(posix_memalign(&piece, 24, LARGE) == EINVAL && posix_memalign(&piece, 4, LARGE) == EINVAL && piece == (void *)1);
}

static void zeroes(void) {
    for (int i = 0; i < 20; i++) {
        free(filled(LARGE + i * 5000, 9));
        void *piece = calloc(LARGE / 8 + i, 8);
        CHECK(piece && is(piece, LARGE + i * 8, 0));
        free(piece);
    }
    volatile size_t huge = SIZE_MAX / 4;
    errno = 0;
    CHECK(calloc(huge, 8) == NULL && errno == ENOMEM);
    CHECK(malloc(huge) == NULL);
    errno = 77;
    free(filled(LARGE, 1));
    CHECK(errno == 77);
}

static void *leaves(void *piece) {
    CHECK(is(piece, LARGE, 3));
    free(piece);
    return filled(LARGE, 4);
}

static void threads(void) {
    for (int i = 0; i < 50; i++) {
        pthread_t thread;
        void *piece;
        if (pthread_create(&thread, NULL, leaves, filled(LARGE, 3)) || pthread_join(thread, &piece))
            exit(1);
        CHECK(is(piece, LARGE, 4));
        free(piece);
    }
}

/* A child allocates and gives back, also what its parent has allocated, and ends as programs do. */
static void children(void) {
    void *piece = filled(LARGE, 5);
    int (*volatile count)(void) = omp_get_max_threads;
    pid_t child = fork();
    if (child == 0) {
        void *own = filled(2 * LARGE, 6);
        CHECK(is(own, 2 * LARGE, 6));
        free(realloc(own, 3 * LARGE));
        free(piece);
        long sum = 0;
#pragma omp parallel for reduction(+ : sum) num_threads(2)
        for (int i = 0; i < 1000; i++)
            sum += i;
        CHECK(sum == 499500 && count() > 0);
        exit(fflush(stdout) != 0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    CHECK(is(piece, LARGE, 5));
    free(piece);
    CHECK(system("exit 3") == 3 << 8);
}

int main(int count, char **arguments) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (count > 1 && arguments[1])
        free((char *)filled(LARGE, 1) + 4096);
    changes();
    alignments();
    zeroes();
    threads();
    children();
#pragma omp parallel num_threads(2)
    for (int i = 0; i < 200; i++) {
        size_t bytes = LARGE + (size_t)(i * 7919 % 50) * 4096;
        void *piece = filled(bytes, omp_get_thread_num());
#pragma omp critical
        CHECK(is(piece, bytes, omp_get_thread_num()));
        free(piece);
    }
    printf("looked at %d pieces\n", pieces);
    return 0;
}
