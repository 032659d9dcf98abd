"""Images of oVirt and Nova. Guards managers/managed.py."""

import pytest

from batchdiff.managers.managed import why_managed

ONE, TWO, THREE = (f"{letter * 8}-1111-2222-3333-{letter * 12}" for letter in "abc")
FREE = "/images/web.raw"


@pytest.mark.parametrize(
    ("path", "manager"),
    [
        (f"/rhev/data-center/mnt/nfs:_export/{ONE}/images/{TWO}/{THREE}", "oVirt"),
        (f"/rhev/data-center/{THREE}/{ONE}/images/{TWO}/{THREE}", "oVirt"),
        (f"/mnt/copy/{ONE}/images/{TWO}/{THREE}", "oVirt"),
        (f"/var/lib/nova/instances/{ONE}/disk", "Nova"),
        (f"/var/lib/nova/instances/{ONE}/disk.local", "Nova"),
        ("/var/lib/nova/instances/_base/anything", "Nova"),
        (f"/srv/shared/_base/{'0' * 40}", "Nova"),
    ],
)
def test_refused_with_the_reason(path, manager):
    assert manager in why_managed([FREE, path], [FREE])
    assert path in why_managed([path], [FREE])
    assert why_managed([path], [FREE], path).endswith("convert the copy")
    why = why_managed([FREE], [path])
    assert manager in why
    assert why.startswith(f"the template's file {path} is in ")
    why = why_managed([FREE], [path], path)
    assert manager in why
    assert why.startswith(f"the overlay {path} would be in a ")
    assert why.endswith(", so choose another path for the overlay (`overlay: {path: ...}`)")


@pytest.mark.parametrize(
    "path",
    [
        FREE,
        f"/images/{ONE}",
        f"/vms/{ONE}/disk",
        "/srv/_base/debian.qcow2",
        "/rhev/web.raw",
        "/var/lib/nova/web.raw",
    ],
)
def test_other_images_are_free(path):
    assert why_managed([path], [path]) == ""
