"""The recipes of docs/recipes.md do what the page says of them."""

import notation
import pytest
from commands import batchdiff, run_here
from page_runner import PageRunner, page_fences

NIGHTLY, CI, SAVED, FAILED = page_fences("recipes", "sh")
(MANIFEST,) = page_fences("recipes", "yaml")
TEMPLATE = "2M:A 1M:- 1M:B"


@pytest.fixture
def page(tmp_path):
    """A template, a guest to convert, one that is always refused, and a `mail` that keeps what it is given."""
    page = PageRunner(tmp_path)
    page.add_program("mail", '{ echo "$@"; cat; } >> mails')
    (page.images / "clones").mkdir()
    notation.write_raw(page.images / "debian-12.img", TEMPLATE)
    notation.write_raw(page.images / "clones" / "web 01.img", "64k:X 1984k:A 1M:- 1M:B")
    notation.write_raw(page.images / "clones" / "old.img", "1M:A")
    page.write("nightly.yaml", MANIFEST)
    return page


def night(page: PageRunner) -> str:
    """What is mailed in one night."""
    page.run(f"set +e\n{NIGHTLY}")
    mails = page.images / "mails"
    text = mails.read_text() if mails.exists() else ""
    mails.unlink(missing_ok=True)
    return text


@pytest.mark.parametrize("retire", ["keep", "quarantine"])
def test_the_nightly_recipe_through_the_life_of_a_fleet(page, retire):
    images = page.images

    def apply():
        batchdiff(*("apply", "nightly.plan.json", "--verify", "native", "--retire", retire), cwd=images, expect=1)

    first = night(page)
    assert first.startswith("-s disk space can be reclaimed ops\n2 guests on the template")
    assert night(page).startswith(first[:60]), "nothing was done about it: said again"
    apply()
    assert night(page) == "", "one is converted, one refused for ever: no news"
    (kept,) = images.glob("nightly.2*.plan.json")
    notation.write_raw(images / "clones" / "web02.img", f"{TEMPLATE} 64k:Y")
    again = night(page)
    assert again.startswith("-s disk space can be reclaimed ops\n3 guests on the template")
    assert " ".join(again.split()).count(f"skip web 01: done by {kept}") == 1
    assert "web02" in again
    apply()
    assert night(page) == "", "no guest is left to convert"
    assert len(list(images.glob("nightly.2*.plan.json"))) == 2
    if retire == "quarantine":
        done = batchdiff("restore", "nightly.plan.json", "--guest", "web 01", cwd=images, expect=2)
        assert f"batchdiff restore {kept} --guest 'web 01'" in done.stderr
        batchdiff("restore", kept, "--guest", "web 01", cwd=images)
        assert night(page).startswith(first[:30]), "it is a whole image again"


def test_the_nightly_recipe_says_what_went_wrong(page):
    (page.images / "debian-12.img").unlink()
    assert night(page).startswith("-s batchdiff plan failed ops\nnightly.yaml:2: template.path: no such file")


def test_the_numbers_and_the_failed_guests(page):
    run_here("plan", page.images / "nightly.yaml", "-q", "-o", page.images / "manifest.plan.json", expect=1)
    assert int(page.run(SAVED)) > 1 << 20
    page.run(CI)
    assert "web 01" in (page.images / "savings.md").read_text()
    (page.images / "clones" / "web 01.img").write_bytes(b"changed")
    failed = page.run(FAILED)
    assert [line.split(":")[0] for line in failed.splitlines()] == ["old", "web 01"], failed
