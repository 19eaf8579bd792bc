/* What the other programs leave out: teams, nested regions, sections, loops of tasks without a group, reductions of tasks, tasks that exclude each
   other or wait for data, loops without a barrier, and a flag in ordinary memory that is passed on by flushes. */
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>

enum { N = 20000, TASKS = 40, APART = 1000 };

static long *a, *b, *c;

static int loops_of_tasks(void) {
    int wrong = 0;
    for (int i = 0; i < N; i++)
        a[i] = i;
#pragma omp parallel
#pragma omp single
    {
        for (int i = 0; i < N; i++)
            b[i] = a[i] + 1;
#pragma omp taskloop nogroup grainsize(50)
        for (int i = 0; i < N; i++)
            a[i] = b[i] * 2;
    }
    for (int i = 0; i < N; i++)
        wrong += a[i] != 2 * (i + 1L);
    return wrong;
}

static int teams(void) {
    int wrong = 0;
#pragma omp teams distribute parallel for num_teams(2)
    for (int i = 0; i < N; i++)
        b[i] = a[i] + 5;
    for (int i = 0; i < N; i++)
        wrong += b[i] != a[i] + 5;
    return wrong;
}

static int nested(void) {
    int wrong = 0;
    omp_set_max_active_levels(2);
#pragma omp parallel num_threads(2)
    {
        int first = omp_get_thread_num() * N / omp_get_num_threads(), end = (omp_get_thread_num() + 1) * N / omp_get_num_threads();
        for (int i = first; i < end; i++)
            a[i] = 3;
#pragma omp parallel for num_threads(2)
        for (int i = first; i < end; i++)
            a[i] += i;
        for (int i = first; i < end; i++)
            b[i] = a[i];
    }
    for (int i = 0; i < N; i++)
        wrong += b[i] != i + 3;
    return wrong;
}

static int sections(void) {
    int wrong = 0;
#pragma omp parallel
    {
#pragma omp sections
        {
#pragma omp section
            for (int i = 0; i < N / 2; i++)
                a[i] = 3;
#pragma omp section
            for (int i = N / 2; i < N; i++)
                a[i] = 4;
        }
#pragma omp single nowait
        for (int i = 0; i < N; i++)
            b[i] = a[i];
#pragma omp barrier
#pragma omp master
        for (int i = 0; i < N; i++)
            b[i] += 1;
#pragma omp barrier
#pragma omp for schedule(guided)
        for (int i = 0; i < N; i++)
            a[i] = b[N - 1 - i];
    }
    for (int i = 0; i < N; i++)
        wrong += a[i] != (i < N / 2 ? 5 : 4);
    return wrong;
}

static int tasks(void) {
    long sum = 0;
    int wrong = 0;
#pragma omp parallel
#pragma omp single
#pragma omp taskgroup task_reduction(+ : sum)
    for (int task = 0; task < TASKS; task++) {
#pragma omp task in_reduction(+ : sum) priority(task)
        for (int i = task * (N / TASKS); i < (task + 1) * (N / TASKS); i++) {
            sum += a[i];
            b[i] = 1;
        }
    }
    wrong += sum != 9L * N / 2;
#pragma omp parallel
#pragma omp single
    for (int task = 0; task < TASKS; task++) {
#pragma omp task depend(mutexinoutset : c[0])
        c[APART]++;
    }
    wrong += c[APART] != TASKS;
#pragma omp parallel
#pragma omp single
    for (int task = 0; task < TASKS; task++) {
        long *data = &c[task * APART];
#pragma omp task depend(out : data[1])
        data[1] = task;
#pragma omp task depend(in : data[1])
        data[2] = data[1] + 1;
#pragma omp task if (0) depend(in : data[1])
        data[3] = data[1] + 2;
    }
    for (int task = 0; task < TASKS; task++)
        wrong += c[task * APART + 2] != task + 1 || c[task * APART + 3] != task + 2;
    return wrong;
}

static int passed_on(void) {
    static int flag;
    int wrong = 0, together = 0;
#pragma omp parallel
    {
#pragma omp for nowait
        for (int i = 0; i < N; i++)
            b[i] = 7;
#pragma omp critical
        c[APART + 9]++;
    }
    for (int i = 0; i < N; i++)
        wrong += b[i] != 7;
#pragma omp parallel num_threads(2)
    {
        if (omp_get_num_threads() == 2 && omp_get_thread_num() == 0) {
            for (int i = 0; i < N; i++)
                a[i] = i + 9;
#pragma omp atomic write seq_cst
            flag = 1;
        } else if (omp_get_num_threads() == 2) {
            int seen = 0;
            while (!seen) {
#pragma omp atomic read seq_cst
                seen = flag;
            }
            for (int i = 0; i < N; i++)
                b[i] = a[i];
            together = 1;
        }
    }
    for (int i = 0; together && i < N; i++)
        wrong += b[i] != i + 9;
    return wrong;
}

int main(void) {
    a = malloc(N * sizeof *a), b = malloc(N * sizeof *b), c = calloc(TASKS * APART, sizeof *c);
    if (!a || !b || !c)
        return 1;
    int wrong[] = {loops_of_tasks(), teams(), nested(), sections(), tasks(), passed_on()};
    int all = 0;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        all += wrong[i];
    printf("constructs wrong %d: %d %d %d %d %d %d\n", all, wrong[0], wrong[1], wrong[2], wrong[3], wrong[4], wrong[5]);
    free(a), free(b), free(c);
    return all != 0;
}
