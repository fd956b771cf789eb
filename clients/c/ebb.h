/*
 * Ebb from C: objects of the node on this host, opened as files. C11 and the C library alone.
 *
 * What the calls mean, and what of POSIX holds, is in docs/files.md. In short: a file that is written is a private copy;
 * `ebb_fsync` and `ebb_close` publish all of it as one new version, atomically; who has the object open keeps what he
 * opened; a writer that dies, or calls `ebb_abort`, leaves nothing.
 *
 * The library asks the node over its Unix socket, in frames (packages/protocol): they are small and binary, so no parser
 * for HTTP or JSON is needed here, and what a connection has open ends with it. The bytes go through the node's own
 * files, by pread, pwrite and mmap; this process therefore needs the rights of the node's group. What lies in tier 2
 * alone is read through the socket; writing always needs the files.
 *
 * Errors. Calls return 0 or a count, or a negative EBB_E_…. `ebb_strerror` names it; `ebb_error_message` tells what
 * happened in the last call that failed in this thread.
 *
 * Threads. A connection may be used by any number of threads: its calls to the node are made one after the other. So
 * may a file: reads run beside each other, what changes it runs alone. Nobody may use a file while or after it is closed,
 * nor a connection while or after it is disconnected.
 *
 * fork(2). A child must not use its parent's connection or files (calls say EBB_E_REQUEST_INVALID); it connects anew.
 *
 * Calls wait for the node as long as the connection lives: there are no timeouts.
 *
 * The connection is not made anew when the node goes away: files that are open for reading can be read on where their
 * bytes are local, everything else says EBB_E_NODE_UNREACHABLE. Disconnect, connect, open again.
 */
#ifndef EBB_H
#define EBB_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct ebb ebb;
typedef struct ebb_file ebb_file;

/* Flags of ebb_open. */
#define EBB_READ 1u
#define EBB_WRITE 2u
/* Makes the object if there is none; it is seen by others from the first ebb_fsync, or the ebb_close. */
#define EBB_CREATE 4u
/* With EBB_CREATE: refuses when there is one, at the open and when it is published. */
#define EBB_EXCLUSIVE 8u
#define EBB_TRUNCATE 16u
/* Every write goes to the end of this file. */
#define EBB_APPEND 32u

/* Flags of ebb_rename. */
#define EBB_NO_REPLACE 1u
/* All objects whose key starts with the key that is given, in one step. */
#define EBB_PREFIX 2u

/* How durable: kept if the daemon dies; if the host reboots; if the host is gone for ever. */
typedef enum {
  EBB_MEMORY = 0,
  EBB_DISK = 1,
  EBB_REMOTE = 2,
  EBB_AS_BUCKET = 255 /* what the bucket promises */
} ebb_durability;

/* Codes of the node (docs/reference/errors.md), as negative numbers. Keep stable. */
enum {
  EBB_OK = 0,
  EBB_E_REQUEST_INVALID = -1,
  EBB_E_NAME_INVALID = -2,
  EBB_E_NOT_FOUND = -3,
  EBB_E_BUCKET_NOT_FOUND = -4,
  EBB_E_JOB_NOT_FOUND = -5,
  EBB_E_WRITE_NOT_FOUND = -6,
  EBB_E_LEASE_NOT_FOUND = -7,
  EBB_E_FILE_NOT_OPEN = -8,
  EBB_E_ALREADY_COMMITTED = -9,
  EBB_E_ALREADY_EXISTS = -10,
  EBB_E_PRECONDITION_FAILED = -11,
  EBB_E_RANGE_INVALID = -12,
  EBB_E_LENGTH_MISMATCH = -13,
  EBB_E_CHECKSUM_MISMATCH = -14,
  EBB_E_DATA_CORRUPT = -15,
  EBB_E_DATA_LOST = -16,
  EBB_E_TOO_LARGE = -17,
  EBB_E_QUOTA_EXCEEDED = -18,
  EBB_E_TIER_FULL = -19,
  EBB_E_BUSY = -20,
  EBB_E_DRAINING = -21,
  EBB_E_VERSION_UNSUPPORTED = -22,
  EBB_E_UNSUPPORTED = -23,
  EBB_E_IO_FAILED = -24,
  EBB_E_NODE_UNREACHABLE = -25,
  EBB_E_ABORTED = -26,
  EBB_E_INTERNAL = -27,
  EBB_E_DIRECTORY_NOT_EMPTY = -28,
  EBB_E_STARTING = -29,
  /* A code that this library does not know: see ebb_error_message. */
  EBB_E_OTHER = -1000
};

