"""docs/share.md, command by command, on a small XFS."""

import notation
import pytest
from filesystems import mounted
from page_runner import PageRunner, page_fences

TEMPLATE = "4M:A 1M:- 3M:B"


@pytest.fixture
def page(tmp_path):
    with mounted(tmp_path, "xfs") as xfs:
        images = xfs / "images"
        (images / "clones").mkdir(parents=True)
        notation.write_raw(images / "debian-12.img", TEMPLATE)
        for number in (1, 2):
            notation.write_raw(images / "clones" / f"web0{number}.img", f"{number}M:C {4 - number}M:A 1M:- 3M:B")
        yield PageRunner(xfs)


def test_share(page):
    (manifest,) = page_fences("share", "yaml")
    plan, show, apply = page_fences("share", "sh")
    page.write("fleet.yaml", manifest)
    assert "let 2 guests share blocks" in page.run(plan).replace("\n", " ")
    said = page.run(show)
    assert "What each strategy would save" in said
    before = {path: path.read_bytes() for path in (page.images / "clones").iterdir()}
    assert "2 shared" in page.run(apply)
    assert {path: path.read_bytes() for path in (page.images / "clones").iterdir()} == before
    assert "df: 11.0 MiB more free space" in page.messages or "df: 11 MiB more free space" in page.messages
    for verb, promise in {
        "status": "the guest does not need the template",
        "verify": "does not make it depend on the template",
        "restore": "there is nothing to undo",
        "purge": "there is no original to delete",
    }.items():
        assert promise in " ".join(page.run(f"batchdiff {verb} fleet.plan.json").split()), verb
