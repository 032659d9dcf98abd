"""Keys and values that no manifest may have, told in plain words.

Guards manifest/entries.py, manifest/text/problems.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from manifest_texts import HEAD, guests, make, problems, raw

from batchdiff.image_source import MAX_CHAIN


@pytest.mark.parametrize("size", ["5", "0", "-65536", "4MiB", "256", "big", '""', "65537", "9" * 5000, ".5k"])
def test_cluster_sizes_that_are_none(folder, size):
    (problem,) = problems(guests(raw("clones/a.img", f", overlay: {{cluster_size: {size}}}")))
    assert problem.startswith("m.yaml:4: guests[0].overlay.cluster_size: ")
    assert "is not a" in problem


IMPOSSIBLE = 'is impossible with `compat: "0.10"`; use `{}`, or `compat: "1.1"`'


@pytest.mark.parametrize(
    ("overlay", "key", "message"),
    [
        (
            "cluster_size: 8k, extended_l2: true",
            "extended_l2",
            "needs a cluster_size of 16 KiB or more, not 8 KiB",
        ),
        (
            "compression_level: 3",
            "compression_level",
            "needs `compression: zlib` or `compression: zstd`",
        ),
        (
            "compression: zlib, compression_level: 10",
            "compression_level",
            "10 is not a level of zlib; use 1 to 9",
        ),
        ('compat: "0.10", extended_l2: true', "extended_l2", IMPOSSIBLE.format("extended_l2: false")),
        ('compat: "0.10", compression: zstd', "compression", IMPOSSIBLE.format("compression: zlib")),
        ('compat: "0.10", lazy_refcounts: true', "lazy_refcounts", IMPOSSIBLE.format("lazy_refcounts: false")),
        *(
            (f'compat: "0.10", refcount_bits: {bits}', "refcount_bits", IMPOSSIBLE.format("refcount_bits: 16"))
            for bits in (1, 2, 4, 8, 32, 64)
        ),
    ],
)
def test_options_that_no_overlay_can_have_together(folder, overlay, key, message):
    (problem,) = problems(guests(raw("clones/a.img", f", overlay: {{{overlay}}}")))
    assert problem == f"m.yaml:4: guests[0].overlay.{key}: {message}"


def test_all_contradictions_are_reported_at_once(folder):
    everything = (
        "extended_l2: true, lazy_refcounts: true, refcount_bits: 1, compression: zstd, compression_level: 22"
    )
    found = problems(guests(raw("clones/a.img", f', overlay: {{compat: "0.10", {everything}}}')))
    assert [problem.split(":")[2] for problem in found] == [
        f" guests[0].overlay.{key}" for key in ("extended_l2", "compression", "lazy_refcounts", "refcount_bits")
    ]


@pytest.mark.parametrize("at", ["guest", "defaults"])
def test_a_level_of_an_unknown_compression_is_no_second_problem(folder, at):
    overlay = "overlay: {compression: lz4, compression_level: 9}"
    if at == "guest":
        found = problems(guests(raw("clones/a.img", f", {overlay}")))
    else:
        found = problems(guests("path: clones/a.img", head=HEAD + f"defaults: {{format: raw, {overlay}}}\n"))
    assert len(found) == 1
    assert 'compression: expected one of none, zlib, zstd, found the text "lz4"' in found[0]


def test_a_contradiction_is_reported_where_its_key_is(folder):
    """The default that one guest contradicts, not the guest's own key."""
    head = HEAD + "defaults: {format: raw, overlay: {lazy_refcounts: true}}\n"
    (problem,) = problems(
        guests('{path: clones/a.img, overlay: {compat: "0.10"}}', "path: clones/b.img", head=head)
    )
    assert problem.startswith("m.yaml:3: defaults.overlay.lazy_refcounts: is impossible with")


