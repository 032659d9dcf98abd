"""``batchdiff discover``: find out which images are copies of which, and write manifests."""

from __future__ import annotations

import argparse
import contextlib
import os

from batchdiff.cli.console import Console
from batchdiff.discovery.copies import Copy, Group
from batchdiff.discovery.discover import Discovery, discover
from batchdiff.discovery.exclusion import Cause
from batchdiff.discovery.image_files import FileSearch, FileToSample, find_files
from batchdiff.discovery.manifest_text import is_listed, manifest_names, manifest_text
from batchdiff.discovery.sampled_image import SampledImage
from batchdiff.discovery.samples import SCATTERED, SEQUENTIAL, SampleShape, most_bytes
from batchdiff.errors import EXIT_DONE, EXIT_SOME_GUESTS, ImageError, UsageError
from batchdiff.files.filenames import longest_name, shell_path
from batchdiff.image.storage.exactness import UNKNOWN_AMOUNT, Exactness
from batchdiff.image_source import ImageFormat
from batchdiff.linux.call_failures import ALREADY_EXISTS, reason
from batchdiff.linux.device_names import image_path
from batchdiff.linux.machine import usable_cpus
from batchdiff.linux.permissions import Deed, lacking_access
from batchdiff.linux.reflinks import why_not_shared
from batchdiff.manifest.file import read_manifest
from batchdiff.plan.sidecar import sidecar_path
from batchdiff.progress import Phase
from batchdiff.report.discovery.discovery_events import (
    copy_event,
    discovery_event,
    exclusion_event,
    template_event,
)
from batchdiff.report.discovery.discovery_text import discovery_text, figures_of_copy, ignored_words, why_template
from batchdiff.report.figures import count_of
from batchdiff.throttle.options import ScanLimits
from batchdiff.throttle.throttle import throttle

_MANIFEST_SUFFIXES = (".yaml", ".yml")
_SHAREABLE = {ImageFormat.RAW, ImageFormat.QCOW2}


def run(console: Console, arguments: argparse.Namespace) -> int:
    """Run the verb.

    :raises UsageError: the arguments are wrong, no image is found, or a manifest cannot be written.
    :raises ImageError: a given template cannot be used, or no image can be read.
    :raises ManifestError: a manifest that was written has a problem.
    :raises DefinitionError, ProgramError: the disks of libvirt's domains cannot be listed.
    :raises WorkerError: a worker process failed.
    """
    if not arguments.paths and not arguments.libvirt:
        raise UsageError("no images are given", remedy="Name folders or images, or add `--libvirt`.")
    if arguments.connect is not None and not arguments.libvirt:
        raise UsageError(
            "cannot use --connect without --libvirt", remedy="Add `--libvirt`, or leave --connect out."
        )
    if arguments.output is not None:
        _check_output(arguments.output)
    for path in arguments.templates:
        if os.path.isdir(path):
            raise UsageError(
                f"cannot use {path} as the template",
                why="it is a folder",
                remedy="Name the image that is the template.",
            )
    templates = [image_path(path) for path in arguments.templates]
    # Templates before the other paths: if both name one file, its name as a template counts.
    search = find_files([*arguments.templates, *arguments.paths], _of_libvirt(console, arguments))
    if not search.files and not search.exclusions:
        raise _no_image(arguments, search.ignored)
    shape = SEQUENTIAL if arguments.sequential else SCATTERED
    found = _discovered(console, arguments, search, templates, shape)
    can_share = _can_share(found)
    _print_events(console, found, can_share=can_share)
    console.result(discovery_text(found, shape, can_share=can_share, width=console.width))
    written = [] if arguments.output is None else _write(console, arguments.output, found)
    _say_next(console, arguments, found, written)
    return _exit_code(found)


def _no_image(arguments: argparse.Namespace, ignored: int) -> UsageError:
    places, remedies = [], []
    if arguments.paths:
        places.append(", ".join(arguments.paths))
        remedies.append("Name the images themselves if their names have no suffix such as .img or .qcow2.")
    if arguments.libvirt:
        places.append("the definitions in libvirt")
        remedies.append(
            "With `--connect`, give the libvirt connection on which the VMs are defined, such as qemu:///system."
        )
    others = f" (ignored: {ignored_words(ignored)})" if ignored else ""
    return UsageError(f"no image was found in {' or '.join(places)}{others}", remedy=" ".join(remedies))


