/*
 * A disk with faults: preloaded into a program under test (LD_PRELOAD), it looks at every sync and
 * every write of files below $DISK_UNDER, and does with it what the file $DISK_CONTROL says:
 *
 *   eio          syncs fail with EIO
 *   eio-db       only those of files named *.db
 *   erofs        writes fail with EROFS
 *   sleep N      syncs take N milliseconds longer
 *
 * Anything else, or no such file: a disk that works.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

enum fault { NONE, EIO_ALL, EIO_DB, EROFS_ALL, SLEEP };

static enum fault control(int *milliseconds) {
    const char *path = getenv("DISK_CONTROL");
    char text[64] = {0};
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0)
        return NONE;
    ssize_t length = read(fd, text, sizeof text - 1);
    close(fd);
    if (length <= 0)
        return NONE;
    if (strncmp(text, "eio-db", 6) == 0)
        return EIO_DB;
    if (strncmp(text, "eio", 3) == 0)
        return EIO_ALL;
    if (strncmp(text, "erofs", 5) == 0)
        return EROFS_ALL;
    if (sscanf(text, "sleep %d", milliseconds) == 1)
        return SLEEP;
    return NONE;
}

/* The name of an open file, if it is one of those that are looked at. */
static int is_watched(int fd, char *name) {
    const char *under = getenv("DISK_UNDER");
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, name, PATH_MAX - 1);
    if (!under || length < 0)
        return 0;
    name[length] = 0;
    return strncmp(name, under, strlen(under)) == 0;
}

static int sync_fails(int fd) {
    char name[PATH_MAX];
    int milliseconds = 0;
    if (!is_watched(fd, name))
        return 0;
    size_t length = strlen(name);
    int is_db = length > 3 && strcmp(name + length - 3, ".db") == 0;
    enum fault fault = control(&milliseconds);
    if (fault == SLEEP) {
        struct timespec pause = {milliseconds / 1000, milliseconds % 1000 * 1000000L};
        nanosleep(&pause, NULL);
    }
    return fault == EIO_ALL || (fault == EIO_DB && is_db);
}

static int write_fails(int fd) {
    char name[PATH_MAX];
    int milliseconds = 0;
    return is_watched(fd, name) && control(&milliseconds) == EROFS_ALL;
}

#define REAL(name, type) ((type)dlsym(RTLD_NEXT, #name))

int fsync(int fd) {
    if (sync_fails(fd)) {
        errno = EIO;
        return -1;
    }
    return REAL(fsync, int (*)(int))(fd);
}

int fdatasync(int fd) {
    if (sync_fails(fd)) {
        errno = EIO;
        return -1;
    }
    return REAL(fdatasync, int (*)(int))(fd);
}

ssize_t write(int fd, const void *bytes, size_t count) {
    if (write_fails(fd)) {
        errno = EROFS;
        return -1;
    }
    return REAL(write, ssize_t (*)(int, const void *, size_t))(fd, bytes, count);
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t offset) {
    if (write_fails(fd)) {
        errno = EROFS;
        return -1;
    }
    return REAL(pwrite64, ssize_t (*)(int, const void *, size_t, off64_t))(fd, bytes, count, offset);
}

ssize_t pwrite(int fd, const void *bytes, size_t count, off_t offset) {
    return pwrite64(fd, bytes, count, offset);
}
