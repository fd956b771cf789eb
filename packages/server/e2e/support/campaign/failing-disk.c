/*
 * A preload library that makes reads, writes, syncs and looks (stat, access) of chosen files fail. What fails, and how often, stands in a page that
 * it shares with whoever tests (FAILING_DISK_PAGE names its file; failing-disk.ts writes it).
 *
 * Fault model: a call fails whole, with the errno that was chosen, and has no effect. It writes nothing wrong and nothing by
 * half, and a sync that failed once may succeed the next time, as on Linux. Or a call hangs until the fault is over, and is
 * made then, as on a network file system whose server is away.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { READS = 1, WRITES = 2, SYNCS = 4, LOOKS = 8 };

struct faults {
  uint32_t calls;      /* which kinds fail; 0: none */
  uint32_t one_in;     /* every how-manieth of them */
  uint32_t error;      /* errno; 0: the call hangs */
  uint32_t counted;    /* calls of the kinds on the paths, so far */
  uint32_t failed;     /* of them */
  char path[236];      /* a part of the file's path */
};

static volatile struct faults *faults;

__attribute__((constructor)) static void map_faults(void) {
  const char *name = getenv("FAILING_DISK_PAGE");
  int fd = name == NULL ? -1 : open(name, O_RDWR | O_CLOEXEC);
  if (fd < 0) return;
  void *page = mmap(NULL, sizeof(struct faults), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (page != MAP_FAILED) faults = page;
  close(fd);
}

static int fails_at(const char *path, uint32_t call) {
  if (faults == NULL || (faults->calls & call) == 0 || path == NULL) return 0;
  if (strstr(path, (const char *)faults->path) == NULL) return 0;
  uint32_t count = __atomic_add_fetch(&faults->counted, 1, __ATOMIC_RELAXED);
  if (faults->one_in == 0 || count % faults->one_in != 0) return 0;
  __atomic_add_fetch(&faults->failed, 1, __ATOMIC_RELAXED);
  if (faults->error == 0) {
    while ((faults->calls & call) != 0) usleep(10000);
    return 0;
  }
  errno = (int)faults->error;
  return 1;
}

static int fails(int fd, uint32_t call) {
  if (faults == NULL || (faults->calls & call) == 0) return 0;
  char link[64], path[4096];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(link, path, sizeof path - 1);
  if (length <= 0) return 0;
  path[length] = '\0';
  return fails_at(path, call);
}

#define REAL(name) \
  static __typeof__(&name) real; \
  if (real == NULL) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

#define FAILING(kind, type, name, parameters, arguments) \
  type name parameters { \
    REAL(name); \
    if (fails(fd, kind)) return -1; \
    return real arguments; \
  }

FAILING(WRITES, ssize_t, write, (int fd, const void *from, size_t length), (fd, from, length))
FAILING(WRITES, ssize_t, pwrite, (int fd, const void *from, size_t length, off_t at), (fd, from, length, at))
FAILING(WRITES, ssize_t, pwrite64, (int fd, const void *from, size_t length, off64_t at), (fd, from, length, at))
FAILING(WRITES, ssize_t, writev, (int fd, const struct iovec *from, int count), (fd, from, count))
FAILING(WRITES, ssize_t, pwritev, (int fd, const struct iovec *from, int count, off_t at), (fd, from, count, at))
FAILING(WRITES, ssize_t, pwritev64, (int fd, const struct iovec *from, int count, off64_t at), (fd, from, count, at))
FAILING(READS, ssize_t, pread, (int fd, void *to, size_t length, off_t at), (fd, to, length, at))
FAILING(READS, ssize_t, pread64, (int fd, void *to, size_t length, off64_t at), (fd, to, length, at))
FAILING(READS, ssize_t, preadv, (int fd, const struct iovec *to, int count, off_t at), (fd, to, count, at))
FAILING(READS, ssize_t, preadv64, (int fd, const struct iovec *to, int count, off64_t at), (fd, to, count, at))
FAILING(SYNCS, int, fsync, (int fd), (fd))
FAILING(SYNCS, int, fdatasync, (int fd), (fd))

int statx(int at, const char *restrict path, int flags, unsigned mask, struct statx *restrict to) {
  REAL(statx);
  if (fails_at(path, LOOKS)) return -1;
  return real(at, path, flags, mask, to);
}

int access(const char *path, int mode) {
  REAL(access);
  if (fails_at(path, LOOKS)) return -1;
  return real(path, mode);
}

/* libuv makes some of its calls so, statx among them. */
long syscall(long number, ...) {
  REAL(syscall);
  va_list given;
  va_start(given, number);
  long values[6];
  for (int i = 0; i < 6; i++) values[i] = va_arg(given, long);
  va_end(given);
  if (number == SYS_statx && fails_at((const char *)values[1], LOOKS)) return -1;
  return real(number, values[0], values[1], values[2], values[3], values[4], values[5]);
}
