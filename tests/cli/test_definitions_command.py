"""``batchdiff definitions`` with files, with libvirt's QEMU driver (without a daemon) and its test driver.

Guards cli/verbs/definitions.py, definitions/virsh.py, report/definitions_text.py.
"""

import shutil
import stat
import subprocess

import pytest
from commands import assert_no_traceback, batchdiff, events, run_here
from domains import domain_xml, embedded_libvirt

PASSWORD = "    <graphics type='vnc' port='-1' passwd='s3cret'/>\n"


def virsh(uri, *arguments):
    command = ["virsh", "--quiet", "--connect", uri, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


def definitions(planned, *arguments, **options):
    return batchdiff("definitions", "fleet.plan.json", *arguments, cwd=planned.folder, **options)


def definition(planned, name="web"):
    path = planned.folder / f"{name}.xml"
    path.write_text(domain_xml(planned.folder / "raw.img", name=name, more=PASSWORD))
    return path


@pytest.fixture(scope="module")
def embedded(tmp_path_factory):
    root = tmp_path_factory.mktemp("libvirt")
    yield embedded_libvirt(root)
    shutil.rmtree(root)


@pytest.fixture
def libvirt(planned, embedded):
    """One domain that libvirt's real QEMU driver knows."""
    virsh(embedded, "define", str(definition(planned)))
    yield embedded
    virsh(embedded, "undefine", "web")


def test_a_preview_from_files(planned):
    done = definitions(planned, "--xml", definition(planned))
    assert "raw is disk vda of web" in done.stdout
    assert f"+      <source file='{planned.folder}/raw.qcow2'/>" in done.stdout
    assert "not yet: raw: its overlay has not been written yet" in done.stdout
    assert "Used by none of the given definitions: " in done.stdout
    assert done.stdout.endswith("1 definition: 1 must change, 0 are right.\n")


def test_a_definition_of_another_vm(planned):
    other = planned.folder / "other.xml"
    other.write_text(domain_xml("/srv/db.img", name="db"))
    done = definitions(planned, "--xml", other, "--json", expect=1)
    text = f"db ({other}): none of its disks is a guest of this plan"
    assert f"batchdiff: warning: {text}\n" in done.stderr
    assert [each["message"] for each in events(done) if each["event"] == "notice"] == [text]
    done = definitions(planned, "--xml", other, definition(planned))
    assert text in done.stderr
    assert "2 definitions: 1 must change, 0 are right, 1 uses no guest of the plan." in done.stdout


def test_a_volume_of_a_pool_that_is_not_given(planned):
    """Nothing is to be changed by hand before the pool's folder is known."""
    volume = planned.folder / "volume.xml"
    text = domain_xml("").replace("type='file' device", "type='volume' device")
    volume.write_text(text.replace("file=''", "pool='fast disks' volume='raw.img'"))
    done = definitions(planned, "--xml", volume, expect=1)
    command = "virsh pool-dumpxml 'fast disks' > 'fast disks.xml'"
    where = f"web ({volume}): the folder of the pool fast disks is not known"
    advice = f"save the pool's definition with `{command}`, and add that file to `--xml`"
    assert f"{where}; {advice}" in done.stderr
    assert "none of its disks" not in done.stderr
    assert "Used by none of the given definitions: " in done.stdout
    assert "definition by hand" not in done.stdout
    assert "If a VM uses" not in done.stdout
    pool = planned.folder / "fast disks.xml"
    target = f"<target><path>{planned.folder}</path></target>"
    pool.write_text(f"<pool type='dir'><name>fast disks</name>{target}</pool>")
    done = definitions(planned, "--xml", volume, pool)
    assert "volume='raw.qcow2'" in done.stdout
    assert done.stderr == ""


def test_changed_copies_satisfy_libvirts_schema(planned):
    planned.apply()
    definitions(planned, "--xml", definition(planned), "--write", "changed")
    copy = planned.folder / "changed" / "web.xml"
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600, "it has a password"
    subprocess.run(["virt-xml-validate", str(copy), "domain"], check=True)
    done = definitions(planned, "--xml", copy)
    assert "1 definition: 0 must change, 1 is right." in done.stdout
    done = definitions(planned, "--xml", definition(planned), "--write", "changed", expect=2)
    assert "it already exists, and files are never replaced" in done.stderr


def test_no_copy_before_the_overlay_is_published(planned):
    """It would be defined with the others, and its VM would not find its disk."""
    done = definitions(planned, "--xml", definition(planned), "--write", "changed", expect=1)
    assert "not written yet: web.xml (raw: its overlay has not been written yet)" in done.stderr
    assert not (planned.folder / "changed").exists()


def test_defined_and_undone(planned, libvirt):
    before = virsh(libvirt, "dumpxml", "--security-info", "web")
    planned.apply()
    done = definitions(planned, "--connect", libvirt, "--define")
    assert "defined: web" in done.stderr
    assert "s3cret" not in done.stdout + done.stderr
    after = virsh(libvirt, "dumpxml", "--security-info", "web")
    assert f"<source file='{planned.folder}/raw.qcow2'/>" in after
    assert "<driver name='qemu' type='qcow2'/>" in after
    assert "passwd='s3cret'" in after
    done = definitions(planned, "--connect", libvirt)
    assert f"raw is disk vda of web ({libvirt}), which" in done.stdout
    assert "0 must change, 1 is right" in done.stdout
    assert "its former definition has been restored" in definitions(planned, "--connect", libvirt, "--undo").stderr
    assert virsh(libvirt, "dumpxml", "--security-info", "web") == before
    done = definitions(planned, "--connect", libvirt, "--undo")
    assert "there is nothing to undo" in done.stderr


def test_not_before_the_overlay_is_published(planned, libvirt):
    before = virsh(libvirt, "dumpxml", "web")
    done = definitions(planned, "--connect", libvirt, "--define", expect=1)
    assert "the definition of web was not changed: raw: its overlay has not been written yet" in done.stderr
    assert virsh(libvirt, "dumpxml", "web") == before
    assert not (planned.folder / "fleet.plan.json.definitions").exists()


def test_after_a_restore_the_change_back(planned, libvirt):
    planned.apply()
    definitions(planned, "--connect", libvirt, "--define")
    batchdiff("restore", "fleet.plan.json", cwd=planned.folder)
    definitions(planned, "--connect", libvirt, "--define")
    assert f"<source file='{planned.folder}/raw.img'/>" in virsh(libvirt, "dumpxml", "web")


def test_what_somebody_has_changed_since_is_not_undone(planned, libvirt):
    planned.apply()
    definitions(planned, "--connect", libvirt, "--define")
    edited = planned.folder / "edited.xml"
    edited.write_text(virsh(libvirt, "dumpxml", "web").replace("65536", "131072"))
    virsh(libvirt, "define", str(edited))
    done = definitions(planned, "--connect", libvirt, "--undo", expect=1)
    assert "it has been modified since batchdiff changed it" in done.stderr
    assert "131072" in virsh(libvirt, "dumpxml", "web")


def test_an_image_that_is_gone_is_not_brought_back(planned, libvirt):
    planned.apply("--retire", "delete", "--yes")
    definitions(planned, "--connect", libvirt, "--define")
    done = definitions(planned, "--connect", libvirt, "--undo", expect=1)
    assert f"an image that its VM would use, {planned.folder}/raw.img, is missing" in done.stderr


def test_an_overlay_in_its_guests_place_does_not_become_a_raw_disk_again(planned, libvirt):
    """Its VM would write its disk over the overlay."""
    manifest = planned.folder / "fleet.yaml"
    text = manifest.read_text(encoding="utf-8")
    overlays = text.replace("- path: raw.img\n", "- {path: raw.img, overlay: {path: same}}\n")
    assert overlays != text
    manifest.write_text(overlays + "retire: quarantine\n", encoding="utf-8")
    planned.plan_here()
    planned.apply()
    definitions(planned, "--connect", libvirt, "--define")
    assert "<driver name='qemu' type='qcow2'/>" in virsh(libvirt, "dumpxml", "web")
    done = definitions(planned, "--connect", libvirt, "--undo", expect=1)
    assert f"would use {planned.folder}/raw.img as raw, but that image is now qcow2" in done.stderr
    assert "<driver name='qemu' type='qcow2'/>" in virsh(libvirt, "dumpxml", "web")
    batchdiff("restore", "fleet.plan.json", cwd=planned.folder)
    definitions(planned, "--connect", libvirt, "--undo")
    assert "<driver name='qemu' type='raw'/>" in virsh(libvirt, "dumpxml", "web")


def test_a_domain_that_runs_is_left_alone(planned, tmp_path):
    """In libvirt's test driver, whose domains run."""
    node = tmp_path / "node.xml"
    domain = domain_xml(planned.folder / "raw.img").replace("type='qemu'>", "type='test'>", 1)
    node.write_text(f"<node>{domain}</node>")
    planned.apply()
    uri = f"test://{node}"
    done = definitions(planned, "--connect", uri, "--define", expect=1)
    assert "its VM is running" in done.stderr


def test_events(planned):
    found = events(definitions(planned, "--xml", definition(planned), "--json"))
    (event,) = [each for each in found if each["event"] == "definition"]
    assert (event["domain"], event["right"]) == ("web", False)
    assert event["guests"] == [
        {"guest": "raw", "disk": "vda", "path": f"{planned.folder}/raw.qcow2", "format": "qcow2"}
    ]
    assert event["diff"].startswith("--- a/web.xml\n+++ b/web.xml\n")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("<domain><name>", "it is not valid XML"),
        ("<network/>", "it is a <network>, not a <domain>"),
        ("<!DOCTYPE a><domain/>", "it declares a document type"),
        (None, "does not exist"),
    ],
)
def test_bad_files(planned, text, why):
    if text is not None:
        (planned.folder / "bad.xml").write_text(text)
    done = definitions(planned, "--xml", "bad.xml", expect=2)
    assert "bad.xml" in done.stderr
    assert why in done.stderr
    assert_no_traceback(done.stderr)


