"""What the test modules share."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture
def quiet_fake_tensor_log() -> Iterator[None]:
    """Torch logs a traceback for each error that a meta kernel raises; the comparisons provoke thousands."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    before, logger.disabled = logger.disabled, True
    yield
    logger.disabled = before
