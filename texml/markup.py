# SPDX-License-Identifier: BSD-2-Clause
"""XML 1.0 out of elements: escaped by the standard library, and refused where no escape would help."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from texml.errors import DocumentError
from texml.plan import check_elements

DECLARATION = '<?xml version="1.0" encoding="UTF-8"?>'

MAX_DEPTH = 20
"""Of an operator's elements. No carrier nests as deep, and the standard library writes recursively."""

# XML 1.0 §2.2, Char: there is no way to write these, not even as a reference.
_NOT_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def element(
    tag: str,
    attributes: Mapping[str, str | None] | None = None,
    *,
    text: str | None = None,
    children: Iterable[Element] = (),
) -> Element:
    """One element; attributes that are None are left out. Raises DocumentError for what XML cannot hold."""
    made = Element(tag)
    for name, value in (attributes or {}).items():
        if value is not None:
            made.set(name, legal(value, name))
    if text is not None:
        made.text = legal(text, f"the text of {tag}")
    made.extend(children)
    return made


def legal(value: str, what: str) -> str:
    """The value, where XML can hold it."""
    if _NOT_XML.search(value):
        raise DocumentError(f"{what} has a character that XML cannot hold")
    return value


def own_elements(text: str) -> list[Element]:
    """An operator's elements, without comments and processing instructions."""
    legal(text, "the own XML")
    try:
        check_elements(text)
    except ValueError as error:
        raise DocumentError(f"the own XML {error}") from None
    made = ElementTree.fromstring(f"<Response>{text}</Response>")  # noqa: S314 - a DTD was refused above
    if _depth(made) > MAX_DEPTH:
        raise DocumentError(f"the own XML is nested more than {MAX_DEPTH} deep")
    return list(made)


def _depth(root: Element) -> int:
    depth, level = 0, [root]
    while level := [child for parent in level for child in parent]:
        depth += 1
    return depth


def write(elements: Iterable[Element], max_bytes: int) -> str:
    """The document: nothing before its declaration, at most `max_bytes` of UTF-8."""
    body = ElementTree.tostring(element("Response", children=elements), encoding="unicode")
    # In attributes it is a reference by now; in text it stands bare, and a parser would read a line feed.
    document = DECLARATION + body.replace("\r", "&#13;")
    if len(document.encode()) > max_bytes:
        raise DocumentError(f"the document would have more than {max_bytes} bytes")
    return document
