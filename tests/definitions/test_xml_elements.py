"""Elements and their places in a document. Guards definitions/xml_elements.py."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchdiff.definitions.xml_elements import parse_elements
from batchdiff.errors import DefinitionError

DOCUMENT = (
    "<?xml version='1.0'?>\n"
    """<a x='>'><!-- <b/> --><b y="1'"/><c>é&amp;<d></d></c >\n<b></b></a>\n"""
).encode()


def part(element, document=DOCUMENT):
    return document[element.start : element.end].decode()


def test_places_are_those_in_the_text():
    root = parse_elements(DOCUMENT, "x.xml")
    assert (root.name, root.attributes) == ("a", {"x": ">"})
    assert part(root) == DOCUMENT.decode().split("\n", 1)[1].rstrip("\n")
    assert [part(child) for child in root.children] == ['<b y="1\'"/>', "<c>é&amp;<d></d></c >", "<b></b>"]
    empty, with_text, _ = root.children
    assert empty.inside == empty.inner_end == empty.end
    assert DOCUMENT[with_text.inside : with_text.inner_end].decode() == "é&amp;<d></d>"


@pytest.mark.parametrize("declared", ["<?xml version='1.0'?>", "<?xml version='1.0' encoding='Utf-8'?>"])
def test_an_xml_declaration(declared):
    document = f"{declared}<name>é</name>".encode()
    assert parse_elements(document, "x").text == "é"


def test_children_by_name():
    root = parse_elements(DOCUMENT, "x.xml")
    assert len(list(root.all("b"))) == 2
    assert root.first("c").name == "c"
    assert root.first("e") is None


def test_text_with_entities():
    document = b"<name> a&amp;lt;&lt;&#x41; </name>"
    assert parse_elements(document, "x").text == " a&lt;<A "


@given(st.text(st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="<>&"), max_size=8))
def test_any_text_before_an_element_moves_it(text):
    document = f"<a>{text}<b/></a>".encode()
    (child,) = parse_elements(document, "x").children
    assert part(child, document) == "<b/>"


@pytest.mark.parametrize(
    ("document", "why"),
    [
        (b"<a><b></a>", "it is not valid XML in UTF-8: mismatched tag"),
        (b"", "it is not valid XML in UTF-8: no element found"),
        (b"<a>\xff</a>", "it is not valid XML in UTF-8: 'utf-8' codec"),
        ("<?xml version='1.0' encoding='UTF-16'?><a/>".encode("utf-16"), "it is not valid XML in UTF-8"),
        (b"<!DOCTYPE a [<!ENTITY x 'xxxxxxxxxx'>]><a>&x;</a>", "it declares a document type (<!DOCTYPE>)"),
        (b"<?xml version='1.0' encoding='latin1'?><a/>", "it declares the encoding latin1"),
        (b"<?xml version='1.0' encoding='gbk'?><a/>", "it declares the encoding gbk"),
        (b"<?xml version='1.0' encoding='foo'?><a/>", "it declares the encoding foo"),
        (b"<!DOCTYPE a SYSTEM 'file:///etc/passwd'><a/>", "it declares a document type (<!DOCTYPE>)"),
    ],
)
def test_what_is_refused(document, why):
    with pytest.raises(DefinitionError) as caught:
        parse_elements(document, "web01.xml")
    assert "web01.xml" in caught.value.what
    assert caught.value.why.startswith(why)
