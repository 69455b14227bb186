"""Sentences on the page: JupyterLab breaks lines that are wider than it in the middle of a word; these are not.

say(*verdicts.missing(entries, store))
"""

from __future__ import annotations

import textwrap

WIDTH = 100  # columns; JupyterLab in a window of 1280 pixels has 115


def fold(text: str, width: int = WIDTH) -> str:
    """The text in lines of at most `width` columns, broken at spaces; from the second line on two columns in.

    A word that is longer stays whole. Lines that are there already stay lines.
    """
    parts = textwrap.TextWrapper(width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    return "\n".join(parts.fill(line) for line in text.splitlines())


def say(*texts: str) -> None:
    """Print each text as one or more lines; nothing for none."""
    for text in texts:
        print(fold(text))