def test_a_wrong_default_is_reported_once_at_its_line(folder):
    head = HEAD + "defaults: {format: raw, overlay: {cluster_size: 3}}\n"
    (problem,) = problems(guests("path: clones/a.img", "path: clones/b.img", head=head))
    assert problem.startswith("m.yaml:3: defaults.overlay.cluster_size: 3 is not a cluster size")


@pytest.mark.parametrize(
    "share", ["101%", "1.5", "50", "-1", "-5%", ".nan", ".inf", '"nan"', "inf%", "x", '""', "true"]
)
def test_minimum_savings_that_are_none(folder, share):
    (problem,) = problems(guests(raw("clones/a.img"), tail=f"minimum_savings: {share}\n"))
    assert problem.startswith("m.yaml:5: minimum_savings: ")


def test_a_number_of_percent_is_guessed(folder):
    (problem,) = problems(guests(raw("clones/a.img"), tail="minimum_savings: 5\n"))
    assert problem.endswith('5 is more than 100%; did you mean "5%"?')


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("retires: keep", 'retires: unknown key; did you mean "retire"?'),
        ("zzz: 1", "zzz: unknown key; the keys allowed here are version, template, defaults, guests, retire"),
        ("retire: remove", 'retire: expected one of keep, quarantine, delete, found the text "remove"'),
        ("retire: quarantin", 'found the text "quarantin"; did you mean "quarantine"?'),
        ("retire:", "retire: expected one of keep, quarantine, delete, found nothing"),
        ("protect_template: 1", "protect_template: expected true or false, found the number 1"),
        ("minimum_savings: []", "minimum_savings: expected a number or a string, found a list"),
        (
            "allow_loss: snapshots",
            'allow_loss: expected a list, found the text "snapshots"; write `allow_loss: [snapshots]`',
        ),
        ("exclude: 'true'", '; write `exclude: ["true"]`'),
        ("exclude: clones/b.raw", "; write `exclude: [clones/b.raw]`"),
        ('exclude: "clones/*"', '; write `exclude: ["clones/*"]`'),
        ("allow_loss: [snapshot]", 'found the text "snapshot"; did you mean "snapshots"?'),
        ("defaults: {overlay: {path: x}}", "defaults.overlay.path: only a guest's own entry can name a file"),
        ("defaults: {path: x}", "defaults.path: unknown key"),
        ("defaults: {overlay: {cluster_size: true}}", "expected a whole number or a string, found true"),
        ("defaults: {overlay: {cluster_size: 1.5}}", "expected a whole number or a string, found the number 1.5"),
        ("defaults: {overlay: {extended_l2: 'yes'}}", 'expected one of true, false, auto, found the text "yes"'),
        ("defaults: {overlay: {extended_l2: 1}}", "expected one of true, false, auto, found the number 1"),
        ("defaults: {overlay: {extended_l2: aut}}", 'found the text "aut"; did you mean "auto"?'),
        (
            "defaults: {overlay: {compat: 0.10}}",
            'expected one of 0.10, 1.1, found the number 0.1; put it in quotes: "0.10"',
        ),
        ("defaults: {overlay: {compat: 1.1}}", 'found the number 1.1; put it in quotes: "1.1"'),
        ("defaults: {overlay: {compat: 1.2}}", "expected one of 0.10, 1.1, found the number 1.2"),
        ("defaults: {overlay: {compat: v2}}", 'expected one of 0.10, 1.1, found the text "v2"'),
        ("defaults: {overlay: {compat: true}}", "expected one of 0.10, 1.1, found true"),
        ("defaults: {overlay: {refcount_bits: 3}}", "expected one of 1, 2, 4, 8, 16, 32, 64, found the number 3"),
        (
            "defaults: {overlay: {refcount_bits: '16'}}",
            'expected one of 1, 2, 4, 8, 16, 32, 64, found the text "16"',
        ),
        ("defaults: {overlay: {refcount_bits: true}}", "expected one of 1, 2, 4, 8, 16, 32, 64, found true"),
        ("defaults: {overlay: {compression_level: max}}", 'expected a whole number, found the text "max"'),
        ("defaults: {overlay: {compression_level: 0}}", "compression_level: 0 is below 1; use 1 or more"),
        ("defaults: {overlay: {compression_level: 23}}", "compression_level: 23 is above 22; use 22 or less"),
        (
            "defaults: {refcount_bits: 1}",
            "defaults.refcount_bits: unknown key; it belongs in `overlay: {refcount_bits: ...}` of a guest",
        ),
        ("defaults:", "defaults: expected a mapping, found nothing"),
    ],
)
def test_schema_problems(folder, text, expected):
    (problem,) = problems(guests(raw("clones/a.img"), tail=text + "\n"))
    assert problem.startswith("m.yaml:5: ")
    assert expected in problem


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("x.img", "; write `guests: [{path: x.img, format: ...}]`"),
        ('"a b/*.img"', '; write `guests: [{glob: "a b/*.img", format: ...}]`'),
        ("{path: x.img, format: raw}", "found a mapping; write a list, such as `guests: [{path: ...}]`"),
        ("5", "found the number 5"),
    ],
)
def test_guests_that_are_no_list(folder, written, expected):
    (problem,) = problems(f"{HEAD}guests: {written}\n")
    assert problem.startswith("m.yaml:3: guests: expected a list, found ")
    assert problem.endswith(expected)


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        ("{format: raw}", "guests[0]: a guest needs a path or a glob"),
        (
            "{path: a, format: raw, glob: b}",
            "guests[0]: path and glob are mutually exclusive; write two entries",
        ),
        ("{glob: clones/*.img, format: raw, name: x}", "guests[0]: name is allowed with path, not with glob"),
        (
            "{glob: clones/*.img, format: raw, overlay: {path: x}}",
            "guests[0].overlay.path: only an entry with a path, not a glob",
        ),
        ("{path: 5}", "guests[0].path: expected a string, found the number 5; put it in quotes"),
        ("{path: ''}", "guests[0].path: must not be empty"),
        ("{path: clones/a.img, format: raw, name: ''}", "guests[0].name: must not be empty"),
        ("{pth: a, path: clones/b.img, format: raw}", 'guests[0].pth: unknown key; did you mean "path"?'),
        (
            "{path: clones/a.img, format: raw, overlay: {clustersize: 1}}",
            'overlay.clustersize: unknown key; did you mean "cluster_size"?',
        ),
        ("{path: clones/a.img, fromat: raw}", 'guests[0].fromat: unknown key; did you mean "format"?'),
        ("{path: clones/a.img, format: rwa}", 'found the text "rwa"; did you mean "raw"?'),
        (
            "{path: clones/c.qcow2, format: qcow2, backing: [{path: clones/a.img}]}",
            "guests[0].backing[0]: format is missing",
        ),
        (
            "{path: clones/c.qcow2, format: qcow2, backing: [{format: raw}]}",
            "guests[0].backing[0]: path is missing",
        ),
        ("clones/a.img", 'guests[0]: expected a mapping, found the text "clones/a.img"'),
    ],
)
def test_schema_problems_of_a_guest(folder, item, expected):
    (problem,) = problems(guests(item))
    assert problem.startswith("m.yaml:4: ")
    assert expected in problem


