/*
 * See ebb.h. From top to bottom: errors, checksum, numbers on the wire, messages, the connection, files, names.
 *
 * I1  Bytes are written only within the reservation, and never to a file that was published.
 * I2  A staged file may have been another's: what lies beyond the end of this one is cut off before it grows over it.
 * I3  The files of an earlier answer are closed before anything is read again after `fileStage`: they may be used by others.
 */
#define _GNU_SOURCE
#include "ebb.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

/* ---- errors ---------------------------------------------------------------------------------------------------- */

static const char *const CODE_NAMES[] = {
    "ok",
    "request_invalid",
    "name_invalid",
    "not_found",
    "bucket_not_found",
    "job_not_found",
    "write_not_found",
    "lease_not_found",
    "file_not_open",
    "already_committed",
    "already_exists",
    "precondition_failed",
    "range_invalid",
    "length_mismatch",
    "checksum_mismatch",
    "data_corrupt",
    "data_lost",
    "too_large",
    "quota_exceeded",
    "tier_full",
    "busy",
    "draining",
    "version_unsupported",
    "unsupported",
    "io_failed",
    "node_unreachable",
    "aborted",
    "internal",
    "directory_not_empty",
    "starting",
};
#define CODES ((int)(sizeof CODE_NAMES / sizeof CODE_NAMES[0]))
_Static_assert(sizeof CODE_NAMES / sizeof CODE_NAMES[0] == -EBB_E_STARTING + 1, "a name for every code");

static _Thread_local char last_message[1024];

const char *ebb_strerror(int code) {
  return code > 0 || -code >= CODES ? "other" : CODE_NAMES[-code];
}

const char *ebb_error_message(void) {
  return last_message;
}

__attribute__((format(printf, 2, 3))) static int fail(int code, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(last_message, sizeof last_message, format, arguments);
  va_end(arguments);
  return code;
}

static int fail_errno(const char *what) {
  int code = errno == ENOSPC || errno == EDQUOT ? EBB_E_TIER_FULL : errno == ENOMEM ? EBB_E_BUSY : EBB_E_IO_FAILED;
  return fail(code, "%s: %s", what, strerror(errno));
}

static int out_of_memory(void) {
  return fail(EBB_E_BUSY, "no memory left");
}

/* ---- CRC32C ---------------------------------------------------------------------------------------------------- */

static uint32_t crc_table[8][256];
static pthread_once_t crc_once = PTHREAD_ONCE_INIT;

static void make_crc_table(void) {
  for (uint32_t byte = 0; byte < 256; byte++) {
    uint32_t crc = byte;
    for (int bit = 0; bit < 8; bit++) crc = (crc >> 1) ^ (crc & 1 ? 0x82f63b78u : 0);
    crc_table[0][byte] = crc;
  }
  for (int slice = 1; slice < 8; slice++)
    for (uint32_t byte = 0; byte < 256; byte++) {
      uint32_t crc = crc_table[slice - 1][byte];
      crc_table[slice][byte] = (crc >> 8) ^ crc_table[0][crc & 0xff];
    }
}

