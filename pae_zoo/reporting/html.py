"""Pieces of pages that need nothing but themselves: text, tables that sort, pictures and data within the file."""

import base64
import functools
import html
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pae_zoo.core import files, reading
from pae_zoo.evaluation.support.map_points import Points

ASSETS = Path(__file__).resolve().parent / "assets"
KINDS = {".png": "image/png", ".svg": "image/svg+xml"}
# Nothing is fetched: not even by mistake, for a browser refuses it.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
QUALITY = 82

escape = functools.partial(html.escape, quote=True)


def page(title: str, body: Sequence[str], data: dict[str, Any]) -> str:
    """Returns a whole page: style, script and `data`, which its tables and maps read, are in it."""
    style, script = ((ASSETS / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    # A script ends at "</": letters of a name must not end it.
    inside = json.dumps(files.plain(data), separators=(",", ":")).replace("<", "\\u003c")
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{escape(title)}</title>
<style>
{style}</style>
</head>
<body>
{"".join(body)}
<dialog id="dialog" aria-labelledby="dialog-title"><button type="button" class="close">Close</button>
<h2 id="dialog-title"></h2><div class="content"></div></dialog>
<script type="application/json" id="data">{inside}</script>
<script>
{script}</script>
</body>
</html>
"""


def facts(pairs: Sequence[tuple[str, object]]) -> str:
    """Returns names with values as a list of boxes."""
    inside = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(str(value))}</dd></div>" for name, value in pairs)
    return f'<dl class="facts">{inside}</dl>\n'


def header(name: str, kind: str, note: str = "", first: str = "ascending") -> str:
    """Returns the head of a column that sorts at a click: its `kind` is word or number, `first` the first direction."""
    small = f"<small>{escape(note)}</small>" if note else ""
    return (f'<th scope="col" class="{kind}" data-kind="{kind}" data-first="{first}" aria-sort="none">'
            f'<button type="button">{escape(name)}</button>{small}</th>')


def table(name: str, heads: Sequence[str], rows: Sequence[str]) -> str:
    """Returns a table, whose heads and rows are made already, in a box that scrolls sideways."""
    return (f'<div class="wide" tabindex="0" role="region" aria-label="{escape(name)}"><table>'
            f'<thead><tr>{"".join(heads)}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>\n')


def uri(content: bytes, kind: str) -> str:
    """Returns the bytes of a picture as an address that holds them."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def picture(path: Path, side: int = 0) -> str:
    """Returns a picture as `uri`; with `side` one of pixels is shrunk to at most so many a side. Raises UserError."""
    with reading.told(path, "picture", "evaluate the run again"):
        if path.suffix != ".png" or not side:
            return uri(reading.content(path, "evaluate the run again"), KINDS[path.suffix])
        with Image.open(path) as image:
            return _smaller(image.convert("RGB"), side)


def sheet(images: np.ndarray) -> dict[str, Any]:
    """Returns images uint8 (n, H, W, C) as one picture, row by row: its address, the size of one, and the columns."""
    count, height, width, channels = images.shape
    columns = int(np.ceil(np.sqrt(count)))
    rows = -(-count // columns)
    padded = np.concatenate([images, np.zeros((rows * columns - count, *images.shape[1:]), np.uint8)])
    whole = padded.reshape(rows, columns, height, width, channels).swapaxes(1, 2)
    whole = whole.reshape(rows * height, columns * width, channels)
    image = Image.fromarray(whole if channels == 3 else whole[..., 0])
    return {"uri": _least(image, {"PNG": {"optimize": True}, "JPEG": {"quality": QUALITY}}), "width": width,
            "height": height, "columns": columns}  # fmt: skip


def codes(points: Points, most: int) -> dict[str, Any]:
    """Returns the points of a map as the script reads them, at most so many, with what to say below it."""
    chosen = slice(0, most)
    places, original, decoded = points.places[chosen], points.original[chosen], points.decoded[chosen]
    above = "" if points.dims <= 2 else f", the first two principal components of {points.dims} latents"
    found: dict[str, Any] = {
        "x": _rounded(places[:, 0]), "y": _rounded(places[:, 1]), "label": points.labels[chosen].tolist(),
        "error": _rounded(points.errors[chosen]), "axes": points.axes,
        "labels": dict(enumerate(points.label_names)),
        "note": f"Codes of {len(places)} test data{above}.",
    }  # fmt: skip
    if original.ndim == 4:
        sheets = {"original": sheet(original), "decoded": sheet(decoded)}
        found["sheet"] = {**sheets["decoded"], **{part: one["uri"] for part, one in sheets.items()}}
        del found["sheet"]["uri"]
    elif original.ndim == 3:
        found["series"] = {"original": _rounded(original), "decoded": _rounded(decoded)}
    else:
        names = points.names or tuple(f"x[{number}]" for number in range(original.shape[1]))
        found |= {"names": names, "original": _rounded(original), "decoded": _rounded(decoded)}
    return found


def _rounded(values: np.ndarray) -> list[Any]:
    """Returns numbers in four digits, None for what is not finite, as nested lists."""
    if values.ndim > 1:
        return [_rounded(row) for row in values]
    return [float(f"{value:.4g}") if np.isfinite(value) else None for value in values]


def _smaller(image: Image.Image, side: int) -> str:
    image.thumbnail((side, side))
    few = image.convert("P", palette=Image.Palette.ADAPTIVE)
    found = [_encoded(few, "PNG", optimize=True), _encoded(image, "JPEG", quality=QUALITY)]
    return min(found, key=len)


def _least(image: Image.Image, how: dict[str, dict[str, Any]]) -> str:
    return min((_encoded(image, kind, **options) for kind, options in how.items()), key=len)


def _encoded(image: Image.Image, kind: str, **options: Any) -> str:
    content = io.BytesIO()
    image.save(content, kind, **options)
    return uri(content.getvalue(), f"image/{kind.lower()}")
