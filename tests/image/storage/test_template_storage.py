"""A guest may not be retired if it is the template, or stores it."""

import pytest

from batchdiff.choices import Retire
from batchdiff.image.storage.template_storage import TemplateRisk, template_risk
from batchdiff.linux.block_stack import Underlying

TEMPLATE, GUEST, DEVICE = ("file", 1, 10), ("file", 1, 11), ("device", 7, 0)
NONE, STORED, UNTRACED = TemplateRisk.NONE, TemplateRisk.STORED_IN_GUEST, TemplateRisk.UNTRACED


@pytest.mark.parametrize(
    ("files", "traced", "guest", "kept", "deleted"),
    [
        pytest.param({TEMPLATE}, True, GUEST, NONE, NONE, id="apart"),
        pytest.param({TEMPLATE}, True, TEMPLATE, STORED, STORED, id="the-template-itself"),
        pytest.param({DEVICE, GUEST}, True, GUEST, STORED, STORED, id="below-the-template"),
        pytest.param({DEVICE}, False, GUEST, NONE, UNTRACED, id="not-traced"),
        pytest.param({DEVICE, GUEST}, False, GUEST, STORED, STORED, id="known-in-spite-of-that"),
        pytest.param({TEMPLATE}, True, None, NONE, NONE, id="the-guest-is-gone"),
    ],
)
def test_the_risk(files, traced, guest, kept, deleted):
    under = Underlying(frozenset(files), traced)
    for retire in Retire:
        assert template_risk(under, guest, retire) is (deleted if retire is Retire.DELETE else kept)