static uint32_t crc32c_software(uint32_t crc, const uint8_t *at, size_t length) {
  pthread_once(&crc_once, make_crc_table);
  crc = ~crc;
  for (; length >= 8; at += 8, length -= 8) {
    crc ^= (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
    crc = crc_table[7][crc & 0xff] ^ crc_table[6][crc >> 8 & 0xff] ^ crc_table[5][crc >> 16 & 0xff] ^
          crc_table[4][crc >> 24] ^ crc_table[3][at[4]] ^ crc_table[2][at[5]] ^ crc_table[1][at[6]] ^
          crc_table[0][at[7]];
  }
  for (; length > 0; at++, length--) crc = (crc >> 8) ^ crc_table[0][(crc ^ *at) & 0xff];
  return ~crc;
}

#if defined(__x86_64__) && defined(__GNUC__)
#define HAS_HARDWARE_CRC 1
#include <nmmintrin.h>
__attribute__((target("sse4.2"))) static uint32_t crc32c_hardware(uint32_t crc, const uint8_t *at, size_t length) {
  uint64_t value = (uint32_t)~crc;
  for (; length >= 8; at += 8, length -= 8) {
    uint64_t word;
    memcpy(&word, at, sizeof word);
    value = _mm_crc32_u64(value, word);
  }
  for (; length > 0; at++, length--) value = _mm_crc32_u8((uint32_t)value, *at);
  return ~(uint32_t)value;
}
#endif

uint32_t ebb_crc32c(uint32_t crc, const void *bytes, size_t length) {
#ifdef HAS_HARDWARE_CRC
  if (__builtin_cpu_supports("sse4.2")) return crc32c_hardware(crc, bytes, length);
#endif
  return crc32c_software(crc, bytes, length);
}

/* ---- numbers and texts on the wire, little-endian --------------------------------------------------------------- */

/* A message being written. Once something failed, the rest is ignored, and `send_call` says so. */
struct writer {
  uint8_t *bytes;
  size_t length;
  size_t room;
  int failure;
};

static void put_raw(struct writer *to, const void *source, size_t length) {
  if (to->failure != 0) return;
  if (to->length + length > to->room) {
    size_t room = (to->length + length) * 2 + 128;
    uint8_t *grown = realloc(to->bytes, room);
    if (grown == NULL) {
      to->failure = out_of_memory();
      return;
    }
    to->bytes = grown;
    to->room = room;
  }
  if (length > 0) memcpy(to->bytes + to->length, source, length);
  to->length += length;
}

static void put_number(struct writer *to, uint64_t value, size_t bytes) {
  uint8_t raw[8];
  for (size_t i = 0; i < bytes; i++) raw[i] = (uint8_t)(value >> (8 * i));
  put_raw(to, raw, bytes);
}
static void put_u8(struct writer *to, unsigned value) {
  put_number(to, value, 1);
}
static void put_u16(struct writer *to, unsigned value) {
  put_number(to, value, 2);
}
static void put_u32(struct writer *to, uint32_t value) {
  put_number(to, value, 4);
}
/* Every implementation must be able to hold it: numbers stay below 2^53. */
static void put_u64(struct writer *to, uint64_t value) {
  if (value >> 53 != 0 && to->failure == 0)
    to->failure = fail(EBB_E_REQUEST_INVALID, "a number beyond 2^53: %llu", (unsigned long long)value);
  put_number(to, value, 8);
}
static void put_text(struct writer *to, const char *text) {
  size_t length = text == NULL ? 0 : strlen(text);
  if (length > 0xffff && to->failure == 0)
    to->failure = fail(EBB_E_NAME_INVALID, "a text of %zu bytes, at most 65535", length);
  put_u16(to, (unsigned)length);
  put_raw(to, text, length);
}

/* A message being read. Beyond its end everything is 0 and `failed` is set. */
struct reader {
  const uint8_t *at;
  const uint8_t *end;
  int failed;
};

static const uint8_t *take(struct reader *from, size_t length) {
  if (from->failed || (size_t)(from->end - from->at) < length) {
    from->failed = 1;
    return NULL;
  }
  const uint8_t *at = from->at;
  from->at += length;
  return at;
}
static uint64_t get_number(struct reader *from, size_t bytes) {
  const uint8_t *raw = take(from, bytes);
  uint64_t value = 0;
  for (size_t i = bytes; raw != NULL && i > 0; i--) value = value << 8 | raw[i - 1];
  return value;
}
static unsigned get_u8(struct reader *from) {
  return (unsigned)get_number(from, 1);
}
static uint32_t get_u32(struct reader *from) {
  return (uint32_t)get_number(from, 4);
}
static uint64_t get_u64(struct reader *from) {
  return get_number(from, 8);
}
/* Into a buffer, with a NUL at its end. A text that does not fit fails. */
static void get_text(struct reader *from, char *target, size_t room) {
  size_t length = (size_t)get_number(from, 2);
  const uint8_t *raw = take(from, length);
  if (raw == NULL || length >= room) {
    from->failed = 1;
    length = 0;
  }
  if (length > 0) memcpy(target, raw, length);
  target[length] = '\0';
}
static int is_read(const struct reader *from) {
  return !from->failed && from->at == from->end;
}

/* ---- messages (packages/protocol/src/messages.ts; its vectors are the test) --------------------------------------- */

#define PROTOCOL_VERSION 1
#define FRAME_HEADER_BYTES 12
#define FRAME_PAYLOAD_BYTES_MAX (16u * 1024 * 1024 + 64 * 1024)
#define FRAME_FLAG_ERROR 1
#define READ_BYTES_MAX (8u * 1024 * 1024)
#define LIST_PAGE 1000
#define PATH_BYTES 1024
/* A key has up to 1024 bytes. */
#define NAME_BYTES 1280

enum {
  OP_HELLO = 1,
  OP_PROVE_HOST = 3,
  OP_READ = 17,
  OP_FILE_OPEN = 40,
  OP_FILE_STAGE = 41,
  OP_FILE_SYNC = 42,
  OP_FILE_CLOSE = 43,
  OP_FILE_ABORT = 44,
  OP_DIRECTORY_MAKE = 54,
  OP_DIRECTORY_REMOVE = 55,
  OP_HEAD = 60,
  OP_LIST_OBJECTS = 61,
  OP_DELETE_OBJECT = 62,
  OP_RENAME = 64,
  OP_RENAME_PREFIX = 65,
};

struct hello {
  unsigned version;
  char node_id[256];
  uint64_t instance_id;
  char directories[2][PATH_BYTES];
  char unused[2][256]; /* always empty */
};
static void put_hello(struct writer *to, const char *client, const char *job) {
  put_u16(to, PROTOCOL_VERSION);
  put_text(to, client);
  put_text(to, job);
}
static void get_hello(struct reader *from, struct hello *m) {
  m->version = (unsigned)get_number(from, 2);
  get_text(from, m->node_id, sizeof m->node_id);
  m->instance_id = get_u64(from);
  for (int tier = 0; tier < 2; tier++) get_text(from, m->directories[tier], sizeof m->directories[tier]);
  for (int i = 0; i < 2; i++) get_text(from, m->unused[i], sizeof m->unused[i]);
}

static void put_prove_host(struct writer *to, const char *challenge) {
  put_text(to, challenge);
}

struct extent {
  unsigned tier;
  uint64_t blob_id;
  char path[64];
  uint64_t offset;
  uint64_t length;
  int fd; /* -1: not open here */
};
struct opened {
  uint64_t file_id;
  int exists;
  uint64_t version;
  char etag[EBB_ETAG_BYTES];
  uint64_t size;
  struct extent *extents;
  size_t extents_count;
};
static void put_open(struct writer *to, const char *bucket, const char *key, unsigned flags, const char *if_match,
                     const char *job) {
  put_text(to, bucket);
  put_text(to, key);
  put_u32(to, flags);
  put_text(to, if_match);
  put_text(to, job);
}
/* `extents` is the caller's to free, also after a failure. */
static void get_opened(struct reader *from, struct opened *m) {
  m->file_id = get_u64(from);
  m->exists = get_u8(from) != 0;
  m->version = get_u64(from);
  get_text(from, m->etag, sizeof m->etag);
  m->size = get_u64(from);
  m->extents_count = get_u32(from);
  m->extents = NULL;
  /* Each takes 27 bytes at least: a count beyond that is no reason to allocate. */
  if (from->failed || m->extents_count > (size_t)(from->end - from->at) / 27) {
    from->failed = from->failed || m->extents_count > 0;
    m->extents_count = 0;
  }
  if (m->extents_count == 0) return;
  m->extents = calloc(m->extents_count, sizeof *m->extents);
  if (m->extents == NULL) {
    from->failed = 1;
    m->extents_count = 0;
    return;
  }
  for (size_t i = 0; i < m->extents_count; i++) {
    struct extent *extent = &m->extents[i];
    extent->fd = -1;
    extent->tier = get_u8(from);
    extent->blob_id = get_u64(from);
    get_text(from, extent->path, sizeof extent->path);
    extent->offset = get_u64(from);
    extent->length = get_u64(from);
    if (extent->tier > 2) from->failed = 1;
  }
}

struct staged {
  uint64_t write_id;
  uint64_t blob_id;
  unsigned tier;
  char path[64];
  uint64_t reserved;
  uint64_t slot_id;
};
static void put_stage(struct writer *to, uint64_t file_id, uint64_t reserve, uint64_t keep) {
  put_u64(to, file_id);
  put_u64(to, reserve);
  put_u64(to, keep);
}
static void get_staged(struct reader *from, struct staged *m) {
  m->write_id = get_u64(from);
  m->blob_id = get_u64(from);
  m->tier = get_u8(from);
  get_text(from, m->path, sizeof m->path);
  m->reserved = get_u64(from);
  m->slot_id = get_u64(from);
  if (m->tier > 1) from->failed = 1;
}

static void put_sync(struct writer *to, uint64_t file_id, uint64_t size, const uint32_t *crc32c, unsigned durability) {
  put_u64(to, file_id);
  put_u64(to, size);
  put_u8(to, crc32c != NULL);
  put_u32(to, crc32c == NULL ? 0 : *crc32c);
  put_u8(to, durability);
}
static ebb_durability get_durability(struct reader *from) {
  unsigned level = get_u8(from);
  if (level > EBB_REMOTE) from->failed = 1;
  return from->failed ? EBB_MEMORY : (ebb_durability)level;
}
static void get_published(struct reader *from, ebb_published *m) {
  int is_published = get_u8(from) != 0;
  m->version = get_u64(from);
  get_text(from, m->etag, sizeof m->etag);
  m->durability = get_durability(from);
  if (!is_published) m->version = 0;
}

static void put_read(struct writer *to, uint64_t blob_id, uint64_t offset, uint32_t length) {
  put_u32(to, 1);
  put_u64(to, blob_id);
  put_u64(to, offset);
  put_u32(to, length);
}

static void get_row(struct reader *from, char *key, size_t room, ebb_info *m) {
  get_text(from, key, room);
  m->version = get_u64(from);
  m->size = get_u64(from);
  get_text(from, m->etag, sizeof m->etag);
  take(from, 1 + 4); /* whether there is a CRC32C, and it */
  m->created_ms = get_u64(from);
  m->durability = get_durability(from);
}
static void put_list(struct writer *to, const char *bucket, const char *prefix, const char *delimiter,
                     const char *start_after, uint32_t limit) {
  put_text(to, bucket);
  put_text(to, prefix);
  put_text(to, delimiter);
  put_text(to, start_after);
  put_u32(to, limit);
}
/* Where to go on: '' at the end. */
static void get_next(struct reader *from, char *next, size_t room) {
  int has_next = get_u8(from) != 0;
  get_text(from, next, room);
  if (!has_next) next[0] = '\0';
}
static void put_delete(struct writer *to, const char *bucket, const char *key, const char *if_match) {
  put_text(to, bucket);
  put_text(to, key);
  put_text(to, if_match);
}
static int get_deleted(struct reader *from) {
  return get_u8(from) != 0;
}
static void put_rename(struct writer *to, const char *const names[4], int overwrite) {
  for (int i = 0; i < 4; i++) put_text(to, names[i]);
  put_u8(to, overwrite != 0);
}

/* ---- the connection ----------------------------------------------------------------------------------------------- */

struct ebb {
  int fd;
  pid_t owner;
  pthread_mutex_t lock;
  uint32_t last_id;
  int is_broken;
  int sees_files;
  char directories[2][PATH_BYTES];
  uid_t owners[2]; /* of the proofs in them */
  char job[256];
};

/* The payload of an answer, to be freed. */
struct reply {
  uint8_t *bytes;
  size_t length;
};
static struct reader read_reply(const struct reply *reply) {
  return (struct reader){reply->bytes, reply->bytes + reply->length, 0};
}
static int bad_answer(void) {
  return fail(EBB_E_VERSION_UNSUPPORTED, "the node's answer has another form than this library knows");
}

static int code_of(const char *name) {
  for (int i = 1; i < CODES; i++)
    if (strcmp(name, CODE_NAMES[i]) == 0) return -i;
  return EBB_E_OTHER;
}

static int fail_as_node_says(struct reader from) {
  char code[64];
  char message[4100];
  get_text(&from, code, sizeof code);
  get_text(&from, message, sizeof message);
  return from.failed ? bad_answer() : fail(code_of(code), "%s: %s", code, message);
}

static int went_away(ebb *connection, const char *what) {
  connection->is_broken = 1;
  return fail(EBB_E_NODE_UNREACHABLE, "%s: %s", what, errno == 0 ? "the node closed the connection" : strerror(errno));
}

static int send_all(int fd, const uint8_t *at, size_t length) {
  while (length > 0) {
    ssize_t sent = send(fd, at, length, MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent <= 0) return -1;
    at += sent;
    length -= (size_t)sent;
  }
  return 0;
}

static int receive_all(int fd, uint8_t *at, size_t length) {
  while (length > 0) {
    ssize_t got = recv(fd, at, length, 0);
    if (got < 0 && errno == EINTR) continue;
    if (got == 0) errno = 0;
    if (got <= 0) return -1;
    at += got;
    length -= (size_t)got;
  }
  return 0;
}

/* One frame. On success its payload is the caller's to free. */
static int receive_frame(ebb *connection, uint32_t *id, unsigned *flags, struct reply *reply) {
  uint8_t header[FRAME_HEADER_BYTES];
  if (receive_all(connection->fd, header, sizeof header) != 0) return went_away(connection, "waiting for an answer");
  struct reader from = {header, header + sizeof header, 0};
  reply->length = get_u32(&from);
  *id = get_u32(&from);
  get_number(&from, 2); /* the op, which the id implies */
  *flags = (unsigned)get_number(&from, 2);
  if (reply->length > FRAME_PAYLOAD_BYTES_MAX) {
    connection->is_broken = 1;
    return bad_answer();
  }
  reply->bytes = malloc(reply->length + 1);
  if (reply->bytes == NULL) {
    connection->is_broken = 1; /* the payload stays in the socket */
    return out_of_memory();
  }
  if (receive_all(connection->fd, reply->bytes, reply->length) == 0) return 0;
  free(reply->bytes);
  return went_away(connection, "reading an answer");
}

static int exchange(ebb *connection, unsigned op, const struct writer *request, struct reply *reply) {
  uint32_t id = ++connection->last_id;
  if (id == 0) id = ++connection->last_id; /* 0 is the node's own */
  struct writer header = {0};
  uint8_t room[FRAME_HEADER_BYTES];
  header.bytes = room;
  header.room = sizeof room;
  put_u32(&header, (uint32_t)request->length);
  put_u32(&header, id);
  put_u16(&header, op);
  put_u16(&header, 0);
  if (send_all(connection->fd, room, sizeof room) != 0 ||
      send_all(connection->fd, request->bytes, request->length) != 0)
    return went_away(connection, "sending a request");
  for (;;) {
    uint32_t answered = 0;
    unsigned flags = 0;
    int code = receive_frame(connection, &answered, &flags, reply);
    if (code != 0) return code;
    int is_error = (flags & FRAME_FLAG_ERROR) != 0;
    if (answered == id && !is_error) return 0;
    if (is_error) code = fail_as_node_says(read_reply(reply));
    free(reply->bytes);
    if (answered == id) return code;
    /* What the node says by itself, such as that it is stopping, needs no answer. An error of this kind is its last word. */
    if (answered != 0 || is_error) {
      connection->is_broken = 1;
      return is_error ? code : bad_answer();
    }
  }
}

/* Sends the request, which is freed, and waits for its answer. */
static int call(ebb *connection, unsigned op, struct writer *request, struct reply *reply) {
  int code = request->failure;
  if (code == 0 && connection->owner != getpid())
    code = fail(EBB_E_REQUEST_INVALID, "this connection is of the parent process: connect anew after fork");
  if (code == 0) {
    pthread_mutex_lock(&connection->lock);
    code = connection->is_broken ? fail(EBB_E_NODE_UNREACHABLE, "the connection to the node has ended")
                                 : exchange(connection, op, request, reply);
    pthread_mutex_unlock(&connection->lock);
  }
  free(request->bytes);
  return code;
}

/* For calls of which only the outcome counts: what more the answer says is not read. */
static int call_plain(ebb *connection, unsigned op, struct writer *request) {
  struct reply reply;
  int code = call(connection, op, request, &reply);
  if (code == 0) free(reply.bytes);
  return code;
}

static int connect_socket(const char *path, int *fd) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  if (strlen(path) >= sizeof address.sun_path)
    return fail(EBB_E_REQUEST_INVALID, "the path of a socket has at most %zu bytes", sizeof address.sun_path - 1);
  strcpy(address.sun_path, path);
  *fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (*fd < 0) return fail_errno("socket");
  int connected;
  do connected = connect(*fd, (struct sockaddr *)&address, sizeof address);
  while (connected != 0 && errno == EINTR);
  if (connected == 0) return 0;
  int code = fail(EBB_E_NODE_UNREACHABLE, "no node at %s: %s", path, strerror(errno));
  close(*fd);
  return code;
}

