"""How a process uses the machine: threads and memory allocator, set in one place before torch is loaded."""

import ctypes
import os
import sys

from kdnas.run.paths import cache_dir

# glibc's mallopt keys (malloc.h).
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGE = 1 << 30


def configure_process(threads: int | None = None) -> None:
    """Sane defaults; call it before torch is imported, and again is harmless.

    Threads that wait do not spin (two spinning threads on a busy machine cost 10 times), and freed memory is kept for
    the next batch instead of being given back to the system (2 times at 96 to 224 pixels). What the environment
    already sets is left alone. Nothing phones home.

    Args:
        threads: CPU threads for torch; None leaves its default (all cores, or ``OMP_NUM_THREADS``).
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("MPLCONFIGDIR", str(cache_dir() / "matplotlib"))  # else it writes to the home directory
    if threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(threads)
    if sys.platform.startswith("linux"):
        try:
            libc = ctypes.CDLL("libc.so.6")
        except OSError:  # another C library: its allocator has no such switches
            pass
        else:
            if "MALLOC_MMAP_THRESHOLD_" not in os.environ:
                libc.mallopt(_M_MMAP_THRESHOLD, _LARGE)
            if "MALLOC_TRIM_THRESHOLD_" not in os.environ:
                libc.mallopt(_M_TRIM_THRESHOLD, _LARGE)
    if threads is not None and "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)
