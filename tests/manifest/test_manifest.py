"""What manifests mean, and the files that hold them.

Guards manifest/content.py, manifest/file.py, manifest/names.py.
"""

from __future__ import annotations

import hashlib
import os
import re

import pytest
from manifest_texts import HEAD, guests, make, named, problems, raw, read, write

from batchdiff.choices import Loss, Retire
from batchdiff.errors import ManifestError
from batchdiff.image_source import ImageFormat, ImageSource
from batchdiff.manifest.file import read_manifest
from batchdiff.manifest.text.input import MAX_BYTES
from batchdiff.plan.overlay_options import CLUSTER_SIZES, BackingPath, Compat, Compression, OverlayOptions


def test_the_manifest_of_the_specification(folder):
    os.mkdir("thin")
    make("clones/batch-2.img", "clones/batch-1.img")
    text = HEAD + (
        "defaults:\n  format: raw\n  overlay: {cluster_size: 64KiB, compression: zstd}\n"
        "guests:\n"
        "  - path: clones/a.img\n"
        "  - {path: clones/c.qcow2, format: qcow2, name: db, overlay: {path: thin/db.qcow2, cluster_size: auto}}\n"
        "  - glob: clones/batch-*.img\n"
        "retire: quarantine\nminimum_savings: 5%\nprotect_template: false\nallow_loss: [bitmaps]\n"
    )
    manifest = read(text)
    assert manifest.path == f"{folder}/m.yaml"
    assert manifest.sha256 == hashlib.sha256(text.encode()).hexdigest()
    assert manifest.template == ImageSource(f"{folder}/t.img", ImageFormat.RAW)
    assert manifest.retire is Retire.QUARANTINE
    assert manifest.minimum_savings == 0.05
    assert manifest.protect_template is False
    assert manifest.allow_loss == {Loss.BITMAPS}
    assert named(manifest, folder) == {
        "a": "clones/a.qcow2",
        "db": "thin/db.qcow2",
        "batch-1": "clones/batch-1.qcow2",
        "batch-2": "clones/batch-2.qcow2",
    }
    first, second, *_ = manifest.guests
    assert first.image == ImageSource(f"{folder}/clones/a.img", ImageFormat.RAW)
    assert first.options == OverlayOptions(65536, compression=Compression.ZSTD)
    assert second.image.format is ImageFormat.QCOW2
    assert second.options == OverlayOptions(None, compression=Compression.ZSTD)


def test_defaults_of_all_keys(folder):
    manifest = read(guests(raw("clones/a.img")))
    assert (manifest.retire, manifest.minimum_savings) == (Retire.KEEP, 0)
    assert manifest.protect_template is True
    assert manifest.allow_loss == frozenset()
    assert manifest.guests[0].options == OverlayOptions()


def test_paths_start_at_the_folder_of_the_manifest(folder, monkeypatch):
    write(guests(raw("clones/a.img")))
    monkeypatch.chdir("/")
    assert read_manifest(f"{folder}/m.yaml").guests[0].image.path == f"{folder}/clones/a.img"


def test_a_manifest_with_a_byte_order_mark(folder):
    assert read("\ufeff" + guests(raw("clones/a.img"))).guests


def test_a_link_gives_the_file_and_the_overlay_stays_beside_the_link(folder):
    os.mkdir("links")
    os.symlink("../clones/a.img", "links/web.img")
    (guest,) = read(guests(raw("links/web.img"))).guests
    assert guest.name == "web"
    assert guest.image.path == f"{folder}/clones/a.img"
    assert guest.overlay_path == f"{folder}/links/web.qcow2"


def test_an_overlay_folder_is_resolved_and_its_name_is_kept(folder):
    os.symlink("clones", "link")
    (guest,) = read(guests(raw("clones/a.img", ", overlay: {path: ./link/same}"))).guests
    assert guest.overlay_path == f"{folder}/clones/same"


@pytest.mark.parametrize(
    ("text", "size"),
    [("64KiB", 65536), ("64k", 65536), ("65536", 65536), ('"512"', 512), ("2MiB", 2 << 20), ("auto", None)],
)
def test_cluster_sizes(folder, text, size):
    (guest,) = read(guests(raw("clones/a.img", f", overlay: {{cluster_size: {text}}}"))).guests
    assert guest.options.cluster_size == size