/* HTTP once: the answer is a head without a body, or a refusal that names its code in a header. */
static int upgrade(ebb *connection) {
  static const char request[] = "GET /v1/frames HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n"
                                "Upgrade: ebb-frames/1\r\n\r\n";
  if (send_all(connection->fd, (const uint8_t *)request, sizeof request - 1) != 0)
    return went_away(connection, "connecting");
  char head[8192];
  size_t length = 0;
  do {
    if (length + 1 == sizeof head) return bad_answer();
    if (receive_all(connection->fd, (uint8_t *)head + length, 1) != 0) return went_away(connection, "connecting");
    head[++length] = '\0';
  } while (length < 4 || strcmp(head + length - 4, "\r\n\r\n") != 0);
  if (strncmp(head, "HTTP/1.1 101 ", 13) == 0) return 0;
  char name[64] = "";
  const char *code = strcasestr(head, "\r\nx-ebb-error-code: ");
  if (code != NULL) sscanf(code + 20, "%63[a-z_]", name);
  return fail(code == NULL ? EBB_E_UNSUPPORTED : code_of(name), "the node refused the connection: %.12s %s", head, name);
}

/* It shares the host with the node when a file named after a secret of its own appears in both directories: a node on
 * another host cannot make one here. What follows is believed of that file's owner alone. */
