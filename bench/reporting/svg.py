"""From a matplotlib figure to SVG that lives inside a page: text as text, colours and fonts of the page, own ids."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any, Final, cast
from xml.etree import ElementTree as ET

from matplotlib import rc_context
from matplotlib.figure import Figure

from bench.reporting.palette import Style

# Stand-ins that matplotlib draws with and the page gives a meaning: each is a colour nobody would choose.
INK: Final = "#010101"
MUTED: Final = "#020202"
GRID: Final = "#030303"
PAPER: Final = "#040404"

_PAGE_COLOURS: Final = {INK: "currentColor", MUTED: "var(--muted)", GRID: "var(--grid)", PAPER: "var(--paper)"}
_SVG: Final = "http://www.w3.org/2000/svg"
_LINK: Final = "{http://www.w3.org/1999/xlink}href"
_COLOUR: Final = re.compile(r"#[0-9a-fA-F]{6}\b")
_REFERENCE: Final = re.compile(r"url\(#([^)]+)\)")
_FAMILY: Final = re.compile(r"font-family:[^;]*;?\s*")

_SETTINGS: Final = {
    "svg.fonttype": "none",
    "svg.hashsalt": "ambient-bench",  # the same results give the same page
    "text.parse_math": False,  # a name with dollar signs is a name
    "font.size": 8.0,
    "axes.titlesize": 8.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.facecolor": "none",
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": INK,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "hatch.linewidth": 1.2,
    "figure.facecolor": "none",
    "legend.frameon": False,
    "legend.fontsize": 8.0,
}


def drawing() -> AbstractContextManager[None]:
    """The settings that a figure must be built under; they end with the block."""
    return rc_context(cast(Any, _SETTINGS))  # its type is a list of every key there is


def plain(text: str) -> str:
    """A name as a label: what XML cannot hold or a line cannot show is replaced, and a very long one is cut."""
    shown = "".join(letter if letter.isprintable() else "\ufffd" for letter in text)
    return shown if len(shown) <= 60 else shown[:59] + "\u2026"


def render(figure: Figure, name: str, title: str, description: str, styles: Iterable[Style]) -> str:
    """The figure as an `<svg>` element. `name` is unique in the page; the texts are for who cannot see it."""
    buffer = io.BytesIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with drawing(), warnings.catch_warnings():
        # The browser has fonts for letters that matplotlib's lacks; only the measuring falls back.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(buffer, format="svg", metadata=nothing)
    root = ET.fromstring(buffer.getvalue())  # noqa: S314 - written two lines above
    return _embed(root, name, title, description, styles)


def _embed(root: ET.Element, name: str, title: str, description: str, styles: Iterable[Style]) -> str:
    colours = {style.colour.light: f"var({style.variable})" for style in styles} | _PAGE_COLOURS
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in {f"{{{_SVG}}}style", f"{{{_SVG}}}metadata"}:
                parent.remove(child)
    for element in root.iter():
        _adopt(element, name, colours)
    # The size is the page's business, the shape stays.
    for attribute in ("width", "height", "version"):
        root.attrib.pop(attribute, None)
    root.attrib |= {"role": "img", "aria-labelledby": f"{name}-title {name}-text", "class": "plot"}
    for position, (tag, suffix, text) in enumerate((("title", "title", title), ("desc", "text", description))):
        words = ET.Element(f"{{{_SVG}}}{tag}", {"id": f"{name}-{suffix}"})
        words.text = plain(text) if tag == "title" else text
        root.insert(position, words)
    ET.register_namespace("", _SVG)
    return ET.tostring(root, encoding="unicode")


def _adopt(element: ET.Element, name: str, colours: dict[str, str]) -> None:
    attributes = element.attrib
    if (link := attributes.pop(_LINK, None)) is not None:
        attributes["href"] = f"#{name}-{link.removeprefix('#')}"
    if "id" in attributes:
        attributes["id"] = f"{name}-{attributes['id']}"
    for key in ("clip-path", "style", "fill", "stroke"):
        if key in attributes:
            attributes[key] = _REFERENCE.sub(rf"url(#{name}-\1)", attributes[key])
    for key in ("style", "fill", "stroke"):
        if key in attributes:
            value = _COLOUR.sub(lambda found: colours.get(found[0].lower(), found[0]), attributes[key])
            # As an attribute of its own a var() is not understood; inside `style` it is.
            if key != "style" and value != attributes[key]:
                attributes["style"] = f"{attributes.get('style', '')};{key}:{value}".lstrip(";")
                del attributes[key]
            else:
                attributes[key] = _FAMILY.sub("", value)
