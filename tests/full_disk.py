"""A full disk without one: the system refuses every byte beyond a size, as it does when the disk is full."""
from contextlib import contextmanager

import pytest


@contextmanager
def files_limited_to(size):
    """No file gets longer than `size` bytes inside."""
    resource = pytest.importorskip("resource", reason="the limit exists on Linux and macOS")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    limit_files_to(size)
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def limit_files_to(size):
    """Tighten the limit; only inside `files_limited_to`, which takes it back."""
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