static int prove_host(ebb *connection) {
  for (int tier = 0; tier < 2; tier++)
    if (connection->directories[tier][0] != '/') return 0;
  uint8_t secret[16];
  if (getrandom(secret, sizeof secret, 0) != (ssize_t)sizeof secret) return 0;
  char challenge[2 * sizeof secret + 1];
  for (size_t i = 0; i < sizeof secret; i++) snprintf(challenge + 2 * i, 3, "%02x", secret[i]);
  struct writer request = {0};
  put_prove_host(&request, challenge);
  struct reply reply;
  int code = call(connection, OP_PROVE_HOST, &request, &reply);
  if (code == EBB_E_UNSUPPORTED) return 0; /* a node that cannot: bytes go through the connection */
  if (code != 0) return code;
  free(reply.bytes);
  for (int tier = 0; tier < 2; tier++) {
    char path[PATH_BYTES + 64];
    struct stat proof;
    snprintf(path, sizeof path, "%s/.ebb-here-%s", connection->directories[tier], challenge);
    if (lstat(path, &proof) != 0 || !S_ISREG(proof.st_mode)) return 0;
    if (access(connection->directories[tier], R_OK | X_OK) != 0) return 0;
    connection->owners[tier] = proof.st_uid;
  }
  connection->sees_files = 1;
  return 0;
}