def _discovered(
    console: Console, arguments: argparse.Namespace, search: FileSearch, templates: list[str], shape: SampleShape
) -> Discovery:
    most = {file.path: most_bytes(file.path, shape) for file in search.files}
    limits = ScanLimits(arguments.cache, arguments.limit_rate, arguments.idle)
    with console.metering() as meter, throttle(limits, tell=console.detail) as observer:
        meter.expect(None, Phase.SCAN, sum(most.values()))
        meter.begin()

        def sampled(path: str, read: int) -> None:
            before = meter.reached(None, Phase.SCAN)
            meter.reach(None, Phase.SCAN, before + min(read, most[path]))
            meter.reach(None, Phase.SCAN, before + most[path], worked=False)

        return discover(
            search,
            shape=shape,
            jobs=arguments.jobs or usable_cpus(),
            templates=templates,
            sampled=sampled,
            observer=observer,
        )


def _of_libvirt(console: Console, arguments: argparse.Namespace) -> list[FileToSample]:
    if not arguments.libvirt:
        return []
    # Only `--libvirt` needs these modules.
    from batchdiff.definitions.defined_disks import defined_disks  # noqa: PLC0415
    from batchdiff.definitions.virsh import Libvirt  # noqa: PLC0415

    found = defined_disks(Libvirt(arguments.connect or ""))
    for text in found.unusable:
        console.warn(f"warning: {text}")
    return [FileToSample(disk.path, disk.format, disk.user) for disk in found.disks]


def _print_events(console: Console, found: Discovery, *, can_share: bool) -> None:
    if not console.json:
        return
    for group in found.groups:
        console.event("template", **template_event(group, why_template(group)))
        for copy in group.copies:
            console.event("copy", **copy_event(group, copy))
    for each in found.exclusions:
        console.event("left_out", **exclusion_event(each))
    console.event("discovery", **discovery_event(found, can_share=can_share))


def _check_output(path: str) -> None:
    if os.path.isdir(path):
        return
    suffix = os.path.splitext(path)[1]
    if suffix and not suffix.lower().endswith(_MANIFEST_SUFFIXES) and not os.path.lexists(path):
        raise UsageError(
            f"cannot write to {path}",
            why=f"the name of a manifest must end in .yaml or .yml, not in {suffix}",
            remedy="Name a file such as `fleet.yaml`, or end the name of a new folder with `/`.",
        )
    if os.path.lexists(path):
        raise UsageError(f"cannot write to {path}", why=ALREADY_EXISTS,
                         remedy="Name another file, or a folder.")  # fmt: skip
    folder = os.path.dirname(os.path.abspath(path.rstrip("/")))
    if not os.path.isdir(folder):
        why, remedy = f"there is no folder {folder}", "Create it first."
        if os.path.exists(folder):
            why, remedy = f"{folder} is not a folder", "Name a file in another folder."
        elif closed := lacking_access(Deed.READ, folder):
            why, remedy = closed, "Name a file in another folder."
        raise UsageError(f"cannot write to {path}", why=why, remedy=remedy)


