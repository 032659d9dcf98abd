"""Guards qemu/percentages.py."""

import notation
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracle import source

from batchdiff.errors import DifferenceError
from batchdiff.qemu import qemu_img
from batchdiff.qemu.percentages import Percentages

OUTPUT = b"a warning\n    (0.00/100%)\r    (1.05/100%)\r    (99.99/100%)\r    (100.00/100%)\r\nContent mismatch!\n"
REST = b"a warning\n\nContent mismatch!\n"


@given(st.lists(st.integers(0, len(OUTPUT)), max_size=6))
def test_wherever_the_output_is_cut(cuts):
    reader, kept, before = Percentages(), b"", 0
    for cut in [*sorted(cuts), len(OUTPUT)]:
        kept += reader.without(OUTPUT[before:cut])
        before = cut
    assert kept + reader.rest() == REST
    assert reader.latest == 100


@pytest.mark.parametrize(
    "text",
    [
        b"    (12.5/100%)\r",
        b"    (12.50/100%)\n",
        b"   (12.50/100%)\r",
        b"x    (",
        b"    ",
        b"    (1.0",
        b"    (1.00/100%)",
    ],
)
def test_what_only_looks_like_one_is_kept(text):
    reader = Percentages()
    assert reader.without(text) + reader.rest() == text
    assert reader.latest == 0


def test_qemu_prints_them_to_a_pipe(tmp_path):
    """Check QEMU itself, whose output has no trace of them afterwards."""
    one, same, other = (tmp_path / name for name in ("one.img", "same.img", "other.img"))
    for path, text in ((one, "16M:A"), (same, "16M:A"), (other, "16300k:A 84k:B")):
        notation.write_raw(path, text)
    seen = []
    qemu_img.compare(source(one), source(same), 16 << 20, percent=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 100
    with pytest.raises(DifferenceError) as caught:
        qemu_img.compare(source(one), source(other), 16 << 20, percent=seen.append)
    assert "Content mismatch at offset" in str(caught.value)
    assert "/100%" not in str(caught.value)


def test_without_a_receiver_none_are_asked_for(tmp_path):
    notation.write_raw(tmp_path / "one.img", "1M:A")
    notation.write_raw(tmp_path / "two.img", "1M:B")
    with pytest.raises(DifferenceError, match="`qemu-img compare 'json"):
        qemu_img.compare(source(tmp_path / "one.img"), source(tmp_path / "two.img"), 1 << 20)