static int greet(ebb *connection) {
  char client[64];
  snprintf(client, sizeof client, "ebb-c/0.1.0 pid-%ld", (long)getpid());
  struct writer request = {0};
  put_hello(&request, client, connection->job);
  struct reply reply;
  int code = call(connection, OP_HELLO, &request, &reply);
  if (code != 0) return code;
  struct hello hello;
  struct reader from = read_reply(&reply);
  get_hello(&from, &hello);
  free(reply.bytes);
  if (!is_read(&from)) return bad_answer();
  memcpy(connection->directories, hello.directories, sizeof hello.directories);
  return prove_host(connection);
}

int ebb_connect(const char *socket_path, const char *job, ebb **connection) {
  *connection = NULL;
  if (job != NULL && strlen(job) >= sizeof(*connection)->job)
    return fail(EBB_E_NAME_INVALID, "a job id has at most 128 characters");
  if (strncmp(socket_path, "unix://", 7) == 0) socket_path += 7;
  ebb *made = calloc(1, sizeof *made);
  if (made == NULL) return out_of_memory();
  made->owner = getpid();
  snprintf(made->job, sizeof made->job, "%s", job == NULL ? "" : job);
  int code = connect_socket(socket_path, &made->fd);
  if (code != 0) {
    free(made);
    return code;
  }
  pthread_mutex_init(&made->lock, NULL);
  code = upgrade(made);
  if (code == 0) code = greet(made);
  if (code == 0) *connection = made;
  else ebb_disconnect(made);
  return code;
}

void ebb_disconnect(ebb *connection) {
  if (connection == NULL) return;
  close(connection->fd);
  pthread_mutex_destroy(&connection->lock);
  free(connection);
}

int ebb_is_local(const ebb *connection) {
  return connection->sees_files;
}

/* ---- files -------------------------------------------------------------------------------------------------------- */

/* Extents whose descriptors are opened at once: they keep the version. More are opened when they are read. */
#define EAGER_EXTENTS_MAX 64

struct ebb_file {
  ebb *connection;
  unsigned flags;
  pthread_rwlock_t lock;
  /* The version it shows, while it has no file of its own. */
  struct opened opened;
  /* Its own file: -1 before the first write. */
  int fd;
  int is_writable; /* 0 again once it was published (I1) */
  unsigned tier;
  char path[64];
  uint64_t reserved;
  uint64_t size;
  int is_dirty;
  /* CRC32C of the first bytes, as long as they come in order. */
  uint32_t crc32c;
  uint64_t crc_bytes; /* UINT64_MAX: not known */
  int maps;
  int is_closed;
};

/* "b/", the low byte of a blob's id, "/", the id: what nodes call the files of blobs. */
static int is_blob_path(const char *path) {
  static const char hex[] = "0123456789abcdef";
  if (path[0] != 'b' || path[1] != '/' || strspn(path + 2, hex) != 2 || path[4] != '/') return 0;
  size_t digits = strspn(path + 5, hex);
  return digits >= 1 && digits <= 16 && path[5 + digits] == '\0';
}

/* A file of the node and nothing else: no link is followed on the way below the node's directory, and it is a plain file of
 * the owner of the proof. -1 and errno otherwise. */
