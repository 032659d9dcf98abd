"""Whatever a manifest holds, it is a manifest or a manifest error."""

from __future__ import annotations

import random
import tempfile

import yaml
from hypothesis import given
from hypothesis import strategies as st
from manifest_texts import HEAD, schema_keys

from batchdiff.errors import ManifestError
from batchdiff.image_source import ImageFormat
from batchdiff.manifest.file import read_manifest
from batchdiff.manifest.manifest import Manifest
from batchdiff.plan.json_schema import schema_of


def one_way_or_the_other(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as directory:
        for name in ("t.img", "a.img", "b.qcow2", "m.yaml"):
            with open(f"{directory}/{name}", "wb") as file:
                file.write(content if name == "m.yaml" else b"")
        try:
            assert isinstance(read_manifest(f"{directory}/m.yaml"), Manifest)
        except ManifestError as error:
            lines = error.what.split("\n")
            assert all(line.startswith(f"{directory}/m.yaml") and line.isprintable() for line in lines)


@given(st.binary(max_size=200))
def test_random_bytes(content):
    one_way_or_the_other(content)


@given(st.binary(max_size=60))
def test_random_bytes_after_a_good_start(content):
    one_way_or_the_other(HEAD.encode() + content)


TEXTS = st.sampled_from(
    ["t.img", "a.img", "b.qcow2", "*", "*.img", "**", "[", "[!", "same", ".", "..", "x/y", "raw", "qcow2"]
)
TEXTS |= st.sampled_from(
    [
        "auto",
        "64k",
        "5%",
        "keep",
        "delete",
        "zstd",
        "snapshots",
        "a\0",
        "a\0/b",
        "\x85/b",
        "\n",
        "\ud800",
        "~",
        "é",
        "",
    ]
)
SCALARS = (
    TEXTS
    | st.integers()
    | st.floats()
    | st.booleans()
    | st.none()
    | st.text(alphabet=st.characters(exclude_characters="/*"))
)
KEYS = st.sampled_from(sorted(schema_keys(schema_of("manifest")))) | st.text(max_size=3)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=20
)
FORMATS = st.sampled_from(list(ImageFormat)).map(str)
OVERLAY_KEYS = sorted(schema_of("manifest")["$defs"]["guest"]["properties"]["overlay"]["properties"])
GOOD = st.sampled_from(["auto", "zlib", "zstd", "0.10", "1.1", 4096, 1, 16, True, False])
OVERLAYS = st.dictionaries(st.sampled_from(OVERLAY_KEYS), SCALARS | GOOD, max_size=4)
BACKING = st.lists(st.fixed_dictionaries({"path": TEXTS, "format": FORMATS}), max_size=2)
GUESTS = st.fixed_dictionaries(
    {},
    optional={
        "path": TEXTS,
        "glob": TEXTS,
        "format": FORMATS,
        "name": TEXTS,
        "overlay": OVERLAYS,
        "backing": BACKING,
    },
)
DOCUMENTS = st.fixed_dictionaries(
    {
        "version": st.just(1),
        "template": st.fixed_dictionaries({"path": TEXTS, "format": FORMATS}, optional={"backing": BACKING}),
        "guests": st.lists(GUESTS, max_size=4) | VALUES,
    },
    optional={
        "defaults": st.fixed_dictionaries({}, optional={"format": FORMATS, "overlay": OVERLAYS}),
        "retire": SCALARS,
        "minimum_savings": SCALARS,
        "allow_loss": VALUES,
    },
)


@given(DOCUMENTS | st.dictionaries(KEYS, VALUES), st.randoms(use_true_random=False))
def test_random_documents(document, chance: random.Random):
    text = yaml.safe_dump(document, allow_unicode=True)
    if chance.random() < 0.3:
        at = chance.randrange(len(text) + 1)
        text = text[:at] + chance.choice(["{", "]", "&x ", "*x", "- ", "\n", ": ", "!!int "]) + text[at:]
    one_way_or_the_other(text.encode(errors="surrogatepass"))