def test_every_cluster_size_of_qcow2_is_taken(folder):
    assert (len(CLUSTER_SIZES), CLUSTER_SIZES[0], CLUSTER_SIZES[-1]) == (13, 512, 2 << 20)
    for size in CLUSTER_SIZES:
        (guest,) = read(guests(raw("clones/a.img", f", overlay: {{cluster_size: {size}}}"))).guests
        assert guest.options.cluster_size == size


@pytest.mark.parametrize(
    ("text", "share"),
    [("5%", 0.05), ("0.05", 0.05), ('"0.05"', 0.05), ("0", 0), ("1", 1), ("100%", 1), ('"2.5 %"', 0.025)],
)
def test_minimum_savings(folder, text, share):
    assert read(guests(raw("clones/a.img"), tail=f"minimum_savings: {text}\n")).minimum_savings == share


def test_overlay_options(folder):
    options = "{cluster_size: 128k, extended_l2: true, backing_path: relative, lazy_refcounts: true}"
    (guest,) = read(guests(raw("clones/a.img", f", overlay: {options}"))).guests
    assert guest.options == OverlayOptions(
        131072, extended_l2=True, backing_path=BackingPath.RELATIVE, lazy_refcounts=True
    )


def test_a_declared_chain_is_flat(folder):
    make("mid.qcow2", "top.qcow2")
    head = (
        "version: 1\ntemplate:\n  path: top.qcow2\n  format: qcow2\n"
        "  backing: [{path: mid.qcow2, format: qcow2}, {path: t.img, format: raw}]\n"
    )
    template = read(guests(raw("clones/a.img"), head=head)).template
    assert [(image.path, image.format, image.backing) for image in template.backing] == [
        (f"{folder}/mid.qcow2", "qcow2", ()),
        (f"{folder}/t.img", "raw", ()),
    ]


def test_a_guest_that_is_thin_already_may_have_the_template_below_it(folder):
    item = "{path: clones/c.qcow2, format: qcow2, backing: [{path: t.img, format: raw}]}"
    (guest,) = read(guests(item)).guests
    assert guest.image.backing == (ImageSource(f"{folder}/t.img", ImageFormat.RAW),)
    assert guest.overlay_path == f"{folder}/clones/c.overlay.qcow2"


def test_names_that_collide_become_paths(folder):
    os.mkdir("other")
    make("other/a.img")
    manifest = read(guests(raw("clones/a.img"), raw("other/a.img"), raw("clones/b.img")))
    assert [guest.name for guest in manifest.guests] == ["clones/a.img", "other/a.img", "b"]


def test_a_given_name_wins_over_a_default_one(folder):
    manifest = read(guests(raw("clones/a.img"), raw("clones/b.img", ", name: a")))
    assert [guest.name for guest in manifest.guests] == ["clones/a.img", "a"]


def test_given_names_that_collide(folder):
    (problem,) = problems(guests(raw("clones/a.img", ", name: x"), raw("clones/b.img", ", name: x")))
    assert problem == (
        'm.yaml:5: guests[1].name: guests[1] ("clones/b.img") has the name "x", '
        'as does guests[0] ("clones/a.img"); change one of the names'
    )


@pytest.mark.parametrize("name", ['"a\\nb"', '" "', '"\\x07"', '"\\u2028"'])
def test_names_that_are_none(folder, name):
    (problem,) = problems(guests(raw("clones/a.img", f", name: {name}")))
    assert problem.startswith("m.yaml:4: guests[0].name: ")
    assert "is not a valid name" in problem


def test_a_default_overlay_keeps_off_the_guests(folder):
    make("clones/a.qcow2")
    manifest = read(
        guests(raw("clones/a.img"), "{path: clones/a.qcow2, format: qcow2, overlay: {path: thin.qcow2}}")
    )
    assert named(manifest, folder) == {
        "clones/a.img": "clones/a.overlay.qcow2",
        "clones/a.qcow2": "thin.qcow2",
    }


def test_two_default_overlays_of_one_name(folder):
    make("clones/a.raw")
    (problem,) = problems(guests(raw("clones/a.img"), raw("clones/a.raw")))
    assert "have the same overlay" in problem
    assert 'guests[1] ("clones/a.raw") and guests[0] ("clones/a.img")' in problem


def test_an_existing_overlay_is_a_problem_unless_allowed(folder):
    make("clones/a.qcow2")
    text = guests(raw("clones/a.img"))
    (problem,) = problems(text)
    assert re.match(
        r'm.yaml:4: guests\[0\].path: the overlay ".*/a.qcow2" of .* already exists\. It may be ', problem
    )
    assert problem.endswith("may be a disk in use: leave the guest out, or give it another overlay.path")
    assert len(problem) - len(folder) < 200
    assert named(read(text, allow_existing_overlays=True), folder) == {"a": "clones/a.qcow2"}


