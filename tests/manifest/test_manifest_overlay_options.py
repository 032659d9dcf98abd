"""Options that no overlay can have, or have together, are problems of the manifest, each with what to change.

QEMU is asked, too: what is refused here, it does not create.

Guards plan/overlay_rules.py, plan/overlay_options.py.
"""

import dataclasses
import os
import subprocess
from pathlib import Path

import pytest
from encrypted import secret_file
from manifest_texts import HEAD, guests, problems, raw, read, write
from plans import guest_plan, small_plan

from batchdiff.errors import ManifestError
from batchdiff.image_source import ImageFormat
from batchdiff.manifest.selection import read_selected
from batchdiff.plan.document import from_dict, to_dict
from batchdiff.plan.overlay_options import Encryption, OverlayFormat, OverlayOptions, Preallocation
from batchdiff.plan.overlay_rules import template_objection

LUKS = "format: luks, secret_file: secret"
B = "{path: clones/b.img}"


@pytest.fixture(autouse=True)
def secret(folder):
    return secret_file(Path(folder) / "secret")


def one(options: str) -> str:
    """A manifest of one guest, whose overlay has these options."""
    return guests(raw("clones/a.img", f", overlay: {{{options}}}"))


IMPOSSIBLE = [
    ("format: qed, compression: zlib", "compression", "no compressed clusters"),
    ("format: qed, extended_l2: true", "extended_l2", "no subclusters"),
    ("format: qed, lazy_refcounts: true", "lazy_refcounts", "no refcounts"),
    ("format: qed, refcount_bits: 8", "refcount_bits", "no refcounts"),
    ("format: qed, compat: '0.10'", "compat", "no versions"),
    ("format: qed, preallocation: full", "preallocation", "no preallocation"),
    (f"format: qed, encryption: {{{LUKS}}}", "encryption", "no encryption"),
    ("format: qed, cluster_size: 2KiB", "cluster_size", "from 4 KiB to 4 MiB"),
    ("format: qed, cluster_size: 4MiB, table_size: 4", "table_size", "smaller table_size"),
    ("format: qed, cluster_size: 4MiB", "cluster_size", "smaller cluster_size"),
    ("table_size: 8", "table_size", "`format: qed`"),
    ("preallocation: metadata", "preallocation", "`extended_l2: true`"),
    ("preallocation: falloc", "preallocation", "`extended_l2: true`"),
    ("preallocation: full, extended_l2: true, compression: zstd", "preallocation", "leave out either"),
    (f"compression: zlib, encryption: {{{LUKS}}}", "encryption", "leave out either"),
    (f"encryption: {{{LUKS}, cipher_alg: cast5-128}}", "encryption.cipher_mode", "`cipher_mode: cbc`"),
    (f"encryption: {{{LUKS}, cipher_alg: aes-192, cipher_mode: cbc}}", "encryption.cipher_alg", "128 or 256"),
    (f"encryption: {{{LUKS}, ivgen_alg: essiv, ivgen_hash_alg: sha1}}", "encryption.ivgen_hash_alg", "sha256"),
    (f"encryption: {{{LUKS}, ivgen_hash_alg: md5}}", "encryption.ivgen_hash_alg", "leave it out"),
    (f"encryption: {{{LUKS}, iter_time: 0}}", "encryption.iter_time", "1 to 30000"),
    (f"encryption: {{{LUKS}, iter_time: 30001}}", "encryption.iter_time", "1 to 30000"),
    ("data_file: clones/x.data, compression: zstd", "data_file", "no compressed clusters"),
    ("data_file: true, compat: '0.10'", "data_file", '`compat: "1.1"`'),
    (f"data_file: true, encryption: {{{LUKS}}}", "data_file", "leave out either"),
    ("data_file: true, preallocation: falloc", "preallocation", "`extended_l2: true`"),
    ("data_file: a.data", "data_file", "write `data_file: true` for"),
    ("data_file: clones/gone/a.data", "data_file", "name a file in the overlay's folder"),
    ("data_file: clones/", "data_file", "is not a usable file name"),
    ("data_file: clones/x.batchdiff-original", "data_file", "reserved for batchdiff's own files"),
    ("data_file: clones/fleet.plan.json.journal", "data_file", "reserved for batchdiff's own files"),
    ("path: clones/x.batchdiff-deleting", "path", "reserved for batchdiff's own files"),
    ("path: clones/fleet.journal", "path", "reserved for batchdiff's own files"),
    ("path: fleet.plan.json", "path", "reserved for batchdiff's own files"),
    ("data_file: ''", "data_file", "must not be empty"),
    ("data_file: clones/a.img", "data_file", "is also the guest"),
    ("data_file: clones/b.img", "data_file", "already exists"),
    ("data_file: clones/a.qcow2", "data_file", "is also an overlay"),
    ("data_file: []", "data_file", "true or false or a string"),
    ("format: qed, data_file: a.data", "data_file", "no external data file"),
    ("data_file_raw: true", "data_file_raw", "without a backing file"),
]


