/*
 * The tests of the C library, as a program of subcommands; packages/server/e2e/c-client.test.ts runs them against a real
 * daemon. Includes the library's source, so that the messages can be held against the protocol's vectors.
 */
#include "../ebb.c"

#include <sys/wait.h>

static const char *socket_path;
static const char *bucket;

#define CHECK(condition)                                                                                           \
  do {                                                                                                             \
    if (!(condition)) {                                                                                            \
      fprintf(stderr, "%s:%d: not so: %s (last error: %s)\n", __FILE__, __LINE__, #condition, last_message);        \
      exit(1);                                                                                                     \
    }                                                                                                              \
  } while (0)
#define CHECK_CODE(call, code)                                                                                     \
  do {                                                                                                             \
    long long got_ = (long long)(call);                                                                            \
    if (got_ != (code)) {                                                                                          \
      fprintf(stderr, "%s:%d: %s gave %lld (%s: %s), not %lld\n", __FILE__, __LINE__, #call, got_,                   \
              got_ < 0 ? ebb_strerror((int)got_) : "", last_message, (long long)(code));                            \
      exit(1);                                                                                                     \
    }                                                                                                              \
  } while (0)
#define OK(call) CHECK_CODE(call, 0)

static uint64_t random_state;
static uint64_t random_below(uint64_t limit) {
  random_state ^= random_state << 13;
  random_state ^= random_state >> 7;
  random_state ^= random_state << 17;
  return random_state % limit;
}

static uint8_t *make_bytes(size_t length, unsigned seed) {
  uint8_t *bytes = malloc(length + 1);
  CHECK(bytes != NULL);
  for (size_t i = 0; i < length; i++) bytes[i] = (uint8_t)(seed * 97 + i * 31 + (i >> 8) + (i >> 16));
  return bytes;
}

static ebb *open_connection(void) {
  ebb *connection;
  OK(ebb_connect(socket_path, NULL, &connection));
  return connection;
}

static void put(ebb *c, const char *key, const void *bytes, size_t length) {
  ebb_file *file;
  OK(ebb_open(c, bucket, key, EBB_WRITE | EBB_CREATE | EBB_TRUNCATE, NULL, &file));
  CHECK_CODE(ebb_pwrite(file, bytes, length, 0), (long long)length);
  OK(ebb_close(file));
}

static void expect_object(ebb *c, const char *key, const void *bytes, size_t length) {
  ebb_file *file;
  OK(ebb_open(c, bucket, key, EBB_READ, NULL, &file));
  uint8_t *target = malloc(length + 16);
  CHECK_CODE(ebb_pread(file, target, length + 16, 0), (long long)length);
  CHECK(length == 0 || memcmp(target, bytes, length) == 0);
  free(target);
  OK(ebb_close(file));
}

/* ---- checksum and messages ------------------------------------------------------------------------------------------ */

static void test_checksum(void) {
  CHECK(ebb_crc32c(0, "123456789", 9) == 0xe3069283u);
  CHECK(crc32c_software(0, (const uint8_t *)"123456789", 9) == 0xe3069283u);
  uint8_t *bytes = make_bytes(100000, 7);
  for (int run = 0; run < 200; run++) {
    size_t at = random_below(1000), length = random_below(99000), cut = length == 0 ? 0 : random_below(length);
    uint32_t whole = crc32c_software(0, bytes + at, length);
    CHECK(ebb_crc32c(0, bytes + at, length) == whole);
    CHECK(ebb_crc32c(ebb_crc32c(0, bytes + at, cut), bytes + at + cut, length - cut) == whole);
  }
  free(bytes);
}

static void show(const struct writer *message) {
  for (size_t i = 0; i < message->length; i++) printf("%02x", message->bytes[i]);
  printf("\n");
}

static int print_entry(void *context, const ebb_entry *entry) {
  if (!*(const int *)context) return 0;
  if (entry->is_prefix) printf("%s*\t", entry->name);
  else printf("%s=%llu\t", entry->name, (unsigned long long)entry->info.size);
  return 0;
}

/* Lines `name field field …`, tab-separated, for what is sent, and `name hex` for what comes: answers in the same order. */
static void test_vectors(void) {
  static char line[65536];
  while (fgets(line, sizeof line, stdin) != NULL) {
    line[strcspn(line, "\n")] = '\0';
    char *field[8] = {0};
    char *rest = line;
    for (int i = 0; i < 8 && rest != NULL; i++) field[i] = strsep(&rest, "\t");
    const char *name = field[0];
    struct writer to = {0};
    if (strcmp(name, "hello.request") == 0) put_hello(&to, field[1], field[2]);
    else if (strcmp(name, "proveHost.request") == 0) put_prove_host(&to, field[1]);
    else if (strcmp(name, "fileOpen.request") == 0)
      put_open(&to, field[1], field[2], (unsigned)atol(field[3]), field[4], field[5]);
    else if (strcmp(name, "fileStage.request") == 0)
      put_stage(&to, strtoull(field[1], NULL, 10), strtoull(field[2], NULL, 10), strtoull(field[3], NULL, 10));
    else if (strcmp(name, "fileSync.request") == 0 || strcmp(name, "fileClose.request") == 0) {
      uint32_t crc = (uint32_t)strtoul(field[3], NULL, 10);
      put_sync(&to, strtoull(field[1], NULL, 10), strtoull(field[2], NULL, 10), field[3][0] == '\0' ? NULL : &crc,
               (unsigned)atoi(field[4]));
    } else if (strcmp(name, "fileAbort.request") == 0) put_u64(&to, strtoull(field[1], NULL, 10));
    else if (strcmp(name, "head.request") == 0 || strncmp(name, "directory", 9) == 0) {
      put_text(&to, field[1]);
      put_text(&to, field[2]);
    } else if (strcmp(name, "listObjects.request") == 0)
      put_list(&to, field[1], field[2], field[3], field[4], (uint32_t)atol(field[5]));
    else if (strcmp(name, "rename.request") == 0 || strcmp(name, "renamePrefix.request") == 0) {
      const char *const names[4] = {field[1], field[2], field[3], field[4]};
      put_rename(&to, names, atoi(field[5]));
    } else if (strcmp(name, "deleteObject.request") == 0)
      put_delete(&to, field[1], field[2], field[3]);
    else {
      size_t length = strlen(field[1]) / 2;
      uint8_t *raw = malloc(length + 1); /* of just this size, so that a sanitizer sees a read beyond it */
      for (size_t i = 0; i < length; i++) {
        unsigned byte;
        sscanf(field[1] + 2 * i, "%2x", &byte);
        raw[i] = (uint8_t)byte;
      }
      /* Cut anywhere, it is refused and reads nothing beyond. */
      for (size_t end = 0; end <= length; end++) {
        struct reader from = {raw, raw + end, 0};
        int last = end == length;
        char text[NAME_BYTES];
        if (strcmp(name, "hello.response") == 0) {
          struct hello m;
          get_hello(&from, &m);
          if (last)
            printf("%u\t%s\t%llu\t%s\t%s\t%s\t%s", m.version, m.node_id, (unsigned long long)m.instance_id,
                   m.directories[0], m.directories[1], m.unused[0], m.unused[1]);
        } else if (strcmp(name, "fileOpen.response") == 0) {
          struct opened m;
          get_opened(&from, &m);
          if (last) {
            printf("%llu\t%d\t%llu\t%s\t%llu", (unsigned long long)m.file_id, m.exists, (unsigned long long)m.version,
                   m.etag, (unsigned long long)m.size);
            for (size_t i = 0; i < m.extents_count; i++)
              printf("\t%u\t%llu\t%s\t%llu\t%llu", m.extents[i].tier, (unsigned long long)m.extents[i].blob_id,
                     m.extents[i].path, (unsigned long long)m.extents[i].offset,
                     (unsigned long long)m.extents[i].length);
          }
          free(m.extents);
        } else if (strcmp(name, "fileStage.response") == 0) {
          struct staged m;
          get_staged(&from, &m);
          if (last)
            printf("%llu\t%llu\t%u\t%s\t%llu\t%llu", (unsigned long long)m.write_id, (unsigned long long)m.blob_id,
                   m.tier, m.path, (unsigned long long)m.reserved, (unsigned long long)m.slot_id);
        } else if (strcmp(name, "fileSync.response") == 0 || strcmp(name, "fileClose.response") == 0) {
          ebb_published m;
          get_published(&from, &m);
          if (last) printf("%llu\t%s\t%d", (unsigned long long)m.version, m.etag, (int)m.durability);
        } else if (strcmp(name, "head.response") == 0) {
          ebb_info m;
          get_row(&from, text, sizeof text, &m);
          if (last)
            printf("%s\t%llu\t%llu\t%s\t%llu\t%d", text, (unsigned long long)m.version, (unsigned long long)m.size,
                   m.etag, (unsigned long long)m.created_ms, (int)m.durability);
        } else if (strcmp(name, "deleteObject.response") == 0) {
          int is_deleted = get_deleted(&from);
          if (last) printf("%d", is_deleted);
        } else if (strcmp(name, "listObjects.response") == 0) {
          int code = list_page(from, text, print_entry, &last);
          CHECK(code == (last ? 0 : EBB_E_VERSION_UNSUPPORTED));
          if (last) printf("%s", text);
          continue;
        } else CHECK(!"a message that the test knows");
        CHECK(is_read(&from) == last);
      }
      printf("\n");
      free(raw);
      continue;
    }
    CHECK(to.failure == 0);
    show(&to);
    free(to.bytes);
  }
}

/* ---- one process ----------------------------------------------------------------------------------------------------- */

static void test_sizes(ebb *c) {
  static const size_t sizes[] = {0, 1, 4095, 4096, 100000, 1 << 20, (3 << 20) + 77};
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
    uint8_t *bytes = make_bytes(sizes[i], (unsigned)i);
    put(c, "c/sizes", bytes, sizes[i]);
    expect_object(c, "c/sizes", bytes, sizes[i]);
    free(bytes);
  }
}