def test_libvirt_that_cannot_be_reached(planned):
    done = definitions(planned, "--connect", "qemu+unix:///system?socket=/none", expect=7)
    assert "cannot use libvirt" in done.stderr


@pytest.mark.parametrize("options", [["--define"], ["--undo"], ["--connect", "qemu:///system"]], ids=" ".join)
def test_files_need_no_option_for_libvirt(planned, options):
    done = definitions(planned, "--xml", definition(planned), *options, expect=2)
    assert f"cannot use {options[0]} with --xml" in done.stderr


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--proxmox", "pve"], "it contains no VM configuration, such as 101.conf"),
        (["--proxmox", "pve/vms"], "--storage-cfg /etc/pve/storage.cfg"),
        (["--proxmox", "pve/vms", "--define"], "cannot use --define with --proxmox"),
        (["--proxmox", "pve/vms", "--xml", "a.xml"], "cannot use --xml with --proxmox"),
        (["--storage-cfg", "storage.cfg"], "cannot use --storage-cfg without --proxmox"),
        (["--proxmox", "pve/vms", "--storage-cfg", "gone.cfg"], "cannot read gone.cfg"),
        (["--proxmox", "pve/vms", "--storage-cfg", "fleet.yaml"], "is not a valid line of storage.cfg"),
        (["--proxmox", "pve/bad", "--storage-cfg", "storage.cfg"], "it is not a VM configuration"),
    ],
)
def test_wrong_options_for_proxmox(planned, monkeypatch, options, why):
    monkeypatch.chdir(planned.folder)
    for folder, text in (("pve/vms", "cores: 1\n"), ("pve/bad", "<domain/>\n")):
        (planned.folder / folder).mkdir(parents=True)
        (planned.folder / folder / "101.conf").write_text(text)
    (planned.folder / "storage.cfg").write_text("dir: local\n")
    assert why in run_here("definitions", planned.folder / "fleet.plan.json", *options, expect=2)


@pytest.mark.parametrize(
    ("options", "advice"),
    [
        (["--define"], " To get changed copies of the definitions, use `--write FOLDER`."),
        (["--undo"], ""),
        (["--xml", "a.xml"], ""),
    ],
)
def test_only_who_wants_changes_is_advised_to_write_copies(planned, options, advice):
    said = run_here("definitions", planned.folder / "fleet.plan.json", "--proxmox", "pve", *options, expect=2)
    assert said.endswith(f"Leave out one of the two.{advice}")


def test_one_configuration_of_proxmox_that_cannot_be_read(planned):
    folder = planned.folder / "pve" / "vms"
    folder.mkdir(parents=True)
    (folder / "storage.cfg").write_text("dir: local\n")
    (folder / "101.conf").write_text(f"scsi0: {planned.folder}/raw.img,size=1M\n")
    (folder / "102.conf").write_bytes(bytes(100))
    said = run_here("definitions", planned.folder / "fleet.plan.json", "--proxmox", folder, expect=1)
    assert "raw is disk scsi0 of VM 101" in said
    assert f"warning: cannot use {folder}/102.conf: it is not a VM configuration" in said
    assert "If a VM on another host" not in said  # it may be the VM whose configuration cannot be read