def test_a_chain_with_too_many_backing_files(folder):
    chain = ", ".join(["{path: x, format: qcow2}"] * MAX_CHAIN)
    (problem,) = problems(guests(f"{{path: clones/c.qcow2, format: qcow2, backing: [{chain}]}}"))
    assert problem.endswith(
        "guests[0].backing: at most 199 backing files are allowed; merge some of them into one image with"
        " `qemu-img convert`"
    )


def test_a_missing_template_format_has_a_hint(folder):
    (problem,) = problems(guests(raw("clones/a.img"), head="version: 1\ntemplate: {path: clones/c.qcow2}\n"))
    assert problem == (
        "m.yaml:2: template: format is missing; the file looks like a qcow2 image, "
        "so if you trust where it came from, write `format: qcow2`"
    )


def test_what_looks_encrypted_is_not_called_a_format_to_write(folder):
    Path(folder, "clones", "a.img").write_bytes(b"LUKS\xba\xbe".ljust(4096, b"\1"))
    (problem,) = problems(guests("{path: clones/a.img}"))
    assert "format is missing; the file looks encrypted (luks)" in problem
    assert "if QEMU encrypts it, write `format: luks` and `secret_file: PATH`" in problem


def test_missing_keys(folder):
    assert problems("version: 1\n") == ["m.yaml:1: template is missing", "m.yaml:1: guests is missing"]
    assert problems(HEAD + "guests: []\n") == ["m.yaml:3: guests: at least one guest is needed"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("x: 5\n", "m.yaml:1: version is missing; begin the manifest with `version: 1`"),
        ("x: 1\nversion: 2\n", "m.yaml:2: version: expected 1, found the number 2; only version 1 can be read"),
        ("version: '1'\n", 'm.yaml:1: version: expected 1, found the text "1"; only version 1 can be read'),
        ("version: true\nx: 1\nx: 1\n", "m.yaml:1: version: expected 1, found true; only version 1 can be read"),
        ("[]", "m.yaml:1: expected a mapping with version, template and guests, found a list"),
        ("", "m.yaml:1: the manifest is empty; docs/manifest.md has an example"),
    ],
)
def test_the_version_is_looked_at_first(folder, text, problem):
    assert problems(text) == [problem]