#define EBB_ETAG_BYTES 128

/* What was published. `version` is 0 when nothing was, because nothing had changed. */
typedef struct {
  uint64_t version;
  char etag[EBB_ETAG_BYTES];
  ebb_durability durability;
} ebb_published;

typedef struct {
  uint64_t size;
  uint64_t version; /* 0: there is none yet (a new file that was not published) */
  uint64_t created_ms;
  char etag[EBB_ETAG_BYTES];
  ebb_durability durability;
} ebb_info;

/* An entry of a listing, valid during the callback. */
typedef struct {
  const char *name; /* the whole key, or the common prefix */
  int is_prefix;    /* the rest is 0 */
  ebb_info info;
} ebb_entry;

typedef struct {
  const void *address;
  size_t length;
  int is_copy; /* 1: the range lies in several files, or in none that is local, so it was copied */
  /* Of the library. */
  void *base;
  size_t base_length;
  ebb_file *file;
} ebb_map;

/* `socket`: a path, or unix:///path. `job`: the open job this process works for, or NULL; it lives while connected. */
int ebb_connect(const char *socket, const char *job, ebb **connection);
/* Ends the connection, and with it what it has open: unpublished bytes are thrown away. Free the files by ebb_close before. */
void ebb_disconnect(ebb *connection);
/* 1 when this process sees the node's files: else it can only read, through the socket. */
int ebb_is_local(const ebb *connection);

/* `if_match`: the ETag the object must have, now and whenever the file is published; NULL: the last close wins. */
int ebb_open(ebb *connection, const char *bucket, const char *key, unsigned flags, const char *if_match,
             ebb_file **file);
/* Bytes read: fewer than `length` only at the end of the file, 0 beyond it. */
int64_t ebb_pread(ebb_file *file, void *target, size_t length, uint64_t offset);
/* `length`; all or an error. A gap before `offset` reads as zeros. With EBB_APPEND `offset` does not count. */
int64_t ebb_pwrite(ebb_file *file, const void *source, size_t length, uint64_t offset);
int ebb_ftruncate(ebb_file *file, uint64_t size);
/* Publishes what was written so far, at least this durable; the file goes on. `published` may be NULL. */
int ebb_fsync(ebb_file *file, ebb_durability durability, ebb_published *published);
int ebb_fstat(ebb_file *file, ebb_info *info);

/*
 * Maps a range of a file that is open for reading alone; `length` 0 means to its end, and a range beyond the end is cut.
 * The bytes stay as they are until ebb_munmap, whatever happens to the object, also after ebb_close.
 */
int ebb_mmap(ebb_file *file, uint64_t offset, size_t length, ebb_map *map);
void ebb_munmap(ebb_map *map);

/* Publishes what was written, and closes. The file is gone in any case; on an error nothing was published. */
int ebb_close(ebb_file *file);
/* The same, and tells what was published. */
int ebb_commit(ebb_file *file, ebb_published *published);
/* Closes, and throws away what was not published. */
int ebb_abort(ebb_file *file);

int ebb_stat(ebb *connection, const char *bucket, const char *key, ebb_info *info);
/*
 * Calls `each` for every key that starts with `prefix`, in byte order; with a delimiter ("/"), for every key and common
 * prefix one level below it. A value other than 0 ends the listing, and is returned. The callback may use the connection.
 */
int ebb_list(ebb *connection, const char *bucket, const char *prefix, const char *delimiter,
             int (*each)(void *context, const ebb_entry *entry), void *context);
/* Atomic, over a name that is there too, unless EBB_NO_REPLACE. */
int ebb_rename(ebb *connection, const char *from_bucket, const char *from_key, const char *to_bucket,
               const char *to_key, unsigned flags);
int ebb_unlink(ebb *connection, const char *bucket, const char *key);
/* A directory that is there while it is empty; its parents need not be. Rename it with EBB_PREFIX, both keys ending in "/". */
int ebb_mkdir(ebb *connection, const char *bucket, const char *path);
/* EBB_E_DIRECTORY_NOT_EMPTY while there are objects under it. */
int ebb_rmdir(ebb *connection, const char *bucket, const char *path);

/* The code's name, such as "not_found". */
const char *ebb_strerror(int code);
/* Of the last call that failed in this thread, with names and numbers. */
const char *ebb_error_message(void);

/* CRC32C, in hardware where there is SSE 4.2. `crc` is that of the bytes before; 0 at the beginning. */
uint32_t ebb_crc32c(uint32_t crc, const void *bytes, size_t length);

#ifdef __cplusplus
}
#endif
#endif
