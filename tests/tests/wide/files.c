/* files: a file that is read straight into relaxed memory of several ranks, which devices do not reach, and then by way of ordinary memory. Its own program is
 * the file. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "vincs_guest.h"

enum { BYTES = 12288 };

int main(int count, char **arguments) {
    vincs_relaxed *relaxed;
    void *memory;
    static char read_first[BYTES];
    int file = open(arguments[count - 1], O_RDONLY);
    if (file < 0 || vincs_relaxed_open(&relaxed) != VINCS_STATUS_OK ||
        vincs_relaxed_allocate(relaxed, BYTES, &memory) != VINCS_STATUS_OK) {
        fprintf(stderr, "files: %s, %s\n", vincs_error(), strerror(errno));
        return 1;
    }
    int straight = pread(file, memory, BYTES, 0) < 0 ? errno : 0;
    int written = pwrite(open("written", O_CREAT | O_WRONLY | O_TRUNC, 0600), memory, BYTES, 0) < 0 ? errno : 0;
    ssize_t by_way = pread(file, read_first, BYTES, 0);
    memcpy(memory, read_first, BYTES);
    printf("files: %s, %s; %zd bytes, %s\n", strerror(straight), strerror(written), by_way,
           memcmp(memory, "\177ELF", 4) == 0 ? "right" : "wrong");
    return 0;
}