static void test_ends(ebb *c) {
  uint8_t bytes[3] = {1, 2, 0xff}, target[8];
  put(c, "c/ends", bytes, 3);
  ebb_file *file;
  OK(ebb_open(c, bucket, "c/ends", EBB_READ, NULL, &file));
  CHECK_CODE(ebb_pread(file, target, 1, 2), 1);
  CHECK(target[0] == 0xff);
  CHECK_CODE(ebb_pread(file, target, 8, 1), 2);
  CHECK_CODE(ebb_pread(file, target, 8, 3), 0);
  CHECK_CODE(ebb_pread(file, target, 8, UINT64_MAX), 0);
  CHECK_CODE(ebb_pread(file, target, 0, 0), 0);
  ebb_map map;
  CHECK_CODE(ebb_mmap(file, 3, 1, &map), EBB_E_RANGE_INVALID);
  OK(ebb_mmap(file, 2, 100, &map));
  CHECK(map.length == 1 && !map.is_copy && *(const uint8_t *)map.address == 0xff);
  ebb_munmap(&map);
  OK(ebb_close(file));
}

static void test_modes(ebb *c) {
  char byte = 'x';
  ebb_file *file;
  CHECK_CODE(ebb_open(c, bucket, "c/none", EBB_READ, NULL, &file), EBB_E_NOT_FOUND);
  CHECK(file == NULL && strstr(ebb_error_message(), "c/none") != NULL);
  CHECK_CODE(ebb_open(c, "no-such-bucket", "k", EBB_READ, NULL, &file), EBB_E_BUCKET_NOT_FOUND);
  CHECK_CODE(ebb_open(c, bucket, "a/../b", EBB_WRITE | EBB_CREATE, NULL, &file), EBB_E_NAME_INVALID);
  CHECK_CODE(ebb_open(c, bucket, "k", EBB_READ | EBB_TRUNCATE, NULL, &file), EBB_E_REQUEST_INVALID);
  CHECK_CODE(ebb_open(c, bucket, "k", EBB_READ | 1024u, NULL, &file), EBB_E_UNSUPPORTED);
  put(c, "c/mode", "x", 1);
  OK(ebb_open(c, bucket, "c/mode", EBB_READ, NULL, &file));
  CHECK_CODE(ebb_pwrite(file, &byte, 1, 0), EBB_E_REQUEST_INVALID);
  CHECK_CODE(ebb_ftruncate(file, 0), EBB_E_REQUEST_INVALID);
  OK(ebb_close(file));
  OK(ebb_open(c, bucket, "c/mode", EBB_WRITE, NULL, &file));
  CHECK_CODE(ebb_pread(file, &byte, 1, 0), EBB_E_REQUEST_INVALID);
  ebb_map map;
  CHECK_CODE(ebb_mmap(file, 0, 1, &map), EBB_E_REQUEST_INVALID);
  CHECK_CODE(ebb_pwrite(file, &byte, 1, 1ull << 60), EBB_E_TOO_LARGE);
  CHECK_CODE(ebb_pwrite(file, &byte, 1, 1ull << 50), EBB_E_TOO_LARGE);
  OK(ebb_abort(file));
}