@pytest.mark.parametrize(("options", "key", "words"), IMPOSSIBLE, ids=[case[0] for case in IMPOSSIBLE])
def test_an_impossible_combination(folder, options, key, words):
    (problem,) = problems(one(options))
    assert f"guests[0].overlay.{key}: " in problem
    assert words in problem


@pytest.mark.parametrize("options", ["preallocation: metadata", f"encryption: {{{LUKS}, iter_time: 0}}"])
def test_in_the_defaults_it_is_reported_there(folder, options):
    head = f"{HEAD}defaults: {{format: raw, overlay: {{{options}}}}}\n"
    (problem,) = problems(guests("{path: clones/a.img}", head=head))
    assert "defaults.overlay." in problem


@pytest.mark.parametrize(
    ("encryption", "words"),
    [
        ("{format: luks}", "secret_file is missing; write the path of the file that contains the secret"),
        ("{secret_file: secret}", "format is missing"),
        ("{format: aes, secret_file: secret}", "luks"),
        ("{format: luks, secret_file: missing}", "No such file"),
        ("{format: luks, secret_file: clones}", "neither a regular file"),
        ("{format: luks, secret_file: secret, cipher_algo: aes-256}", 'did you mean "cipher_alg"'),
        ("{format: luks, secret_file: secret, cipher_alg: aes-255}", "aes-256"),
    ],
)
def test_a_wrong_encryption(folder, encryption, words):
    assert any(words in problem for problem in problems(one(f"encryption: {encryption}")))


def test_the_secret_is_found_from_the_manifest(folder):
    manifest = read(one(f"encryption: {{{LUKS}, cipher_mode: cbc}}"))
    (guest,) = manifest.guests
    assert guest.options.encryption == Encryption(os.path.join(folder, "secret"), cipher_mode="cbc")


def test_a_secret_is_no_guest_of_a_glob(folder):
    options = "{path: same, encryption: {format: luks, secret_file: clones/a.img}}"
    text = f"{{glob: clones/*.img, format: raw, overlay: {options}}}"
    with open("clones/a.img", "w", encoding="ascii") as file:
        file.write("secret")
    manifest = read(guests(text, tail="retire: delete\n"))
    assert [os.path.basename(guest.image.path) for guest in manifest.guests] == ["b.img"]


@pytest.mark.parametrize(("form", "suffix"), [("qed", "qed"), ("qcow2", "qcow2")])
def test_the_default_path_has_the_formats_suffix(folder, form, suffix):
    manifest = read(one(f"format: {form}"))
    assert os.path.basename(manifest.guests[0].overlay_path) == f"a.{suffix}"


@pytest.mark.parametrize("form", ImageFormat)
def test_a_template_that_qemu_would_not_recognise_below_qed(form):
    objection = template_objection(OverlayOptions(format=OverlayFormat.QED), form)
    assert bool(objection) is (form in {ImageFormat.VPC, ImageFormat.LUKS})
    assert template_objection(OverlayOptions(), form) == ""


@pytest.mark.parametrize(
    "changes",
    [
        {"format": OverlayFormat.QED, "compression": "zlib"},
        {"preallocation": Preallocation.METADATA},
        {"format": OverlayFormat.QED, "cluster_size": 512},
        {"cluster_size": 4 << 20},
    ],
)
def test_a_plan_cannot_have_it_either(changes):
    document = to_dict(small_plan(guest_plan()))
    document["guests"][0]["overlay"] |= changes
    with pytest.raises(ValueError, match=r"^overlay\."):
        from_dict(document)


@pytest.mark.parametrize(
    "options",
    [
        OverlayOptions(format=OverlayFormat.QED, table_size=16),
        OverlayOptions(encryption=Encryption("/srv/secret", "serpent-128", "cbc", "essiv", "md5", "sha1", 7)),
    ],
)
def test_a_plan_keeps_them(options):
    guest = dataclasses.replace(guest_plan(), options=options)
    assert from_dict(to_dict(small_plan(guest))).guests[0].options == options


