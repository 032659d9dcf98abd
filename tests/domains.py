"""A small domain of libvirt, which its real QEMU driver accepts and its schema allows."""

from __future__ import annotations

from pathlib import Path

_DOMAIN = """\
<domain type='qemu'>
  <name>{name}</name>
  <memory unit='KiB'>65536</memory>
  <vcpu>1</vcpu>
  <os><type arch='x86_64'>hvm</type></os>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='{form}'/>
      <source file='{path}'/>
      <target dev='vda' bus='virtio'/>
    </disk>
{more}  </devices>
</domain>
"""


def domain_xml(path: Path | str, *, name: str = "web", form: str = "raw", more: str = "") -> str:
    """A domain with one disk. ``form``: the format of its image; ``more``: further devices, one on each line."""
    return _DOMAIN.format(name=name, path=path, form=form, more=more)


def embedded_libvirt(root: Path) -> str:
    """The URI of libvirt's real QEMU driver, in a folder of its own; its first start asks QEMU what it can do.

    It runs as root: libvirt's own user could not enter the folder, and each start would take half a minute.
    """
    (root / "etc").mkdir(parents=True)
    (root / "etc" / "qemu.conf").write_text('user = "root"\ngroup = "root"\n')
    return f"qemu:///embed?root={root}"
