#!/usr/bin/env python3
"""
Stands in for fusermount3, which not every machine has: mounts a FUSE file system for the program that calls it, and
unmounts it. It needs the right to mount, where the real one is setuid; the test gives it a mount namespace of its own.

    fusermount3 -o OPTIONS -- DIRECTORY    opens /dev/fuse, mounts it, and sends its descriptor over socket _FUSE_COMMFD
    fusermount3 -u DIRECTORY

It knows the options that clients here pass, and refuses others.
"""

import ctypes
import os
import re
import socket
import sys

LIBC = ctypes.CDLL(None, use_errno=True)
MS_RDONLY, MS_NOSUID, MS_NODEV = 1, 2, 4
MNT_DETACH = 2


def check(what, status):
    if status != 0:
        error = ctypes.get_errno()
        sys.exit(f"fusermount3: {what}: {os.strerror(error)}")


def mount(options, directory):
    source, kind, flags = "fuse", "fuse", MS_NOSUID | MS_NODEV
    fuse = os.open("/dev/fuse", os.O_RDWR)
    data = [f"fd={fuse}", "rootmode=40000", f"user_id={os.getuid()}", f"group_id={os.getgid()}"]
    # A comma within a value comes as "\,".
    for option in re.findall(r"(?:\\.|[^,\\])+", options):
        name, _, value = re.sub(r"\\(.)", r"\1", option).partition("=")
        if name == "fsname":
            source = value
        elif name == "subtype":
            kind = f"fuse.{value}"
        elif name == "ro":
            flags |= MS_RDONLY
        elif name in ("allow_other", "default_permissions"):
            data.append(name)
        else:
            sys.exit(f"fusermount3: unknown option {name}")
    strings = [text.encode() for text in (source, directory, kind)]
    check(f"mounting {directory}", LIBC.mount(*strings, ctypes.c_ulong(flags), ",".join(data).encode()))
    with socket.socket(fileno=int(os.environ["_FUSE_COMMFD"])) as caller:
        socket.send_fds(caller, [b"\0"], [fuse])


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["-o", options, "--", directory]:
            mount(options, directory)
        case ["-u", directory]:
            check(f"unmounting {directory}", LIBC.umount2(directory.encode(), MNT_DETACH))
        case _:
            sys.exit(__doc__)