QEMU_REFUSES = {
    "preallocation=metadata": "extended_l2",
    "data_file=data,data_file_raw=on": "data-file-raw",
    "encrypt.format=luks,encrypt.key-secret=s,encrypt.cipher-alg=cast5-128": "",
}


@pytest.mark.parametrize("options", QEMU_REFUSES)
def test_qemu_does_not_create_it(folder, options):
    argv = ["qemu-img", "create", "-q", "--object", "secret,id=s,file=secret", "-f", "qcow2", "-b", "t.img"]
    done = subprocess.run(
        [*argv, "-F", "raw", "-o", options, "o.qcow2"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert QEMU_REFUSES[options] in done.stderr


def test_data_files_have_names_of_their_own(folder):
    """By default beside the overlay, whatever its path; a guest can do without the one of the defaults."""
    head = f"{HEAD}defaults: {{format: raw, overlay: {{data_file: true}}}}\n"
    text = guests(
        "{path: clones/a.img}",
        "{path: clones/b.img, overlay: {path: same, data_file: clones/other}}",
        head=head,
        tail="retire: delete\n",
    )
    assert [os.path.relpath(each, folder) for each in data_files(read(text))] == [
        "clones/a.data.raw",
        "clones/other",
    ]
    text = guests(
        "{path: clones/a.img, overlay: {path: same}}", "{path: clones/b.img, overlay: {data_file: false}}"
    )
    text = text.replace(HEAD, head) + "retire: delete\n"
    a, b = data_files(read(text))
    assert (os.path.relpath(a, folder), b) == ("clones/a.data.raw", None)


def data_files(manifest):
    return [guest.options.data_file for guest in manifest.guests]


@pytest.mark.parametrize(
    ("items", "where", "words"),
    [
        (("{path: clones/a.img}", "{path: clones/b.img}"), "defaults.overlay", "write `data_file: true`"),
        (
            ("{glob: clones/a*.img, overlay: {data_file: clones/x}}",),
            "guests[0].overlay",
            "write `data_file: true`",
        ),
        (
            tuple(f"{{path: clones/{name}.img, overlay: {{data_file: clones/x}}}}" for name in "ab"),
            "guests[1].overlay",
            "is also the data file of guests[0]",
        ),
        (
            ("{path: clones/a.img, overlay: {data_file: clones/b.qcow2}}", B),
            "guests[0].overlay",
            "is also an overlay",
        ),
        (
            ("{path: clones/a.img, overlay: {path: x.qcow2, data_file: t.img}}",),
            "guests[0].overlay",
            "the template",
        ),
        (
            (f"{{path: clones/a.img, overlay: {{data_file: clones/{'x' * 240}}}}}",),
            "guests[0].overlay",
            "the limit",
        ),
    ],
)
def test_a_data_file_that_is_impossible(folder, items, where, words):
    default = "clones/d" if where.startswith("defaults") else "false"
    head = f"{HEAD}defaults: {{format: raw, overlay: {{data_file: {default}}}}}\n"
    (problem,) = problems(guests(*items, head=head))
    assert f"{where}.data_file: " in problem
    assert words in problem


def test_a_data_file_of_a_chosen_guest_exists(folder):
    text = guests("{path: clones/a.img, format: raw, overlay: {data_file: true}}", raw("clones/b.img"))
    Path("clones/a.data.raw").write_bytes(b"")
    with pytest.raises(ManifestError, match=r"a\.data\.raw.* already exists"):
        read_selected(write(text), ["a"])
    assert [guest.name for guest in read_selected(write(text), ["b"]).guests] == ["b"]


def test_a_glob_takes_no_data_file(folder):
    """Neither one that an overlay will have, nor one that has a given name."""
    for name in ("clones/a.data.raw", "clones/mine.raw", "clones/c.raw"):
        Path(name).write_bytes(b"")
    text = guests(
        raw("clones/a.img", ", overlay: {data_file: true}"),
        raw("clones/b.img", ", overlay: {data_file: clones/mine.raw}"),
        "{glob: clones/*.raw, format: raw}",
    )
    assert [guest.name for guest in read(text, allow_existing_overlays=True).guests] == ["a", "b", "c"]
