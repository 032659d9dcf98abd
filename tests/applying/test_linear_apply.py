"""What an apply asks of the operating system grows with its guests, and not with their square."""

from collections import Counter

import pytest
from stage import Stage

from batchdiff.choices import Retire
from batchdiff.files import atomic_write, own_files

COUNTED = ("os.open", "os.listdir", "os.scandir", "os.stat", "os.lstat", "os.fsync", "os.fstat", "os.rename")


def calls_of(folder, count, retire):
    """How often each is called by an apply of so many guests."""
    folder.mkdir()
    found = Counter()

    def counted(name, real):
        def call(*arguments, **options):
            found[name] += 1
            return real(*arguments, **options)

        return call

    with pytest.MonkeyPatch.context() as patch:
        stage = Stage(folder, patch, names=tuple(f"g{number:02}" for number in range(count)))
        for name in COUNTED:
            module, _, function = name.partition(".")
            patch.setattr(name, counted(name, getattr(__import__(module), function)))
        patch.setattr(own_files, "is_temporary_of", counted("is_temporary_of", own_files.is_temporary_of))
        assert atomic_write.own_files is own_files
        assert {each.exit_code for each in stage.apply(retire)} == {0}
    return found


@pytest.mark.parametrize("retire", [Retire.KEEP])
def test_each_guest_costs_as_much_as_the_one_before(tmp_path, retire):
    few, more, many = (calls_of(tmp_path / str(count), count, retire) for count in (5, 10, 20))
    assert {name: many[name] - more[name] for name in many} == {
        name: 2 * (more[name] - few[name]) for name in many
    }
    assert many["is_temporary_of"] <= 2 * 20 + 3  # the names that are there when it begins
