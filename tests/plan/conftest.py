"""A plan's path and its document, for tests that change the document and save it."""

import json

import pytest
from plans import guest_plan, refused_guest, small_plan

from batchdiff.plan.file import encode


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "fleet.plan.json")


@pytest.fixture
def document():
    return json.loads(encode(small_plan(guest_plan(), refused_guest())))
