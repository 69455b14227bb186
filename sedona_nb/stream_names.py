"""Names of data sets that are read while training: "imagenet", "stream:<folder>", "stream@<pixels>:<folder>"."""

from __future__ import annotations

import re

from sedona_nb.errors import SedonaError

ALWAYS = ("imagenet",)  # never in memory: 1.28 million pictures of 224x224 are 193 GB
DEFAULT_SIZE = 224  # pixels, Appendix E.2
PREFIX = re.compile(r"stream(?:@(?P<size>[^:/]*))?:(?P<rest>.*)", re.DOTALL)


def parted(name: str) -> tuple[str, str]:
    """The prefix, "stream:" with or without a size, or "", and the name or path behind it."""
    match = PREFIX.fullmatch(name)
    return ("", name) if match is None else (name[: match.start("rest")], match["rest"])


def parse(name: str) -> tuple[str, int | None] | None:
    """What is to be streamed, a name or path, and at which size in pixels (None: not said); None: not streamed.

    Raises:
        SedonaError: a prefix with a size that is no whole number of pixels, or with nothing behind it.
    """
    if name in ALWAYS:
        return name, None
    match = PREFIX.fullmatch(name)
    if match is None:
        return None
    size, rest = match["size"], match["rest"]
    if not rest or (size is not None and not (size.isdecimal() and int(size) > 0)):
        raise SedonaError(
            f"data {name!r} is not allowed; allowed: stream:<name or path>, or stream@<pixels>:<name or path>"
        )
    return rest, None if size is None else int(size)