static int open_node_file(const ebb *connection, unsigned tier, const char *path, int flags) {
  if (tier > 1 || !is_blob_path(path)) {
    errno = EPERM;
    return -1;
  }
  char name[64];
  snprintf(name, sizeof name, "%s", path);
  int at = open(connection->directories[tier], O_PATH | O_DIRECTORY | O_CLOEXEC);
  char *rest = name;
  for (char *slash; at >= 0 && (slash = strchr(rest, '/')) != NULL; rest = slash + 1) {
    *slash = '\0';
    int below = openat(at, rest, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    close(at);
    at = below;
  }
  if (at < 0) return -1;
  int fd = openat(at, rest, flags | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
  close(at);
  struct stat found;
  if (fd >= 0 && (fstat(fd, &found) != 0 || !S_ISREG(found.st_mode) || found.st_uid != connection->owners[tier])) {
    close(fd);
    errno = EPERM;
    return -1;
  }
  return fd;
}

/* -1 when it is not to be had here: then the node reads it. */
static int open_extent(const ebb *connection, const struct extent *extent) {
  if (extent->tier == 2 || extent->path[0] == '\0' || !connection->sees_files) return -1;
  return open_node_file(connection, extent->tier, extent->path, O_RDONLY);
}

static void close_extents(ebb_file *file) {
  for (size_t i = 0; i < file->opened.extents_count; i++) {
    struct extent *extent = &file->opened.extents[i];
    if (extent->fd >= 0) close(extent->fd);
    extent->fd = -1;
  }
}

static void close_own(ebb_file *file) {
  if (file->fd >= 0) close(file->fd);
  file->fd = -1;
  file->is_writable = 0;
}

static void free_file(ebb_file *file) {
  close_own(file);
  close_extents(file);
  free(file->opened.extents);
  pthread_rwlock_destroy(&file->lock);
  free(file);
}

static int abort_file(ebb *connection, uint64_t file_id) {
  struct writer request = {0};
  put_u64(&request, file_id);
  return call_plain(connection, OP_FILE_ABORT, &request);
}

int ebb_open(ebb *connection, const char *bucket, const char *key, unsigned flags, const char *if_match,
             ebb_file **file) {
  *file = NULL;
  struct writer request = {0};
  put_open(&request, bucket, key, flags, if_match, connection->job);
  struct reply reply;
  int code = call(connection, OP_FILE_OPEN, &request, &reply);
  if (code != 0) return code;
  struct opened opened;
  struct reader from = read_reply(&reply);
  get_opened(&from, &opened);
  free(reply.bytes);
  ebb_file *made = is_read(&from) ? calloc(1, sizeof *made) : NULL;
  if (made == NULL) {
    free(opened.extents);
    abort_file(connection, opened.file_id);
    return is_read(&from) ? out_of_memory() : bad_answer();
  }
  made->connection = connection;
  made->flags = flags;
  pthread_rwlock_init(&made->lock, NULL);
  made->opened = opened;
  made->fd = -1;
  made->size = opened.size;
  made->is_dirty = !opened.exists || (flags & EBB_TRUNCATE) != 0;
  made->crc_bytes = opened.size == 0 ? 0 : UINT64_MAX;
  for (size_t i = 0; i < opened.extents_count && i < EAGER_EXTENTS_MAX; i++)
    opened.extents[i].fd = open_extent(connection, &opened.extents[i]);
  *file = made;
  return 0;
}

static int needs_mode(const ebb_file *file, unsigned mode) {
  if ((file->flags & mode) != 0) return 0;
  return fail(EBB_E_REQUEST_INVALID, "the file is not open for %s", mode == EBB_READ ? "reading" : "writing");
}

static int read_fd(int fd, uint8_t *target, size_t length, uint64_t offset) {
  while (length > 0) {
    ssize_t got = pread(fd, target, length, (off_t)offset);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return fail_errno("reading a file of the node");
    if (got == 0) return fail(EBB_E_DATA_CORRUPT, "a file of the node ends too early");
    target += got;
    length -= (size_t)got;
    offset += (uint64_t)got;
  }
  return 0;
}

static int read_through_node(ebb *connection, uint64_t blob_id, uint8_t *target, size_t length, uint64_t offset) {
  while (length > 0) {
    uint32_t part = length < READ_BYTES_MAX ? (uint32_t)length : READ_BYTES_MAX;
    struct writer request = {0};
    put_read(&request, blob_id, offset, part);
    struct reply reply;
    int code = call(connection, OP_READ, &request, &reply);
    if (code != 0) return code;
    struct reader from = read_reply(&reply);
    uint32_t came = get_u32(&from);
    const uint8_t *bytes = take(&from, came);
    if (!is_read(&from) || came != part) code = bad_answer();
    else memcpy(target, bytes, part);
    free(reply.bytes);
    if (code != 0) return code;
    target += part;
    length -= part;
    offset += part;
  }
  return 0;
}

static int read_extent(ebb *connection, const struct extent *extent, uint8_t *target, size_t length, uint64_t within) {
  int fd = extent->fd >= 0 ? extent->fd : open_extent(connection, extent);
  if (fd < 0) return read_through_node(connection, extent->blob_id, target, length, extent->offset + within);
  int code = read_fd(fd, target, length, extent->offset + within);
  if (fd != extent->fd) close(fd);
  return code;
}

/* A range that lies within the file. */
static int read_range(ebb_file *file, uint8_t *target, size_t length, uint64_t offset) {
  if (file->fd >= 0) return read_fd(file->fd, target, length, offset);
  uint64_t start = 0;
  for (size_t i = 0; i < file->opened.extents_count && length > 0; i++) {
    const struct extent *extent = &file->opened.extents[i];
    if (offset < start + extent->length) {
      uint64_t within = offset - start;
      size_t part = extent->length - within < length ? (size_t)(extent->length - within) : length;
      int code = read_extent(file->connection, extent, target, part, within);
      if (code != 0) return code;
      target += part;
      length -= part;
      offset += part;
    }
    start += extent->length;
  }
  return length == 0 ? 0 : bad_answer();
}

int64_t ebb_pread(ebb_file *file, void *target, size_t length, uint64_t offset) {
  int code = needs_mode(file, EBB_READ);
  if (code != 0) return code;
  pthread_rwlock_rdlock(&file->lock);
  if (offset >= file->size) length = 0;
  else if (length > file->size - offset) length = (size_t)(file->size - offset);
  if (length > 0) code = read_range(file, target, length, offset);
  pthread_rwlock_unlock(&file->lock);
  return code != 0 ? code : (int64_t)length;
}

/* A file of its own to write in, with room for this much; alone. */
static int stage(ebb_file *file, uint64_t need) {
  if (file->is_writable && need <= file->reserved) return 0;
  ebb *connection = file->connection;
  if (!connection->sees_files)
    return fail(EBB_E_UNSUPPORTED, "the node's directories are not seen here, or its group's rights are missing");
  struct writer request = {0};
  put_stage(&request, file->opened.file_id, need > file->size ? need : file->size, file->size);
  struct reply reply;
  int code = call(connection, OP_FILE_STAGE, &request, &reply);
  if (code != 0) return code;
  struct staged staged;
  struct reader from = read_reply(&reply);
  get_staged(&from, &staged);
  free(reply.bytes);
  if (!is_read(&from)) return bad_answer();
  if (!file->is_writable || staged.tier != file->tier || strcmp(staged.path, file->path) != 0) {
    int fd = open_node_file(connection, staged.tier, staged.path, O_RDWR);
    if (fd < 0) code = fail_errno("opening a staged file");
    close_extents(file); /* I3 */
    close_own(file);
    if (code != 0) return code;
    file->fd = fd;
    file->tier = staged.tier;
    memcpy(file->path, staged.path, sizeof file->path);
  }
  file->is_writable = 1;
  file->reserved = staged.reserved;
  return 0;
}

/* Zeros from the end of the file on (I2); alone, and with the room. */
static int grow_to(ebb_file *file, uint64_t size) {
  if (ftruncate(file->fd, (off_t)file->size) != 0 || ftruncate(file->fd, (off_t)size) != 0)
    return fail_errno("growing a staged file");
  file->size = size;
  file->is_dirty = 1;
  return 0;
}

static int write_fd(int fd, const uint8_t *source, size_t length, uint64_t offset) {
  while (length > 0) {
    ssize_t done = pwrite(fd, source, length, (off_t)offset);
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) return fail_errno("writing a staged file");
    source += done;
    length -= (size_t)done;
    offset += (uint64_t)done;
  }
  return 0;
}

static void note_crc(ebb_file *file, const void *source, size_t length, uint64_t offset) {
  if (offset == file->crc_bytes) {
    file->crc32c = ebb_crc32c(file->crc32c, source, length);
    file->crc_bytes += length;
  } else if (offset < file->crc_bytes)
    file->crc_bytes = UINT64_MAX;
}

static int write_range(ebb_file *file, const void *source, size_t length, uint64_t offset) {
  int code = stage(file, offset + length);
  if (code == 0 && offset > file->size) code = grow_to(file, offset);
  if (code != 0) return code;
  code = write_fd(file->fd, source, length, offset);
  if (code != 0) {
    file->crc_bytes = UINT64_MAX; /* some of it may be there */
    return code;
  }
  note_crc(file, source, length, offset);
  if (offset + length > file->size) file->size = offset + length;
  file->is_dirty = 1;
  return 0;
}

int64_t ebb_pwrite(ebb_file *file, const void *source, size_t length, uint64_t offset) {
  int code = needs_mode(file, EBB_WRITE);
  if (code != 0) return code;
  if (length > INT64_MAX || offset > (1ull << 53) - 1 - (length & INT64_MAX))
    return fail(EBB_E_TOO_LARGE, "a file ends before 2^53");
  pthread_rwlock_wrlock(&file->lock);
  if ((file->flags & EBB_APPEND) != 0) offset = file->size;
  if (length > 0) code = write_range(file, source, length, offset);
  pthread_rwlock_unlock(&file->lock);
  return code != 0 ? code : (int64_t)length;
}

static int resize(ebb_file *file, uint64_t size) {
  int code = 0;
  if (size == file->size) return 0;
  if (size > file->size) {
    code = stage(file, size);
    if (code == 0) code = grow_to(file, size);
  } else if (file->is_writable && ftruncate(file->fd, (off_t)size) != 0)
    code = fail_errno("cutting a staged file");
  if (code != 0) return code;
  if (size == 0) file->crc32c = 0, file->crc_bytes = 0;
  else if (size < file->crc_bytes) file->crc_bytes = UINT64_MAX;
  file->size = size;
  file->is_dirty = 1;
  return 0;
}

int ebb_ftruncate(ebb_file *file, uint64_t size) {
  int code = needs_mode(file, EBB_WRITE);
  if (code != 0) return code;
  pthread_rwlock_wrlock(&file->lock);
  code = resize(file, size);
  pthread_rwlock_unlock(&file->lock);
  return code;
}

static int publish(ebb_file *file, unsigned op, ebb_durability durability, ebb_published *published) {
  struct writer request = {0};
  int is_known = file->is_dirty && file->crc_bytes == file->size;
  put_sync(&request, file->opened.file_id, file->size, is_known ? &file->crc32c : NULL, (unsigned)durability);
  struct reply reply;
  int code = call(file->connection, op, &request, &reply);
  if (code != 0) return code;
  ebb_published answer;
  struct reader from = read_reply(&reply);
  get_published(&from, &answer);
  free(reply.bytes);
  if (!is_read(&from)) return bad_answer();
  if (published != NULL) *published = answer;
  if (answer.version != 0) {
    file->opened.version = answer.version;
    memcpy(file->opened.etag, answer.etag, sizeof answer.etag);
  }
  return 0;
}

int ebb_fsync(ebb_file *file, ebb_durability durability, ebb_published *published) {
  pthread_rwlock_wrlock(&file->lock);
  /* With a file of its own, so that it can be read on from what is published. */
  int code = file->is_dirty && file->size > 0 ? stage(file, file->size) : 0;
  if (code == 0) code = publish(file, OP_FILE_SYNC, durability, published);
  if (code == 0) {
    file->is_writable = 0;
    file->is_dirty = 0;
  }
  pthread_rwlock_unlock(&file->lock);
  return code;
}

int ebb_fstat(ebb_file *file, ebb_info *info) {
  memset(info, 0, sizeof *info);
  pthread_rwlock_rdlock(&file->lock);
  info->size = file->size;
  info->version = file->opened.version;
  memcpy(info->etag, file->opened.etag, sizeof info->etag);
  pthread_rwlock_unlock(&file->lock);
  return 0;
}

/* Closes for good; nobody else uses the file any more. */
static int finish(ebb_file *file, ebb_published *published) {
  close_own(file);
  close_extents(file);
  int code = publish(file, OP_FILE_CLOSE, EBB_AS_BUCKET, published);
  free_file(file);
  return code;
}

int ebb_commit(ebb_file *file, ebb_published *published) {
  if (published != NULL) memset(published, 0, sizeof *published);
  pthread_rwlock_wrlock(&file->lock);
  int is_mapped = file->maps > 0;
  if (is_mapped) file->is_closed = 1; /* read-only, so nothing is left to publish: the last ebb_munmap closes */
  pthread_rwlock_unlock(&file->lock);
  return is_mapped ? 0 : finish(file, published);
}

int ebb_close(ebb_file *file) {
  return ebb_commit(file, NULL);
}

int ebb_abort(ebb_file *file) {
  if ((file->flags & EBB_WRITE) == 0) return ebb_close(file);
  ebb *connection = file->connection;
  uint64_t file_id = file->opened.file_id;
  free_file(file);
  return abort_file(connection, file_id);
}

/* ---- mappings ----------------------------------------------------------------------------------------------------- */

static int map_extent(const struct extent *extent, uint64_t within, size_t length, ebb_map *map) {
  uint64_t start = extent->offset + within;
  uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
  size_t before = (size_t)(start % page);
  void *base = mmap(NULL, before + length, PROT_READ, MAP_SHARED, extent->fd, (off_t)(start - before));
  if (base == MAP_FAILED) return fail_errno("mapping a file of the node");
  map->base = base;
  map->base_length = before + length;
  map->address = (const uint8_t *)base + before;
  return 0;
}

static int map_copy(ebb_file *file, uint64_t offset, size_t length, ebb_map *map) {
  void *base = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (base == MAP_FAILED) return fail_errno("mapping memory");
  int code = read_range(file, base, length, offset);
  if (code != 0) {
    munmap(base, length);
    return code;
  }
  mprotect(base, length, PROT_READ);
  map->base = base;
  map->base_length = length;
  map->address = base;
  map->is_copy = 1;
  return 0;
}

static int map_range(ebb_file *file, uint64_t offset, size_t length, ebb_map *map) {
  if (offset >= file->size)
    return fail(EBB_E_RANGE_INVALID, "offset %llu of a file of %llu bytes", (unsigned long long)offset,
                (unsigned long long)file->size);
  if (length == 0 || length > file->size - offset) {
    if (file->size - offset > SIZE_MAX) return fail(EBB_E_TOO_LARGE, "more than this process can map");
    length = (size_t)(file->size - offset);
  }
  map->length = length;
  uint64_t start = 0;
  for (size_t i = 0; i < file->opened.extents_count; i++) {
    const struct extent *extent = &file->opened.extents[i];
    uint64_t end = start + extent->length;
    if (offset >= start && offset < end)
      return offset + length <= end && extent->fd >= 0 ? map_extent(extent, offset - start, length, map)
                                                       : map_copy(file, offset, length, map);
    start = end;
  }
  return bad_answer();
}

int ebb_mmap(ebb_file *file, uint64_t offset, size_t length, ebb_map *map) {
  memset(map, 0, sizeof *map);
  int code = needs_mode(file, EBB_READ);
  if (code == 0 && (file->flags & EBB_WRITE) != 0)
    code = fail(EBB_E_REQUEST_INVALID, "only a file that is open for reading alone can be mapped");
  if (code != 0) return code;
  pthread_rwlock_wrlock(&file->lock);
  code = map_range(file, offset, length, map);
  if (code == 0) {
    map->file = file;
    file->maps++;
  }
  pthread_rwlock_unlock(&file->lock);
  return code;
}

void ebb_munmap(ebb_map *map) {
  ebb_file *file = map->file;
  if (file == NULL) return;
  munmap(map->base, map->base_length);
  memset(map, 0, sizeof *map);
  pthread_rwlock_wrlock(&file->lock);
  file->maps--;
  int is_last = file->maps == 0 && file->is_closed;
  pthread_rwlock_unlock(&file->lock);
  if (is_last) finish(file, NULL);
}

/* ---- names -------------------------------------------------------------------------------------------------------- */

int ebb_stat(ebb *connection, const char *bucket, const char *key, ebb_info *info) {
  struct writer request = {0};
  put_text(&request, bucket);
  put_text(&request, key);
  struct reply reply;
  int code = call(connection, OP_HEAD, &request, &reply);
  if (code != 0) return code;
  char name[NAME_BYTES];
  struct reader from = read_reply(&reply);
  get_row(&from, name, sizeof name, info);
  free(reply.bytes);
  return is_read(&from) ? 0 : bad_answer();
}

/* Objects and prefixes of one page come apart, each in order: merges them. */
static int list_page(struct reader from, char *next, int (*each)(void *, const ebb_entry *), void *context) {
  uint32_t objects = get_u32(&from);
  struct reader prefixes = from;
  char name[NAME_BYTES];
  char prefix[NAME_BYTES];
  ebb_entry entry = {.name = name};
  for (uint32_t i = 0; i < objects && !prefixes.failed; i++) get_row(&prefixes, name, sizeof name, &entry.info);
  uint32_t prefixes_left = get_u32(&prefixes);
  struct reader end = prefixes;
  for (uint32_t i = 0; i < prefixes_left && !end.failed; i++) get_text(&end, prefix, sizeof prefix);
  get_next(&end, next, NAME_BYTES);
  if (!is_read(&end)) return bad_answer();

  uint32_t objects_left = objects;
  if (objects_left > 0) get_row(&from, name, sizeof name, &entry.info);
  if (prefixes_left > 0) get_text(&prefixes, prefix, sizeof prefix);
  while (objects_left > 0 || prefixes_left > 0) {
    int is_prefix = objects_left == 0 || (prefixes_left > 0 && strcmp(prefix, name) < 0);
    const ebb_entry shown = is_prefix ? (ebb_entry){.name = prefix, .is_prefix = 1} : entry;
    int stop = each(context, &shown);
    if (stop != 0) return stop;
    if (is_prefix) {
      if (--prefixes_left > 0) get_text(&prefixes, prefix, sizeof prefix);
    } else if (--objects_left > 0)
      get_row(&from, name, sizeof name, &entry.info);
  }
  return 0;
}

int ebb_list(ebb *connection, const char *bucket, const char *prefix, const char *delimiter,
             int (*each)(void *context, const ebb_entry *entry), void *context) {
  char next[NAME_BYTES] = "";
  do {
    struct writer request = {0};
    put_list(&request, bucket, prefix, delimiter, next, LIST_PAGE);
    struct reply reply;
    int code = call(connection, OP_LIST_OBJECTS, &request, &reply);
    if (code != 0) return code;
    code = list_page(read_reply(&reply), next, each, context);
    free(reply.bytes);
    if (code != 0) return code;
  } while (next[0] != '\0');
  return 0;
}

int ebb_rename(ebb *connection, const char *from_bucket, const char *from_key, const char *to_bucket,
               const char *to_key, unsigned flags) {
  const char *const names[4] = {from_bucket, from_key, to_bucket, to_key};
  struct writer request = {0};
  put_rename(&request, names, (flags & EBB_NO_REPLACE) == 0);
  return call_plain(connection, (flags & EBB_PREFIX) != 0 ? OP_RENAME_PREFIX : OP_RENAME, &request);
}

int ebb_unlink(ebb *connection, const char *bucket, const char *key) {
  struct writer request = {0};
  put_delete(&request, bucket, key, "");
  struct reply reply;
  int code = call(connection, OP_DELETE_OBJECT, &request, &reply);
  if (code != 0) return code;
  struct reader from = read_reply(&reply);
  int is_deleted = get_deleted(&from);
  free(reply.bytes);
  if (!is_read(&from)) return bad_answer();
  return is_deleted ? 0 : fail(EBB_E_NOT_FOUND, "not_found: no object %s/%s", bucket, key);
}

static int call_directory(ebb *connection, unsigned op, const char *bucket, const char *path) {
  struct writer request = {0};
  put_text(&request, bucket);
  put_text(&request, path);
  return call_plain(connection, op, &request);
}

int ebb_mkdir(ebb *connection, const char *bucket, const char *path) {
  return call_directory(connection, OP_DIRECTORY_MAKE, bucket, path);
}

int ebb_rmdir(ebb *connection, const char *bucket, const char *path) {
  return call_directory(connection, OP_DIRECTORY_REMOVE, bucket, path);
}
