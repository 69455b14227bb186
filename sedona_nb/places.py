"""Where the suite keeps things: beside the package in its repository, else where the user works."""

from __future__ import annotations

from pathlib import Path


def home() -> Path:
    """The repository's folder; the current one if the package was installed without its repository."""
    repository = Path(__file__).resolve().parent.parent
    return repository if (repository / "pyproject.toml").is_file() else Path.cwd()