static void test_exclusive(ebb *c) {
  const unsigned flags = EBB_READ | EBB_WRITE | EBB_CREATE | EBB_EXCLUSIVE;
  ebb_file *first, *second;
  OK(ebb_open(c, bucket, "c/lock", flags, NULL, &first));
  OK(ebb_open(c, bucket, "c/lock", flags, NULL, &second));
  OK(ebb_fsync(first, EBB_MEMORY, NULL));
  CHECK_CODE(ebb_fsync(second, EBB_MEMORY, NULL), EBB_E_ALREADY_EXISTS);
  CHECK_CODE(ebb_close(second), EBB_E_ALREADY_EXISTS);
  OK(ebb_close(first));
  CHECK_CODE(ebb_open(c, bucket, "c/lock", flags, NULL, &first), EBB_E_ALREADY_EXISTS);
}

static void test_condition(ebb *c) {
  ebb_info info;
  ebb_file *file;
  put(c, "c/cond", "0", 1);
  OK(ebb_stat(c, bucket, "c/cond", &info));
  CHECK(info.size == 1 && info.version > 0 && info.created_ms > 0 && info.durability == EBB_MEMORY);
  OK(ebb_open(c, bucket, "c/cond", EBB_WRITE, info.etag, &file));
  CHECK_CODE(ebb_pwrite(file, "1", 1, 0), 1);
  OK(ebb_fsync(file, EBB_MEMORY, NULL)); /* its own version is the condition now */
  CHECK_CODE(ebb_pwrite(file, "2", 1, 0), 1);
  put(c, "c/cond", "x", 1);
  CHECK_CODE(ebb_close(file), EBB_E_PRECONDITION_FAILED);
  CHECK_CODE(ebb_open(c, bucket, "c/cond", EBB_WRITE, info.etag, &file), EBB_E_PRECONDITION_FAILED);
  expect_object(c, "c/cond", "x", 1);
}

