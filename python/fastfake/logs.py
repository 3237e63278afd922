"""The loggers of torch's fake tensor module, so that TORCH_LOGS settings keep their meaning."""

from __future__ import annotations

import logging

import torch._logging

__all__ = ["hierarchical_compile_log", "log", "not_implemented_log"]

log = logging.getLogger("torch._subclasses.fake_tensor")


def _artifact_logger(name: str) -> logging.Logger:
    """Return torch's logger for an artifact; an ordinary one where this torch does not know the artifact."""
    try:
        return torch._logging.getArtifactLogger(log.name, name)
    except ValueError:
        return logging.getLogger(f"{log.name}.{name}")


not_implemented_log = _artifact_logger("not_implemented")
hierarchical_compile_log = _artifact_logger("hierarchical_compile")
