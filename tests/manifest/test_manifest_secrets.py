"""The secret files that a manifest names for encrypted images."""

import os

import pytest
from manifest_texts import HEAD, guests, problems, read

SECRET = "clones/secret"
LUKS = "{path: clones/a.img, format: luks, secret_file: clones/secret}"


@pytest.fixture(autouse=True)
def secret(folder):
    """A secret file that only its owner can read."""
    with open(SECRET, "w", encoding="utf-8") as file:
        file.write("s3cret")
    os.chmod(SECRET, 0o600)
    return os.path.join(folder, SECRET)


def test_the_secret_file_of_a_guest(secret):
    manifest = read(guests(LUKS, "{path: clones/b.img, format: raw}"))
    assert [guest.image.secret_file for guest in manifest.guests] == [secret, None]
    assert manifest.warnings == ()


def test_the_secret_files_of_template_and_backing_files(secret):
    head = (
        "version: 1\ntemplate: {path: clones/c.qcow2, format: qcow2, secret_file: clones/secret,"
        " backing: [{path: t.img, format: luks, secret_file: clones/secret}]}\n"
    )
    template = read(guests("{path: clones/b.img, format: raw}", head=head)).template
    assert (template.secret_file, template.backing[0].secret_file) == (secret, secret)


def test_the_default_goes_with_the_default_format(secret):
    head = HEAD + "defaults: {format: luks, secret_file: clones/secret}\n"
    manifest = read(guests("{path: clones/a.img}", "{path: clones/b.img, format: raw}", head=head))
    assert [guest.image.secret_file for guest in manifest.guests] == [secret, None]


def test_a_default_without_a_format(folder):
    head = HEAD + "defaults: {secret_file: clones/secret}\n"
    (problem,) = problems(guests("{path: clones/b.img, format: raw}", head=head))
    assert problem.startswith("m.yaml:3: defaults.secret_file: needs `format` here")


def test_a_guest_has_its_own_instead_of_the_default(folder):
    os.link(SECRET, "clones/other")
    head = HEAD + "defaults: {format: luks, secret_file: clones/secret}\n"
    (guest,) = read(guests("{path: clones/a.img, secret_file: clones/other}", head=head)).guests
    assert guest.image.secret_file == os.path.join(folder, "clones/other")


@pytest.mark.parametrize("image_format", ["raw", "vmdk"])
def test_a_format_without_encryption(folder, image_format):
    item = f"{{path: clones/a.img, format: {image_format}, secret_file: clones/secret}}"
    (problem,) = problems(guests(item))
    assert problem.startswith(f"m.yaml:4: guests[0].secret_file: {image_format} images are not encrypted")
    assert problem.endswith("; leave secret_file out")


def test_luks_without_a_secret_file(folder):
    (problem,) = problems(guests("{path: clones/a.img, format: luks}"))
    assert problem.startswith("m.yaml:4: guests[0]: secret_file is missing")


def test_a_default_that_the_default_format_cannot_use(folder):
    head = HEAD + "defaults: {format: raw, secret_file: clones/secret}\n"
    (problem,) = problems(guests("{path: clones/a.img}", head=head))
    assert problem.startswith("m.yaml:3: defaults.secret_file: raw images are not encrypted")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda: os.unlink(SECRET), "No such file"),
        (lambda: os.truncate(SECRET, 0), "it is empty"),
        (lambda: os.truncate(SECRET, (1 << 20) + 1), "it is larger than 1 MiB"),
        (lambda: (os.unlink(SECRET), os.mkdir(SECRET)), "neither a regular file nor"),
        (lambda: (os.unlink(SECRET), os.mkfifo(SECRET)), "neither a regular file nor"),
        (lambda: (os.unlink(SECRET), os.symlink("/dev/zero", SECRET)), "neither a regular file nor"),
    ],
)
def test_a_file_that_cannot_be_used(folder, change, words):
    change()
    (problem,) = problems(guests(LUKS, "{path: clones/b.img, format: luks, secret_file: clones/secret}"))[:1]
    assert problem.startswith('m.yaml:4: guests[0].secret_file: "')
    assert words in problem


def test_a_default_that_cannot_be_used_is_reported_once(folder):
    os.unlink(SECRET)
    head = HEAD + "defaults: {format: luks, secret_file: clones/secret}\n"
    assert len(problems(guests("{path: clones/a.img}", "{path: clones/b.img}", head=head))) == 1


@pytest.mark.parametrize("mode", ["0640", "0644", "0604"])
def test_a_file_that_others_can_read(secret, mode):
    os.chmod(SECRET, int(mode, 8))
    (warning,) = read(guests(LUKS)).warnings
    assert warning.startswith("4: guests[0].secret_file: other users can read the secret in ")
    assert warning.endswith(f"(mode {mode}); run `chmod 600 {secret}`")


def test_a_descriptor_is_kept_as_it_is(folder):
    reading, writing = os.pipe()
    os.set_inheritable(reading, True)
    try:
        item = f"{{path: clones/a.img, format: luks, secret_file: /dev/fd/{reading}}}"
        (guest,) = read(guests(item)).guests
        assert guest.image.secret_file == f"/dev/fd/{reading}"
    finally:
        os.close(reading)
        os.close(writing)


def test_a_descriptor_that_is_not_open(folder):
    (problem,) = problems(guests("{path: clones/a.img, format: luks, secret_file: /dev/fd/987}"))
    assert "that descriptor is not open" in problem


def test_a_glob_leaves_secret_files_out(folder):
    os.unlink("clones/c.qcow2")
    head = HEAD.replace("raw}", "luks, secret_file: clones/template-secret}")
    os.link(SECRET, "clones/template-secret")
    manifest = read(guests('{glob: "clones/*", format: luks, secret_file: clones/secret}', head=head))
    assert [guest.name for guest in manifest.guests] == ["a", "b"]


def test_a_path_that_reports_cannot_show(folder):
    (problem,) = problems(guests('{path: clones/a.img, format: luks, secret_file: "clones/s\\ncret"}'))
    assert "a line break" in problem