static void test_append(ebb *c) {
  ebb_file *file;
  put(c, "c/log", "abc", 3);
  OK(ebb_open(c, bucket, "c/log", EBB_READ | EBB_WRITE | EBB_APPEND, NULL, &file));
  CHECK_CODE(ebb_pwrite(file, "de", 2, 0), 2);
  CHECK_CODE(ebb_pwrite(file, "f", 1, 0), 1);
  char target[8];
  CHECK_CODE(ebb_pread(file, target, 8, 0), 6);
  OK(ebb_close(file));
  expect_object(c, "c/log", "abcdef", 6);
}

static void test_abort(ebb *c) {
  ebb_file *file;
  put(c, "c/abort", "old", 3);
  OK(ebb_open(c, bucket, "c/abort", EBB_WRITE | EBB_TRUNCATE, NULL, &file));
  CHECK_CODE(ebb_pwrite(file, "new!", 4, 0), 4);
  OK(ebb_abort(file));
  expect_object(c, "c/abort", "old", 3);
}

/* The file against an array of bytes. */
static void test_random(ebb *c) {
  enum { ROOM = 600000 };
  uint8_t *model = calloc(1, ROOM), *target = malloc(ROOM);
  for (int run = 0; run < 20; run++) {
    size_t size = 0;
    ebb_file *file;
    char key[32];
    snprintf(key, sizeof key, "c/random-%d", run);
    memset(model, 0, ROOM);
    OK(ebb_open(c, bucket, key, EBB_READ | EBB_WRITE | EBB_CREATE, NULL, &file));
    for (int step = 0; step < 40; step++) {
      uint64_t dice = random_below(100), at = random_below(ROOM);
      if (dice < 45) {
        size_t length = random_below(ROOM - at) / 2 + 1;
        uint8_t *bytes = make_bytes(length, (unsigned)(run * 100 + step));
        CHECK_CODE(ebb_pwrite(file, bytes, length, at), (long long)length);
        memcpy(model + at, bytes, length);
        if (at + length > size) size = at + length;
        free(bytes);
      } else if (dice < 60) {
        OK(ebb_ftruncate(file, at));
        if (at < size) memset(model + at, 0, size - at);
        size = at;
      } else if (dice < 70) {
        OK(ebb_fsync(file, EBB_MEMORY, NULL));
        expect_object(c, key, model, size);
      } else if (dice < 80) {
        OK(ebb_close(file));
        OK(ebb_open(c, bucket, key, EBB_READ | EBB_WRITE, NULL, &file));
      } else {
        size_t length = random_below(ROOM), want = at >= size ? 0 : length < size - at ? length : size - at;
        CHECK_CODE(ebb_pread(file, target, length, at), (long long)want);
        CHECK(memcmp(target, model + at, want) == 0);
      }
      ebb_info info;
      OK(ebb_fstat(file, &info));
      CHECK(info.size == size);
    }
    OK(ebb_close(file));
    expect_object(c, key, model, size);
    OK(ebb_unlink(c, bucket, key));
  }
  free(model);
  free(target);
}

static void test_sync(ebb *c) {
  size_t length = 300000;
  uint8_t *bytes = make_bytes(length, 5), *target = malloc(length);
  ebb_file *file;
  ebb_published published;
  OK(ebb_open(c, bucket, "c/sync", EBB_READ | EBB_WRITE | EBB_CREATE, NULL, &file));
  CHECK_CODE(ebb_pwrite(file, bytes, length, 0), (long long)length);
  OK(ebb_fsync(file, EBB_DISK, &published));
  CHECK(published.durability == EBB_DISK && published.version > 0);
  ebb_info info;
  OK(ebb_stat(c, bucket, "c/sync", &info));
  CHECK(info.version == published.version && strcmp(info.etag, published.etag) == 0);
  /* It goes on with its own bytes, whatever happens to the name. */
  put(c, "c/sync", "other", 5);
  CHECK_CODE(ebb_pread(file, target, length, 0), (long long)length);
  CHECK(memcmp(target, bytes, length) == 0);
  OK(ebb_fsync(file, EBB_REMOTE, NULL)); /* nothing was changed */
  expect_object(c, "c/sync", "other", 5);
  CHECK_CODE(ebb_pwrite(file, "X", 1, 1000), 1);
  OK(ebb_commit(file, &published));
  bytes[1000] = 'X';
  expect_object(c, "c/sync", bytes, length);
  OK(ebb_open(c, bucket, "c/sync", EBB_READ, NULL, &file));
  OK(ebb_fsync(file, EBB_REMOTE, &published));
  CHECK(published.durability == EBB_REMOTE);
  OK(ebb_commit(file, &published));
  CHECK(published.version == 0);
  free(bytes);
  free(target);
}

