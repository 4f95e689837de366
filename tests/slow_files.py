"""A shared file system that takes long to answer, acted by a library loaded before others."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

_SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void wait_for(const char *path) {
    const char *slow = getenv("SLOW_FOLDER");
    if (slow && path && strstr(path, slow)) {
        usleep(DELAY_US);
    }
}
#define DELAYED(type, name, parameters, arguments) \
    type name parameters { \
        static type (*real) parameters; \
        if (!real) real = (type (*) parameters) dlsym(RTLD_NEXT, #name); \
        wait_for(path); \
        return real arguments; \
    }
DELAYED(int, stat, (const char *path, struct stat *to), (path, to))
DELAYED(int, lstat, (const char *path, struct stat *to), (path, to))
DELAYED(int, stat64, (const char *path, struct stat64 *to), (path, to))
DELAYED(int, lstat64, (const char *path, struct stat64 *to), (path, to))
DELAYED(void *, opendir, (const char *path), (path))
static int opened(const char *name, const char *path, int how, va_list more) {
    int (*real)(const char *, int, ...) = (int (*)(const char *, int, ...)) dlsym(RTLD_NEXT, name);
    mode_t mode = how & O_CREAT ? va_arg(more, mode_t) : 0;
    wait_for(path);
    return real(path, how, mode);
}
#define OPEN(name) \
    int name(const char *path, int how, ...) { \
        va_list more; \
        va_start(more, how); \
        int found = opened(#name, path, how, more); \
        va_end(more); \
        return found; \
    }
OPEN(open)
OPEN(open64)
"""


def slowed(folder: Path, slow: Path, seconds: float) -> dict[str, str]:
    """The environment of a program to which each question about files in `slow` takes longer.

    Args:
        folder: For the library; not below `slow`.
        slow: The files; questions that name them by this path are delayed.
        seconds: For each `open`, `stat` and `opendir`.
    """
    source, library = folder / "delay.c", folder / "delay.so"
    source.write_text(_SOURCE)
    command = ["cc", "-O1", "-shared", "-fPIC", f"-DDELAY_US={round(seconds * 1e6)}"]
    subprocess.run([*command, "-o", library, source, "-ldl"], check=True)
    return {"LD_PRELOAD": os.fspath(library), "SLOW_FOLDER": os.fspath(slow)}
