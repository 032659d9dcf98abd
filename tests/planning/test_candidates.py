"""How often the candidates' files are examined: what is the same for all guests is found out once."""

import notation
import pytest

from batchdiff.image import underlying
from batchdiff.image.opening import open_image
from batchdiff.model.earlier_plans import EarlierPlans
from batchdiff.model.manifest_file import read_manifest
from batchdiff.planning.candidates import Candidate, examine_guests, planned


@pytest.fixture
def examine(tmp_path):
    """Write a manifest of images (name, format) with a raw template, and examine them."""

    def examine(*guests):
        notation.write_raw(tmp_path / "template.img", "2M:A")
        lines = [
            f"  - {{path: {name}, format: {kind}, overlay: {{path: {name}.thin}}}}\n" for name, kind in guests
        ]
        path = tmp_path / "manifest.yaml"
        path.write_text(f"version: 1\ntemplate: {{path: template.img, format: raw}}\nguests:\n{''.join(lines)}")
        manifest = read_manifest(str(path))
        with open_image(manifest.template) as image:
            template = planned(image)
        return examine_guests(manifest, template, EarlierPlans())

    return examine


@pytest.fixture
def counted(monkeypatch):
    """Count the calls of a function, by the module in which it is looked up."""

    def counted(module, name):
        calls, real = [], getattr(module, name)

        def count(*arguments, **options):
            calls.append(arguments)
            return real(*arguments, **options)

        monkeypatch.setattr(module, name, count)
        return calls

    return counted


def test_the_template_is_traced_once_for_all_guests(tmp_path, examine, counted):
    names = [f"guest{number}.img" for number in range(3)]
    for name in names:
        notation.write_raw(tmp_path / name, "1M:A 1M:B")
    walks = counted(underlying, "underlying")
    parts = examine(*((name, "raw") for name in names))
    assert all(isinstance(part, Candidate) for part in parts)
    assert walks == [(str(tmp_path / "template.img"),)]
