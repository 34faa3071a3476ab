"""A cancel as the button makes it, at a moment that a test knows."""
from collections.abc import Iterator
from contextlib import contextmanager

import comfy.model_management
import pytest


@contextmanager
def cancel_at_first_clip(monkeypatch, progress: type) -> Iterator[None]:
    """Within it the first clip that `progress` counts is followed by a cancel, which has to end the run."""
    done = progress.clip_done

    def cancel(self, *seen):
        comfy.model_management.interrupt_current_processing()
        done(self, *seen)

    with monkeypatch.context() as patch:
        patch.setattr(progress, "clip_done", cancel)
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            yield