static void test_old_version(ebb *c) {
  size_t length = 2 << 20;
  uint8_t *old = make_bytes(length, 1), *target = malloc(length);
  put(c, "c/old", old, length);
  ebb_file *file;
  ebb_map map, part;
  OK(ebb_open(c, bucket, "c/old", EBB_READ, NULL, &file));
  OK(ebb_mmap(file, 0, 0, &map));
  OK(ebb_mmap(file, 4097, 100000, &part));
  CHECK(map.length == length && !map.is_copy && part.length == 100000);
  for (unsigned run = 2; run < 12; run++) {
    uint8_t *bytes = make_bytes(length, run);
    put(c, "c/old", bytes, length);
    free(bytes);
  }
  OK(ebb_unlink(c, bucket, "c/old"));
  put(c, "c/other", target, length);
  CHECK_CODE(ebb_pread(file, target, length, 0), (long long)length);
  CHECK(memcmp(target, old, length) == 0 && memcmp(map.address, old, length) == 0);
  OK(ebb_close(file)); /* the maps stay */
  put(c, "c/other", target, length);
  CHECK(memcmp(map.address, old, length) == 0 && memcmp(part.address, old + 4097, 100000) == 0);
  ebb_munmap(&map);
  ebb_munmap(&part);
  ebb_munmap(&part); /* no effect */
  free(old);
  free(target);
}

static int count_entry(void *context, const ebb_entry *entry) {
  char *last = context;
  CHECK(strcmp(last, entry->name) < 0);
  strcpy(last, entry->name);
  CHECK(entry->is_prefix || entry->info.size == 1);
  return 0;
}
struct listing {
  char names[512];
  ebb *connection;
};
static int join_names(void *context, const ebb_entry *entry) {
  struct listing *listing = context;
  strcat(strcat(listing->names, entry->name), entry->is_prefix ? "* " : " ");
  ebb_info info;
  if (!entry->is_prefix) OK(ebb_stat(listing->connection, bucket, entry->name, &info));
  return strcmp(entry->name, "c/dir/stop") == 0 ? 77 : 0;
}
static int count_all(void *context, const ebb_entry *entry) {
  (void)entry;
  ++*(int *)context;
  return 0;
}

static void test_names(ebb *c) {
  char key[64], last[NAME_BYTES] = "";
  for (int i = 0; i < LIST_PAGE + 50; i++) {
    snprintf(key, sizeof key, "c/list/%05d", i);
    put(c, key, "x", 1);
  }
  OK(ebb_list(c, bucket, "c/list/", NULL, count_entry, last));
  CHECK(strcmp(last, "c/list/01049") == 0);
  int count = 0;
  OK(ebb_list(c, bucket, "c/list/0100", NULL, count_all, &count));
  CHECK(count == 10);

  static const char *const names[] = {"c/dir/a", "c/dir/b/1", "c/dir/b/2", "c/dir/b0", "c/dir/c/1", "c/dir/\xc3\xbc", "c/dirx"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) put(c, names[i], "x", 1);
  struct listing listing = {.connection = c};
  OK(ebb_list(c, bucket, "c/dir/", "/", join_names, &listing));
  CHECK(strcmp(listing.names, "c/dir/a c/dir/b/* c/dir/b0 c/dir/c/* c/dir/\xc3\xbc ") == 0);
  put(c, "c/dir/stop", "x", 1);
  CHECK_CODE(ebb_list(c, bucket, "c/dir/", "/", join_names, &listing), 77);
  count = 0;
  OK(ebb_list(c, bucket, "c/nothing/", "/", count_all, &count));
  CHECK(count == 0);
  CHECK_CODE(ebb_list(c, "no-such-bucket", "", NULL, count_all, &count), EBB_E_BUCKET_NOT_FOUND);

  put(c, "c/to", "old", 3);
  put(c, "c/from", "new!", 4);
  CHECK_CODE(ebb_rename(c, bucket, "c/from", bucket, "c/to", EBB_NO_REPLACE), EBB_E_ALREADY_EXISTS);
  OK(ebb_rename(c, bucket, "c/from", bucket, "c/to", 0));
  expect_object(c, "c/to", "new!", 4);
  ebb_info info;
  CHECK_CODE(ebb_stat(c, bucket, "c/from", &info), EBB_E_NOT_FOUND);
  OK(ebb_rename(c, bucket, "c/dir/", bucket, "c/moved/", EBB_PREFIX));
  expect_object(c, "c/moved/b/2", "x", 1);
  expect_object(c, "c/dirx", "x", 1);
  OK(ebb_mkdir(c, bucket, "c/empty"));
  CHECK_CODE(ebb_mkdir(c, bucket, "c/empty/"), EBB_E_ALREADY_EXISTS);
  OK(ebb_rename(c, bucket, "c/empty/", bucket, "c/emptied/", EBB_PREFIX));
  put(c, "c/emptied/x", "x", 1);
  CHECK_CODE(ebb_rmdir(c, bucket, "c/emptied"), EBB_E_DIRECTORY_NOT_EMPTY);
  OK(ebb_unlink(c, bucket, "c/emptied/x"));
  OK(ebb_rmdir(c, bucket, "c/emptied"));
  CHECK_CODE(ebb_rmdir(c, bucket, "c/emptied"), EBB_E_NOT_FOUND);
  OK(ebb_unlink(c, bucket, "c/to"));
  CHECK_CODE(ebb_unlink(c, bucket, "c/to"), EBB_E_NOT_FOUND);
}

