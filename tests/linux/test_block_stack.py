"""Which files are under real loop devices."""

from contextlib import ExitStack

import notation
import pytest
from real_holders import loop_device

from batchdiff.files.identity import identity_of
from batchdiff.linux.block_stack import Underlying, all_underlying, underlying


@pytest.fixture
def path(tmp_path):
    return str(notation.write_raw(tmp_path / "disk.img", "1M:A"))


@pytest.fixture
def over():
    """Puts read-only loop devices one over the other, and gives their names."""
    with ExitStack() as stack:

        def attach(path, levels):
            names = [path]
            for _ in range(levels):
                names.append(stack.enter_context(loop_device(names[-1], "--read-only")).split()[-1])
            return names

        yield attach


@pytest.mark.parametrize("levels", [0, 1, 3])
def test_each_file_on_the_way_down(path, over, levels):
    names = over(path, levels)
    assert underlying(names[-1]) == Underlying(frozenset(map(identity_of, names)))


def test_a_file_that_is_gone_is_not_traced(path, tmp_path, over):
    *_, device = over(path, 1)
    (tmp_path / "disk.img").unlink()
    assert underlying(device) == Underlying(frozenset([identity_of(device)]), traced=False)


def test_a_chain_is_in_the_files_of_all_its_parts(path, tmp_path, over):
    other = str(notation.write_raw(tmp_path / "other.img", "1M:B"))
    names = over(path, 1)
    assert all_underlying((names[-1], other)).files == frozenset(map(identity_of, (*names, other)))
