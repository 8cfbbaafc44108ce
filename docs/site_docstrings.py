"""Docstrings as the site shows them: they are plain text, so characters that Markdown reads as its own are escaped."""

import re

from griffe import Extension

# Code in backticks stays as it is; elsewhere `(batch, *event)` is no emphasis and `E[J](z)` no link.
PARTS = re.compile(r"(`[^`\n]*`)")


def plain(text):
    """Text in which Markdown finds code in backticks and paragraphs, and nothing else."""
    parts = PARTS.split(text)
    return "".join(part if part.startswith("`") else re.sub(r"([*<\[\]])", r"\\\1", part) for part in parts)


class PlainDocstrings(Extension):
    """Escapes the docstring of every object that is read."""

    def on_instance(self, *, obj, **kwargs):
        if obj.docstring:
            lines = obj.docstring.value.split("\n")
            # Indented lines are code, in which nothing is escaped.
            obj.docstring.value = "\n".join(line if line.startswith("    ") else plain(line) for line in lines)