/* Larger than tier 0 of the test's node: the file moves to tier 1 under the writer. */
static void test_large(ebb *c) {
  size_t length = 8 << 20;
  uint8_t *bytes = make_bytes(length, 3), *target = malloc(length);
  ebb_file *file;
  OK(ebb_open(c, bucket, "c/large", EBB_READ | EBB_WRITE | EBB_CREATE, NULL, &file));
  for (size_t i = 0; i < 12; i++) CHECK_CODE(ebb_pwrite(file, bytes, length, i * length), (long long)length);
  for (size_t i = 0; i < 12; i++) {
    CHECK_CODE(ebb_pread(file, target, length, i * length), (long long)length);
    CHECK(memcmp(target, bytes, length) == 0);
  }
  CHECK(file->tier == 1);
  OK(ebb_close(file));
  OK(ebb_unlink(c, bucket, "c/large"));
  free(bytes);
  free(target);
}

/* ---- many threads, many processes -------------------------------------------------------------------------------------- */

struct worker {
  ebb *connection;
  ebb_file *shared;
  unsigned number;
};
static void *work(void *argument) {
  struct worker *worker = argument;
  char key[32];
  uint8_t *bytes = make_bytes(200000, worker->number), *target = malloc(200000);
  for (int run = 0; run < 20; run++) {
    snprintf(key, sizeof key, "c/thread-%u-%d", worker->number, run);
    put(worker->connection, key, bytes, 200000);
    expect_object(worker->connection, key, bytes, 200000);
    /* Each its own part of one file. */
    uint64_t at = worker->number * 200000ull;
    CHECK_CODE(ebb_pwrite(worker->shared, bytes, 200000, at), 200000);
    CHECK_CODE(ebb_pread(worker->shared, target, 200000, at), 200000);
    CHECK(memcmp(target, bytes, 200000) == 0);
    if (run % 5 == (int)(worker->number % 5)) OK(ebb_fsync(worker->shared, EBB_MEMORY, NULL));
    ebb_file *file;
    CHECK_CODE(ebb_open(worker->connection, bucket, "c/none", EBB_READ, NULL, &file), EBB_E_NOT_FOUND);
    CHECK(strstr(ebb_error_message(), "c/none") != NULL);
  }
  free(bytes);
  free(target);
  return NULL;
}