def _write(console: Console, output: str, found: Discovery) -> list[str]:
    groups = []
    for group in found.groups:
        why = _why_no_manifest(group) if group.copies else ""
        if why:
            console.warn(f"warning: no manifest was written for the template {group.template.path}: {why}")
        elif group.copies:
            groups.append(group)
    is_manifest = output.lower().endswith(_MANIFEST_SUFFIXES) and not os.path.isdir(output)
    if is_manifest and len(groups) > 1:
        raise UsageError(
            f"cannot write {len(groups)} manifests to {output}",
            why="each template has a manifest of its own",
            remedy="Name a folder, as in `-o manifests/`, or choose one template with `--template IMAGE`.",
        )
    paths = [output] if is_manifest else [os.path.join(output, name) for name in manifest_names(groups)]
    for path in paths:
        if os.path.lexists(path):
            raise _unwritable(path, FileExistsError())
    for group, path in zip(groups, paths, strict=False):
        text = manifest_text(
            group,
            why=why_template(group),
            figures=_words,
            exists=os.path.lexists,
            longest=longest_name,
            folder=os.path.dirname(os.path.realpath(path)),
            left_out=found.exclusions,
        )
        try:
            if not is_manifest:
                os.makedirs(output, exist_ok=True)
            with open(path, "x", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise _unwritable(path, error) from error
        # Read now, so that a problem is reported before the manifest is needed.
        manifest = read_manifest(path)
        console.event("manifest", path=os.path.abspath(path), template=manifest.template.path,
                      guests=[guest.name for guest in manifest.guests])  # fmt: skip
    return paths[: len(groups)]


def _why_no_manifest(group: Group) -> str:
    """Return why no manifest can be written for a group with copies; empty if one can."""
    template = group.template.path
    if not is_listed(group.template):
        return "its path is not valid UTF-8, which YAML requires; rename the file or the folder"
    if not any(is_listed(copy.image) for copy in group.copies):
        if len(group.copies) == 1:
            return "the path of its copy is not valid UTF-8, which YAML requires; rename the copy or its folder"
        return (
            "the paths of its copies are not valid UTF-8, which YAML requires; rename the copies or their folders"
        )
    lists = {sidecar_path(template, copy.image.path) for copy in group.copies}
    too_long = max(len(os.fsencode(name)) - longest_name(folder) for folder, name in map(os.path.split, lists))
    if too_long > 0:
        return (
            "the file that lists its overlays would have too long a name; shorten the template's name by at least"
            f" {count_of(too_long, 'byte')}"
        )
    return ""


def _unwritable(path: str, error: OSError) -> UsageError:
    exists = isinstance(error, FileExistsError)
    why = ALREADY_EXISTS if exists else reason(error)
    return UsageError(f"cannot write {path}", why=why, remedy="Name another folder or file with `-o`.")


def _can_share(found: Discovery) -> bool:
    return any(_have_reflinks(group.template, copy) for group in found.groups for copy in _shareable(group))


def _shareable(group: Group) -> list[SampledImage]:
    images = [copy.image for copy in group.copies if copy.image.source.format in _SHAREABLE]
    by_folder = {os.path.dirname(image.path): image for image in images}
    return [*by_folder.values()] if group.template.source.format in _SHAREABLE else []


def _have_reflinks(template: SampledImage, copy: SampledImage) -> bool:
    with contextlib.suppress(OSError), open(template.path, "rb") as one, open(copy.path, "rb") as other:
        return why_not_shared(one.fileno(), other.fileno()) is None
    return False


def _words(copy: Copy) -> str:
    similar, interval, saves = figures_of_copy(copy)
    also = f"; {copy.other.path} fits as well ({copy.other.similarity.estimate:.1%})" if copy.other else ""
    saves = UNKNOWN_AMOUNT if copy.image.exactness is Exactness.UNKNOWN else saves.strip("()")
    bounds = interval if copy.similarity.is_exact else f"95% interval: {interval}"
    return f"{similar} similar ({bounds}), saves {saves}{also}"


def _say_next(console: Console, arguments: argparse.Namespace, found: Discovery, written: list[str]) -> None:
    for path in written:
        console.say(f"The manifest is in {path}. Next: batchdiff plan {shell_path(path)}")
    copies = any(group.copies for group in found.groups)
    if arguments.output is not None and not copies:
        console.warn("warning: no manifest was written, because no copies were found")
    elif arguments.output is None and copies:
        console.say("Next: the same command with `-o FOLDER` writes a manifest for each template.")


def _exit_code(found: Discovery) -> int:
    faults = [each for each in found.exclusions if each.cause.is_fault]
    unread = [each for each in faults if each.cause is Cause.UNREADABLE]
    if unread and not found.images and len(unread) == len(found.exclusions):
        raise ImageError("no image can be read", remedy="The reason for each is listed above.")
    return EXIT_SOME_GUESTS if faults else EXIT_DONE
