"""RAM that was freed and still counts as the process's: glibc keeps it for later, and a long run keeps more of it."""
import ctypes
import sys


def give_back() -> None:
    """Return what is free to the system, where the C library can."""
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):   # not every libc has it
        trim(0)
