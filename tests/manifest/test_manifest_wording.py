"""The exact text of a manifest's problems that no other test quotes whole."""

from __future__ import annotations

import pytest
from manifest_texts import guests, problems, raw

GUEST = raw("clones/a.img")


def overlay(options: str) -> str:
    return raw("clones/a.img", f", overlay: {{{options}}}")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            guests(GUEST, tail="minimum_savings: much\n"),
            '5: minimum_savings: "much" is not a percentage from 0% to 100%; write a share such as 5% or 0.05, or'
            " none",
        ),
        (
            guests(GUEST, tail="minimum_savings: 20\n"),
            '5: minimum_savings: 20 is more than 100%; did you mean "20%"?',
        ),
        (
            guests(overlay("cluster_size: 3k")),
            '4: guests[0].overlay.cluster_size: "3k" is not a cluster size; write auto, or a power of two from'
            " 512 B to 2 MiB, such as 64KiB",
        ),
        (
            guests(overlay("cluster_size: 8k, extended_l2: true")),
            "4: guests[0].overlay.extended_l2: needs a cluster_size of 16 KiB or more, not 8 KiB",
        ),
        (
            guests(overlay("path: new folder/a.qcow2")),
            '4: guests[0].overlay.path: the overlay\'s folder "{folder}/new folder" does not exist; create it:'
            " `mkdir -p '{folder}/new folder'`",
        ),
        (
            guests(overlay("path: t.img/a.qcow2")),
            '4: guests[0].overlay.path: the overlay\'s folder "{folder}/t.img" is not a folder; correct the path',
        ),
        (
            guests(overlay("path: t.img/b/a.qcow2")),
            '4: guests[0].overlay.path: the overlay\'s folder "{folder}/t.img/b" cannot be checked: Not a'
            " directory; correct the path",
        ),
        (
            guests(overlay("path: same")),
            "4: guests[0].overlay.path: the overlay is to take the guest's place, but `retire: keep` (the default)"
            " leaves the guest there; write `retire: quarantine` or `retire: delete`, or give the overlay another"
            " path (`./same` for a file named same)",
        ),
        (
            guests("{glob: 'clones/*.img', format: raw, overlay: {path: same}}"),
            "4: guests[0].overlay.path: the overlay is to take the guest's place, but `retire: keep` (the default)"
            " leaves the guest there; write `retire: quarantine` or `retire: delete`, or leave overlay.path out",
        ),
        (
            guests(raw("clones/a.img", ', name: "  "')),
            '4: guests[0].name: "  " is not a valid name: it contains only blanks',
        ),
        (
            guests("{glob: 'clones/*.img', format: raw, name: web}"),
            "4: guests[0]: name is allowed with path, not with glob, because each guest needs its own name",
        ),
        (
            guests("{glob: 'clones/*.img', format: raw, overlay: {path: x.qcow2}}"),
            "4: guests[0].overlay.path: only an entry with a path, not a glob, can name a file, because each guest"
            " needs its own overlay; the only value allowed here is `same`, which stands for each guest's own"
            " path",
        ),
        (
            guests(GUEST, head="version: 1\ntemplate: {}\n"),
            "2: template: format is missing, and is never guessed; write the image's format, such as"
            " `format: raw`",
        ),
        (
            guests(GUEST, tail="x: " + "[" * 60 + "]" * 60 + "\n"),
            "5: values are nested more than 50 levels deep",
        ),
    ],
)
def test_what_is_printed(folder, text, expected):
    found = problems(text)
    assert f"m.yaml:{expected.format(folder=folder)}" in found