@pytest.mark.parametrize(
    ("first", "problem"),
    [
        ("", "m.yaml:1: version is missing; begin the manifest with `version: 1`"),
        ("version: '1'\n", 'm.yaml:1: version: expected 1, found the text "1"; only version 1 can be read'),
        ("version:\n", "m.yaml:1: version: expected 1, found nothing; only version 1 can be read"),
    ],
)
def test_a_version_that_is_missing_or_odd_hides_nothing(folder, first, problem):
    text = guests("{pth: clones/a.img, format: raw}", head=f"{first}template: {{path: t.img, format: rwa}}\n")
    found = problems(text)
    assert found[0] == problem
    assert [each.split(": ")[1] for each in found[1:]] == ["template.format", "guests[0].pth", "guests[0]"]


@pytest.mark.parametrize(
    ("item", "tail", "problem"),
    [
        (
            "{path: clones/a.img, format: raw, retire: keep}",
            "",
            "guests[0].retire: unknown key; it belongs at the top",
        ),
        (
            "{path: clones/a.img, format: raw, cluster_size: 64k}",
            "",
            "guests[0].cluster_size: unknown key; it belongs in `overlay: {cluster_size: ...}` of a guest or of",
        ),
        (
            "{glob: clones/*.img, format: raw, exclude: [x]}",
            "",
            "guests[0].exclude: unknown key; it belongs at the top level of the manifest",
        ),
        (
            raw("clones/a.img"),
            "format: raw\n",
            "format: unknown key; it belongs in `template`, an item of `guests`, or `defaults`",
        ),
        (raw("clones/a.img"), "name: x\n", "name: unknown key; it belongs in an item of `guests`"),
        ("{path: clones/a.img, format:raw}", "", "write a space after the colon: `format: raw`"),
        ("{glob:*.img, format: raw}", "", 'write a space after the colon: `glob: "*.img"`'),
        ("clones/a.img", "", 'found the text "clones/a.img"; write `{path: clones/a.img, format: ...}`'),
        ("'clones/a, b.img'", "", 'write `{path: "clones/a, b.img", format: ...}`'),
        ("clones/*.img", "", 'write `{glob: "clones/*.img", format: ...}`'),
    ],
)
def test_where_a_key_belongs(folder, item, tail, problem):
    assert problem in "\n".join(problems(guests(item, tail=tail)))