def test_a_dangling_link_in_the_place_of_an_overlay_exists(folder):
    os.symlink("nowhere", "clones/a.qcow2")
    assert "already exists" in problems(guests(raw("clones/a.img")))[0]


def test_files_that_are_no_manifest(folder):
    for path, content in {
        "latin": b"version: 1\n# \xe9\n",
        "binary": bytes(range(256)),
        "large": b"#" * (MAX_BYTES + 1),
    }.items():
        with open(path, "wb") as file:
            file.write(content)
        with pytest.raises(ManifestError, match=path):
            read_manifest(path)
    with pytest.raises(ManifestError, match="latin:2: this line is not valid UTF-8"):
        read_manifest("latin")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("n.yaml", 'n.yaml: no such file. Did you mean "m.yaml"?'),
        ("nowhere/m.yaml", "nowhere/m.yaml: no such file. Its folder does not exist or cannot be listed"),
        ("", "no such file"),
        ("clones", "cannot read the manifest clones: it is a folder. Name a YAML file"),
        ("a\0b", "cannot read the manifest a\\x00b: it contains a null byte, which no path can have"),
        ("a\nb", "a\\nb: no such file"),
        ("m.yaml/x", "cannot read the manifest m.yaml/x: "),
    ],
)
def test_files_that_cannot_be_read(folder, path, message):
    write("")
    with pytest.raises(ManifestError) as caught:
        read_manifest(path)
    assert message in str(caught.value)


def test_an_existing_overlay_of_a_glob_gets_only_possible_remedies(folder):
    make("clones/a.qcow2")
    (problem,) = problems(guests("{glob: clones/*.img, format: raw}"))
    assert problem.endswith(
        "disk in use: `exclude` the guest, or list it by path and give it another overlay.path"
    )


def test_a_default_name_gives_way_to_a_given_one(folder):
    manifest = read(guests(raw("clones/b.img"), raw("clones/a.img", ", name: b")))
    assert named(manifest, folder) == {"clones/b.img": "clones/b.qcow2", "b": "clones/a.qcow2"}


def options_of(shared: str, own: str) -> OverlayOptions:
    head = f"{HEAD}defaults: {{format: raw, overlay: {{{shared}}}}}\n"
    return read(guests(f"{{path: clones/a.img, overlay: {{{own}}}}}", head=head)).guests[0].options


@pytest.mark.parametrize(
    ("shared", "own", "expected"),
    [
        ("cluster_size: auto, extended_l2: auto", "", OverlayOptions(None, None)),
        ("extended_l2: auto", "extended_l2: true, cluster_size: auto", OverlayOptions(None, True)),
        ("extended_l2: auto", "extended_l2: false", OverlayOptions()),
        ("refcount_bits: 1", "", OverlayOptions(refcount_bits=1)),
        ("refcount_bits: 1", "refcount_bits: 64", OverlayOptions(refcount_bits=64)),
        ('compat: "0.10"', "", OverlayOptions(compat=Compat.V2)),
        ("compat: '0.10'", "compat: '1.1', refcount_bits: 8", OverlayOptions(refcount_bits=8)),
        (
            "compression: zstd, compression_level: 22",
            "cluster_size: 4k",
            OverlayOptions(4096, compression=Compression.ZSTD, compression_level=22),
        ),
        (
            "compression: zstd, compression_level: 22",
            "compression_level: 1",
            OverlayOptions(compression=Compression.ZSTD, compression_level=1),
        ),
        # The level belongs to the compression beside it.
        (
            "compression: zstd, compression_level: 22",
            "compression: zlib",
            OverlayOptions(compression=Compression.ZLIB),
        ),
        ("compression: zstd, compression_level: 22", "compression: none", OverlayOptions()),
    ],
)
def test_options_of_an_overlay_and_of_the_defaults(folder, shared, own, expected):
    assert options_of(shared, own) == expected


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("!foo\na: 1\n", 'the tag "!foo" has no meaning in a manifest'),
        (f"{'9' * 5000}\n", "is not a value that can be used"),
    ],
)
def test_a_manifest_of_one_value_that_cannot_be_used_is_not_called_empty(folder, text, problem):
    with pytest.raises(ManifestError) as caught:
        read(text)
    assert problem in str(caught.value)
    assert "empty" not in str(caught.value)
