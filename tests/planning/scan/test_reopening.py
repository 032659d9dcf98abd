"""Images are opened while they are needed: never more at once than fit, and never another file."""

import itertools
import os

import notation
import pytest
from clocks import wait_for_another_ctime
from hypothesis import given
from hypothesis import strategies as st
from oracle import guest_bytes, recorded

from batchdiff.errors import ImageError
from batchdiff.planning.scan import reopening
from batchdiff.planning.scan.reopening import batches, budget, reopen


@given(st.lists(st.integers(1, 9)), st.integers(1, 30), st.data())
def test_batches(files, most, data):
    guests = data.draw(st.permutations(range(len(files))))
    found = list(batches(guests, files, most))
    assert [guest for batch in found for guest in batch] == guests
    assert found if guests else found == [()]
    for batch in found:
        assert sum(files[guest] for guest in batch) <= most or len(batch) == 1
    for batch, following in itertools.pairwise(found):
        # None is opened a batch later than it could be.
        assert sum(files[guest] for guest in batch) + files[following[0]] > most


def test_one_batch_where_all_fit():
    assert list(batches(range(1000), [3] * 1000, 3000)) == [tuple(range(1000))]


@pytest.mark.parametrize("free", [0, 1, 20, 40, 200, 1000, 500_000])
@pytest.mark.parametrize("jobs", [1, 4, 1024])
@pytest.mark.parametrize("template", [1, 3])
def test_the_budget_is_kept(monkeypatch, free, jobs, template):
    monkeypatch.setattr(reopening, "free_descriptors", lambda: free)
    found = budget(jobs, template)
    assert 1 <= found.jobs <= jobs
    assert found.files >= 1
    if free >= 20:
        workers = 3 * found.jobs if found.jobs > 1 else 0
        assert found.files + workers + template + 12 <= free
    if free >= 10_000:
        assert found.jobs == jobs


@pytest.fixture
def image(tmp_path):
    path = notation.write_qcow2(tmp_path / "g.qcow2", "64k:A 64k:-")
    return path, recorded(path)


def test_an_image_that_is_as_it_was(image):
    _, record = image
    with reopen(record) as opened:
        assert opened.fingerprints() == record.fingerprints
        assert guest_bytes(opened, 0, 512) == notation.content("64k:A")[:512]


def swap(path):
    """Another file with the same content takes the name."""
    other = path.with_suffix(".other")
    other.write_bytes(path.read_bytes())
    os.replace(other, path)


def damage(path):
    """Then it cannot even be opened as what it was."""
    wait_for_another_ctime(path.parent)
    path.write_bytes(bytes(100))


@pytest.mark.parametrize(
    ("change", "what"), [(swap, "another file is in its place"), (damage, "in bytes changed")]
)
def test_one_that_is_not(image, change, what):
    path, record = image
    before = len(os.listdir("/proc/self/fd"))
    change(path)
    with pytest.raises(
        ImageError,
        match=rf"^it changed while this command was running \(.*{what}.*\). Shut down any VM that uses it, and"
        " run the same command again$",
    ):
        reopen(record)
    assert len(os.listdir("/proc/self/fd")) == before


def test_one_that_is_gone(image):
    path, record = image
    path.unlink()
    with pytest.raises(ImageError, match="No such file"):
        reopen(record)