static void test_threads(ebb *c) {
  enum { THREADS = 8 };
  struct worker workers[THREADS];
  pthread_t threads[THREADS];
  ebb_file *shared;
  OK(ebb_open(c, bucket, "c/shared", EBB_READ | EBB_WRITE | EBB_CREATE, NULL, &shared));
  for (unsigned i = 0; i < THREADS; i++) {
    workers[i] = (struct worker){c, shared, i};
    CHECK(pthread_create(&threads[i], NULL, work, &workers[i]) == 0);
  }
  for (unsigned i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
  OK(ebb_close(shared));
  ebb_file *file;
  ebb_map map;
  OK(ebb_open(c, bucket, "c/shared", EBB_READ, NULL, &file));
  OK(ebb_mmap(file, 0, 0, &map));
  CHECK(map.length == THREADS * 200000);
  for (unsigned i = 0; i < THREADS; i++) {
    uint8_t *bytes = make_bytes(200000, i);
    CHECK(memcmp((const uint8_t *)map.address + i * 200000, bytes, 200000) == 0);
    free(bytes);
  }
  ebb_munmap(&map);
  OK(ebb_close(file));
}

/* Each process maps the same object; the parent rewrites it meanwhile, and every child must see one version, whole. */
static void test_processes(ebb *c) {
  enum { PROCESSES = 8, LENGTH = 1 << 20 };
  uint8_t *bytes = malloc(LENGTH);
  memset(bytes, 1, LENGTH);
  put(c, "c/many", bytes, LENGTH);
  pid_t children[PROCESSES];
  for (int i = 0; i < PROCESSES; i++) {
    children[i] = fork();
    CHECK(children[i] >= 0);
    if (children[i] > 0) continue;
    ebb_info info;
    CHECK_CODE(ebb_stat(c, bucket, "c/many", &info), EBB_E_REQUEST_INVALID); /* the parent's connection */
    ebb *own = open_connection();
    for (int run = 0; run < 50; run++) {
      ebb_file *file;
      ebb_map map;
      OK(ebb_open(own, bucket, "c/many", EBB_READ, NULL, &file));
      OK(ebb_mmap(file, 0, 0, &map));
      const uint8_t *seen = map.address;
      CHECK(map.length == LENGTH && seen[0] > 0 && memcmp(seen, seen + 1, LENGTH - 1) == 0);
      ebb_munmap(&map);
      OK(ebb_close(file));
    }
    ebb_disconnect(own);
    _exit(0);
  }
  for (int run = 2; run < 100; run++) {
    memset(bytes, run, LENGTH);
    put(c, "c/many", bytes, LENGTH);
  }
  for (int i = 0; i < PROCESSES; i++) {
    int status;
    CHECK(waitpid(children[i], &status, 0) == children[i] && status == 0);
  }
  free(bytes);
}

/* ---- roles in tests that the other side leads ---------------------------------------------------------------------------- */

/* Writes, says so, and waits to be killed. */
static void hold_writer(ebb *c, const char *key) {
  ebb_file *file;
  uint8_t *bytes = make_bytes(5000000, 1);
  OK(ebb_open(c, bucket, key, EBB_WRITE | EBB_CREATE, NULL, &file));
  CHECK_CODE(ebb_pwrite(file, bytes, 5000000, 0), 5000000);
  printf("written\n");
  fflush(stdout);
  for (;;) pause();
}

/* Rewrites the object, or its second half, for ever: every version is of one byte. Ends when the node goes away. */
static void rewrite(ebb *c, const char *key) {
  enum { LENGTH = 1 << 20 };
  uint8_t *bytes = malloc(LENGTH);
  printf("begins\n");
  fflush(stdout);
  for (unsigned run = 1;; run++) {
    ebb_file *file;
    memset(bytes, (int)(run % 255) + 1, LENGTH);
    int code = ebb_open(c, bucket, key, EBB_READ | EBB_WRITE | EBB_CREATE, NULL, &file);
    if (code == EBB_E_NODE_UNREACHABLE) break;
    OK(code);
    int64_t written = ebb_pwrite(file, bytes, LENGTH / 2, 0);
    if (written > 0) written = ebb_pwrite(file, bytes, LENGTH / 2, LENGTH / 2);
    code = run % 2 == 0 ? ebb_fsync(file, EBB_DISK, NULL) : 0;
    int closed = ebb_close(file);
    if (written < 0 || code != 0 || closed != 0) {
      CHECK(written == EBB_E_NODE_UNREACHABLE || code == EBB_E_NODE_UNREACHABLE || closed == EBB_E_NODE_UNREACHABLE);
      break;
    }
  }
  free(bytes);
}

/* Prints the object's length and CRC32C, read and mapped, and whether the map is a copy. Then waits for a line, and does it again. */
static void hold_reader(ebb *c, const char *key) {
  ebb_file *file;
  ebb_map map;
  OK(ebb_open(c, bucket, key, EBB_READ, NULL, &file));
  OK(ebb_mmap(file, 0, 0, &map));
  char line[16];
  do {
    uint8_t *target = malloc(map.length);
    CHECK_CODE(ebb_pread(file, target, map.length, 0), (long long)map.length);
    CHECK(memcmp(target, map.address, map.length) == 0);
    for (int run = 0; run < 100; run++) {
      size_t at = random_below(map.length), length = random_below(map.length - at) + 1;
      CHECK_CODE(ebb_pread(file, target, length, at), (long long)length);
      CHECK(memcmp(target, (const uint8_t *)map.address + at, length) == 0);
    }
    free(target);
    printf("%zu %08x %s\n", map.length, ebb_crc32c(0, map.address, map.length), map.is_copy ? "copied" : "mapped");
    fflush(stdout);
  } while (fgets(line, sizeof line, stdin) != NULL);
  ebb_munmap(&map);
  ebb_close(file);
}

/* Changes one byte, and closes; prints the outcome. */
static void change_byte(ebb *c, const char *key, const char *offset) {
  ebb_file *file;
  OK(ebb_open(c, bucket, key, EBB_READ | EBB_WRITE, NULL, &file));
  int64_t written = ebb_pwrite(file, "!", 1, strtoull(offset, NULL, 10));
  printf("%s\n", ebb_strerror(written < 0 ? (int)written : 0));
  printf("%s\n", ebb_strerror(ebb_close(file)));
}

/* The daemon goes away between two lines of input. */
static void outlive(ebb *c) {
  ebb_file *reader, *writer;
  char target[4], line[16];
  put(c, "c/outlive", "kept", 4);
  OK(ebb_open(c, bucket, "c/outlive", EBB_READ, NULL, &reader));
  OK(ebb_open(c, bucket, "c/outlive", EBB_READ | EBB_WRITE, NULL, &writer));
  CHECK_CODE(ebb_pwrite(writer, "lost", 4, 0), 4);
  printf("ready\n");
  fflush(stdout);
  CHECK(fgets(line, sizeof line, stdin) != NULL);
  CHECK_CODE(ebb_pread(reader, target, 4, 0), 4);
  CHECK(memcmp(target, "kept", 4) == 0);
  CHECK_CODE(ebb_fsync(writer, EBB_DISK, NULL), EBB_E_NODE_UNREACHABLE);
  CHECK_CODE(ebb_close(writer), EBB_E_NODE_UNREACHABLE);
  CHECK_CODE(ebb_close(reader), EBB_E_NODE_UNREACHABLE);
  ebb *again;
  CHECK_CODE(ebb_connect(socket_path, NULL, &again), EBB_E_NODE_UNREACHABLE);
}

/* Writes an object of a node that is not to be trusted, and prints what it reads there, or the errors. */
static int use_stranger(const char *at, const char *text) {
  ebb *c;
  ebb_file *file;
  char target[4096] = "";
  OK(ebb_connect(at, NULL, &c));
  if (ebb_open(c, "b", "k", EBB_WRITE | EBB_CREATE, NULL, &file) == 0) {
    int64_t written = ebb_pwrite(file, text, strlen(text), 0);
    int closed = ebb_close(file);
    printf("%s, %s\n", ebb_strerror(written < 0 ? (int)written : 0), ebb_strerror(closed));
  }
  if (ebb_open(c, "b", "k", EBB_READ, NULL, &file) == 0) {
    int64_t length = ebb_pread(file, target, sizeof target - 1, 0);
    printf("%s: %s\n", ebb_strerror(length < 0 ? (int)length : 0), target);
    ebb_close(file);
  }
  ebb_disconnect(c);
  return 0;
}

static const struct {
  const char *name;
  void (*run)(ebb *);
} TESTS[] = {
    {"sizes", test_sizes},       {"ends", test_ends},         {"modes", test_modes},   {"exclusive", test_exclusive},
    {"condition", test_condition}, {"append", test_append},   {"abort", test_abort},   {"random", test_random},
    {"sync", test_sync},         {"old-version", test_old_version}, {"names", test_names}, {"large", test_large},
    {"threads", test_threads},   {"processes", test_processes}, {"outlive", outlive},
};

int main(int count, char **arguments) {
  const char *what = count > 1 ? arguments[1] : "";
  const char *seed = getenv("EBB_TEST_SEED");
  random_state = seed == NULL ? 0x9e3779b97f4a7c15u : strtoull(seed, NULL, 10) | 1;
  if (strcmp(what, "checksum") == 0) return test_checksum(), 0;
  if (strcmp(what, "vectors") == 0) return test_vectors(), 0;
  if (strcmp(what, "codes") == 0) {
    for (int i = 1; i < CODES; i++) printf("%s\n", CODE_NAMES[i]);
    return 0;
  }
  if (strcmp(what, "stranger") == 0 && count == 4) return use_stranger(arguments[2], arguments[3]);
  if (count < 4) return fprintf(stderr, "usage: ebb_test TEST SOCKET BUCKET [KEY [OFFSET]]\n"), 2;
  socket_path = arguments[2];
  bucket = arguments[3];
  ebb *c = open_connection();
  CHECK(ebb_is_local(c));
  int is_known = 1;
  if (strcmp(what, "write-and-hold") == 0) hold_writer(c, arguments[4]);
  else if (strcmp(what, "put-version") == 0) {
    uint8_t *bytes = calloc(1, 1 << 20);
    put(c, arguments[4], bytes, 1 << 20);
    free(bytes);
  } else if (strcmp(what, "rewrite") == 0) rewrite(c, arguments[4]);
  else if (strcmp(what, "read-and-hold") == 0) hold_reader(c, arguments[4]);
  else if (strcmp(what, "change-byte") == 0) change_byte(c, arguments[4], arguments[5]);
  else {
    is_known = 0;
    for (size_t i = 0; i < sizeof TESTS / sizeof *TESTS; i++)
      if (strcmp(TESTS[i].name, what) == 0) is_known = 1, TESTS[i].run(c);
  }
  ebb_disconnect(c);
  return is_known ? 0 : 2;
}
