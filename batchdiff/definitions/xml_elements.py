"""XML as elements with byte offsets, so that an edit can leave all other bytes as they are; pure.

::

    <disk type='file'>  <source file='/a'/>  </disk>
    ^start            ^inside                ^      ^end
                                             inner_end
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from xml.parsers import expat

from batchdiff.errors import DefinitionError


@dataclass(slots=True)
class Element:
    """An element; for a tag like ``<a/>``, all offsets except ``start`` are equal.

    ``text``: without that of the children, and with entities resolved.
    """

    name: str
    attributes: dict[str, str]
    start: int
    inside: int
    inner_end: int = 0
    end: int = 0
    children: list[Element] = field(default_factory=list)
    text: str = ""

    def all(self, name: str) -> Iterator[Element]:
        """Return the children with this name."""
        return (child for child in self.children if child.name == name)

    def first(self, name: str) -> Element | None:
        """Return the first child with this name."""
        return next(self.all(name), None)


def parse_elements(document: bytes, where: str) -> Element:
    """Parse an XML document, and return its root. ``where``: for messages.

    :raises DefinitionError: the document is not XML in UTF-8, or declares another encoding or a document type.
    """
    root = Element("", {}, 0, 0)
    stack = [root]
    parser = expat.ParserCreate("utf-8")
    parser.buffer_text = True

    def opened(name: str, attributes: dict[str, str]) -> None:
        start = parser.CurrentByteIndex
        element = Element(name, attributes, start, _end_of_tag(document, start))
        stack[-1].children.append(element)
        stack.append(element)

    def closed(_name: str) -> None:
        element = stack.pop()
        is_empty = document[element.inside - 2 : element.inside] == b"/>"
        element.inner_end = element.inside if is_empty else parser.CurrentByteIndex
        element.end = element.inside if is_empty else _end_of_tag(document, element.inner_end)

    def refuse_type(*_details: object) -> None:
        # A document type can define entities that expand without limit or refer to other files.
        raise DefinitionError(f"cannot use {where}", why="it declares a document type (<!DOCTYPE>)")

    def refuse_encoding(_version: str, encoding: str | None, _standalone: int) -> None:
        if encoding is not None and encoding.lower() != "utf-8":
            remedy = "Convert it to UTF-8, and remove the declaration."
            raise DefinitionError(f"cannot use {where}", why=f"it declares the encoding {encoding}", remedy=remedy)

    def read(text: str) -> None:
        stack[-1].text += text

    parser.StartElementHandler, parser.EndElementHandler = opened, closed
    parser.CharacterDataHandler = read
    parser.StartDoctypeDeclHandler = refuse_type
    parser.XmlDeclHandler = refuse_encoding
    try:
        document.decode("utf-8")
        parser.Parse(document, True)
    except (expat.ExpatError, UnicodeDecodeError) as error:
        raise DefinitionError(f"cannot read {where}", why=f"it is not valid XML in UTF-8: {error}") from error
    return root.children[0]


def _end_of_tag(document: bytes, start: int) -> int:
    """Return the offset after a tag; a ``>`` in a quoted value does not end it."""
    quote = 0
    for at in range(start, len(document)):
        byte = document[at]
        if quote:
            quote = 0 if byte == quote else quote
        elif byte in b"'\"":
            quote = byte
        elif byte == 0x3E:
            return at + 1
    raise ValueError("expat accepted a tag without an end")
