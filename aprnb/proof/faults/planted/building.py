"""Faults of building kernels: what is read from code and report, workers, whose cache it is."""
from ..fault import fault

BUILD, CUBIN, WORKERS, CACHE = (f"aprnb/kernels/{part}.py"
                                for part in ("build", "cubin", "workers", "cache"))

CODE = [
    fault("cubin-counts-reserved-memory", "the system's own 1 KB counts as the kernel's",
          "ours: from 9.0 on the section holds both",
          cpu=[(CUBIN, 'reserved = RESERVED if ".nv.shared.reserved.0" in self.named else 0',
                "reserved = 0")]),
    fault("cubin-stack-of-another-record", "the stack is read from the record of the registers",
          "ours: codes that nobody documents",
          cpu=[(CUBIN, "REGISTERS, FRAME = 0x2F, 0x11", "REGISTERS, FRAME = 0x2F, 0x2F")]),
    fault("cubin-cut-off-unseen", "a file that ends within its last table is taken for whole",
          "ours: a table that nobody reads",
          cpu=[(CUBIN, '        _need(segments + of_segment * segment_count <= len(code), '
                       '"it is cut off")\n', "")]),
    fault("cubin-damage-as-a-traceback", "an offset of 64 bits ends in Python's own error",
          "ours: struct raises more than struct.error",
          cpu=[(CUBIN, "IndexError, OverflowError, ", "IndexError, ")]),
    fault("silent-linker-believed", "a linker that reports nothing is taken for content",
          "NVIDIA/cuda-python #950",
          cpu=[(BUILD, "    if silent or cubin.stack and", "    if cubin.stack and")]),
    fault("linker-may-cache", "the linker is not told to keep no cache",
          "NVIDIA/cuda-python #950",
          cpu=[(BUILD, 'UNCACHED = "-no-cache"', 'UNCACHED = "-verbose"')]),
    fault("unknown-option-ends-the-build", "a linker before 12.5 refuses -no-cache: the end",
          "ours: an option newer than its reader",
          cpu=[(BUILD, "if error.status != nvjitlink.Result.ERROR_UNRECOGNIZED_OPTION:",
                "if error.status:")]),
]

PROCESSES = [
    fault("worker-runs-the-callers-script", "workers are started by multiprocessing",
          "common: BrokenProcessPool without if __name__ == '__main__'",
          cpu=[(WORKERS, "    waiting = deque(wanted)\n",
                "    waiting = deque(wanted)\n    if len(waiting) > 1:\n"
                "        from concurrent.futures import ProcessPoolExecutor\n"
                "        from multiprocessing import get_context\n"
                '        with ProcessPoolExecutor(workers, get_context("spawn")) as pool:\n'
                "            yield from zip(waiting, pool.map(_build_here, *zip(*waiting)))\n"
                "        return\n")]),
    fault("workers-in-a-session-of-their-own", "what ends the caller's job does not reach workers",
          "common: daemons",
          cpu=[(WORKERS, '"CUDA_CACHE_DISABLE": "1"})',
                '"CUDA_CACHE_DISABLE": "1"}, start_new_session=True)')]),
    fault("worker-answers-over-stdout", "what is printed in a worker is taken for its answer",
          "common: a sitecustomize.py that prints",
          cpu=[(WORKERS, "stdin=subprocess.DEVNULL, stdout=heard,",
                "stdin=subprocess.DEVNULL, stdout=answered,")]),
    fault("pipes-in-place-of-streams", "a worker's pipes take the numbers of closed streams",
          "common: daemons close 0, 1 and 2",
          cpu=[(WORKERS, "fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 3)", "end"),
               (WORKERS, "for end in made:", "for end in ():")]),
    fault("worker-heeds-signals", "a worker ends by a signal that its caller handles",
          "common: systemd signals the whole group",
          cpu=[(WORKERS, "with unasked():", "with suppress():")]),
    fault("killed-worker-called-an-end", "a worker that was killed is said to have ended by itself",
          "common: negative exit codes",
          cpu=[(WORKERS, "        if code < 0:\n", "        if code > 0:\n")]),
]

BELIEF = [
    fault("cache-of-the-group-believed", "what the group can write is believed",
          "common: a umask of 002",
          cpu=[(CACHE, "stat.S_IWGRP | stat.S_IWOTH", "stat.S_IWOTH")]),
    fault("cache-of-any-owner-believed", "nobody asks to whom a file of the cache belongs",
          "common: a cache below /tmp",
          cpu=[(CACHE, "    if status.st_uid not in owners:", "    if status.st_uid < 0:")]),
    fault("cache-root-unseen", "the folder above the tools' own is not looked at",
          "ours: who can rename a folder can replace it",
          cpu=[(CACHE, "reason = _ours(folder) or _ours(folder.parent)",
                "reason = _ours(folder)")]),
    fault("sticky-cache-believed", "a sticky folder is believed, though everybody can write there",
          "common: /tmp itself named as the cache",
          cpu=[(CACHE, "    if status.st_mode & bits:",
                "    if status.st_mode & bits and not status.st_mode & stat.S_ISVTX:")]),
    fault("kernels-of-others-believed", "nobody asks whose a file in a named folder is",
          "common: a folder that several users fill",
          cpu=[(CACHE, "    return (_of_others(path, status, {os.geteuid(), 0, owner}, "
                       '"APRNB_KERNELS")\n            or _writable(',
                "    return (None\n            or _writable(")]),
    fault("folders-above-unseen", "the folders above the named one are not looked at",
          "ours: who can rename a folder can replace it",
          cpu=[(CACHE, "next(filter(None, map(_replaceable, above)), None)", "None")]),
    fault("pipe-read-as-a-kernel", "what lies under a kernel's name is not asked what it is",
          "common: open() of a pipe waits for a writer",
          cpu=[(CACHE, "    if kind != stat.S_IFREG:\n        return",
                "    if not kind:\n        return")]),
    fault("file-of-any-size-read", "a file of the cache is read, however large it is",
          "common: MemoryError",
          cpu=[(CACHE, "    if status.st_size > LARGEST:", "    if status.st_size < 0:")]),
    fault("renamed-kernel-believed", "a file is taken for the kernel whose name it bears",
          "ours: a cache that does not say what it holds",
          cpu=[(CACHE, 'facts["file"] == file and ', "")]),
    fault("sweep-stops-at-a-folder", "what cannot be removed ends the use of the cache",
          "common",
          cpu=[(CACHE, "with suppress(OSError):  # another",
                "with suppress(FileNotFoundError):  #")]),
    fault("no-home-ends-the-run", "a user without a home is a traceback",
          "common: a container under an arbitrary user id",
          cpu=[(CACHE, "    except RuntimeError:\n", "    except KeyError:\n")]),
    fault("cache-warns-for-every-kernel", "a cache that takes nothing is said for each kernel",
          "ours: a hundred lines that nobody reads",
          cpu=[(CACHE, "        _said.add(what)\n", "        _said.add(text)\n")]),
    fault("full-cache-ends-the-run", "a kernel that cannot be kept ends the run",
          "common",
          cpu=[(CACHE, "    except (OSError, AprnbError) as error:\n        unkept[file]",
                "    except OSError as error:\n        unkept[file]")]),
    fault("abandoned-files-stay", "temporary files of killed processes are left alone",
          "common",
          cpu=[(CACHE, "st_mtime > ABANDONED:", "st_mtime > ABANDONED ** 2:")]),
]

FAULTS = CODE + PROCESSES + BELIEF