def test_where_a_key_belongs_that_has_no_default(folder):
    (problem,) = problems(guests(raw("clones/a.img"), tail="defaults: {overlay: {vmid: 101}}\n"))
    assert problem.endswith("defaults.overlay.vmid: unknown key; it belongs in `overlay: {vmid: ...}` of a guest")


def test_all_problems_of_all_kinds_at_once(folder):
    text = HEAD + (
        "guests:\n  - {path: clones/a.img, fromat: raw}\n  - {path: clones/x.img, format: raw}\n"
        "  - {path: t.img, format: raw, overlay: {path: same}}\n  - path: clones/b.img\n"
        "retire: never\nretire: keep\n"
    )
    found = problems(text)
    assert [problem.split(": ")[0] for problem in found] == [f"m.yaml:{line}" for line in (4, 5, 6, 7, 8, 9)]


@pytest.mark.parametrize(
    ("item", "also"),
    [
        ("{path: clones/a.img, format: raw, overlay: {cluster_size: 100k, %s}}", '"100k" is not a cluster size'),
        (
            "{path: clones/a.img, format: raw, overlay: {extended_l2: true, cluster_size: 4k, %s}}",
            "needs a cluster_size of 16 KiB or more",
        ),
        ("{path: clones/a.img, format: raw, overlay: {path: no/x, %s}}", "mkdir -p "),
        ("{path: clones/a.img, format: raw, overlay: {path: t.img, %s}}", "is also the template"),
        ("{path: clones/x.img, format: raw, overlay: {%s}}", "no such file"),
        ("{path: clones/a.img, overlay: {%s}}", "format is missing; the file looks like a raw image"),
        ("{path: t.img, format: raw, overlay: {%s}}", "is the template, so it cannot also be a guest"),
        ("{glob: no/*, format: raw, overlay: {%s}}", "no image matches"),
        ("{format: raw, overlay: {cluster_size: 3, %s}}", "3 is not a cluster size"),
    ],
)
def test_the_sound_keys_of_an_entry_are_checked_too(folder, item, also):
    """Where the schema objects to one key, the others' problems are told in the same round."""
    found = problems(guests(item % "compresion: zstd"))
    assert [problem for problem in found if 'compresion: unknown key; did you mean "compression"?' in problem]
    assert [problem for problem in found if also in problem]


@pytest.mark.parametrize(
    ("tail", "also"),
    [
        ("defaults: {formt: raw, overlay: {cluster_size: 3}}\n", ["defaults.overlay.cluster_size: 3 is no"]),
        (
            "defaults: {overlay: {compression: lz4, cluster_size: 3}}\n",
            ["expected one of", "3 is not a cluster size"],
        ),
        ("defaults: {overlay: 5}\n", ["defaults.overlay: expected a mapping"]),
    ],
)
def test_defaults_with_an_unsound_key_hide_nothing(folder, tail, also):
    found = "\n".join(problems(guests(raw("clones/a.img"), raw("clones/x.img"), tail=tail)))
    for words in [*also, "guests[1].path: no such file"]:
        assert words in found


def test_a_misspelt_default_format_is_reported_once(folder):
    found = problems(guests("path: clones/a.img", "path: clones/b.img", tail="defaults: {fromat: raw}\n"))
    assert found == ['m.yaml:6: defaults.fromat: unknown key; did you mean "format"?']


def test_what_is_wrong_in_the_template_hides_no_problem_of_it(folder):
    head = "version: 1\ntemplate: {path: x.img, format: rwa, bcking: []}\n"
    found = "\n".join(problems(guests(raw("clones/a.img"), head=head)))
    for words in ("template.path: no such file", 'did you mean "raw"?', 'did you mean "backing"?'):
        assert words in found
    assert len(found.split("\n")) == 3


def test_an_unsound_overlay_path_is_not_taken_for_the_default(folder):
    make("clones/a.qcow2")
    (problem,) = problems(guests(raw("clones/a.img", ", overlay: {path: 5}")))
    assert "expected a string, found the number 5" in problem
