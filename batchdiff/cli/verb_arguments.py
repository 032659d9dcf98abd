"""The verbs of the command line and their options."""

from __future__ import annotations

import argparse
from typing import TypeAlias

from batchdiff.choices import OF_OVERLAYS, Loss, Retire, Verdict, VerifyMode
from batchdiff.cli.help_layout import EXAMPLES, help_layout
from batchdiff.cli.logs.options import add_textfile
from batchdiff.cli.options.definitions_options import add_changes, add_places
from batchdiff.cli.options.discover_options import OUTPUT, add_search
from batchdiff.cli.options.estimate_options import add_sampling
from batchdiff.cli.options.option_values import SchemaName, file_to_write, guest_name, jobs, moved_to, one_of, rate
from batchdiff.cli.options.scheduler_options import add_scheduler
from batchdiff.report.form import Form, Order
from batchdiff.throttle.options import CacheUse

_THE_PLAN = "the plan that `batchdiff plan` wrote"
_REFUSE_ACTIVE = "refuse guests whose VMs are running or saved, according to this libvirt connection"
_THE_MANIFEST = "the YAML manifest; - for stdin"

_Verbs: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def _verb(verbs: _Verbs, common: argparse.ArgumentParser, name: str, text: str) -> argparse.ArgumentParser:
    return verbs.add_parser(
        name,
        parents=[common],
        help=text,
        description=f"{EXAMPLES[name]}\n\n{text[0].upper()}{text[1:]}.",
        epilog="`batchdiff -h` lists the exit codes.",
        formatter_class=help_layout,
        allow_abbrev=False,
    )


def _discover(verbs: _Verbs, common: argparse.ArgumentParser) -> None:
    what = "find out which images are copies of which, and write a manifest for each template"
    verb = _verb(verbs, common, "discover", what)
    add_search(verb)
    verb.add_argument("-o", "--output", metavar="FOLDER|MANIFEST", type=file_to_write, help=OUTPUT)
    _add_connect(verb, "the libvirt connection for --libvirt, such as qemu:///system")
    _add_jobs(verb, "number of worker processes")
    _add_manners(verb)


def _plan(verbs: _Verbs, common: argparse.ArgumentParser) -> None:
    verb = _verb(verbs, common, "plan", "compare guests with the template, and write a plan; no image is changed")
    verb.add_argument("manifest", metavar="MANIFEST", help=_THE_MANIFEST)
    verb.add_argument(
        "-o",
        "--output",
        metavar="PLAN",
        type=file_to_write,
        help="the file for the plan (default: the manifest's name with the suffix .plan.json)",
    )
    _add_jobs(verb, "number of worker processes")
    _add_guest(verb)
    verb.add_argument(
        "--reuse", metavar="OLD_PLAN", help="reuse an older plan's results for guests that have not changed since"
    )
    verb.add_argument(
        "--detailed-exitcode",
        action="store_true",
        help="exit with code 10 if there is anything to convert or share, and no guest is refused",
    )
    _add_connect(verb, _REFUSE_ACTIVE)
    _add_manners(verb)
    add_scheduler(verb)


def _add_manners(verb: argparse.ArgumentParser) -> None:
    group = verb.add_argument_group("options for a busy machine")
    group.add_argument(
        "--cache",
        choices=list(CacheUse),
        type=one_of(CacheUse),
        default=CacheUse.KEEP,
        help="keep the page cache (default), or drop the pages that this command has added to it",
    )
    group.add_argument(
        "--limit-rate", metavar="RATE", type=rate, help="read at most this many bytes a second, such as 200MiB"
    )
    group.add_argument(
        "--idle", action="store_true", help="let all other programs use the disk and the CPUs first"
    )


def _estimate(verbs: _Verbs, common: argparse.ArgumentParser) -> None:
    verb = _verb(
        verbs, common, "estimate", "estimate quickly, from samples, what a plan would save; no image is changed"
    )
    verb.add_argument("manifest", metavar="MANIFEST", help=_THE_MANIFEST)
    add_sampling(verb)
    _add_jobs(verb, "number of worker processes")
    _add_guest(verb)
    _add_manners(verb)


def _show(verbs: _Verbs, common: argparse.ArgumentParser) -> None:
    verb = _verb(verbs, common, "show", "show the savings report of a plan")
    verb.add_argument("plan", metavar="PLAN", help=_THE_PLAN)
    verb.add_argument(
        "--format", choices=list(Form), type=one_of(Form), default=Form.TEXT, help="report format (default: text)"
    )
    verb.add_argument(
        "-o", "--output", metavar="FILE", type=file_to_write, help="the file for the report (default: stdout)"
    )
    verb.add_argument(
        "--sort",
        choices=list(Order),
        type=one_of(Order),
        help="sort the guests by a figure, largest first, or by name (default: as in the manifest)",
    )
    verb.add_argument(
        "--only",
        choices=list(Verdict),
        type=one_of(Verdict),
        action="append",
        default=[],
        help="report only guests with this verdict; may be repeated",
    )
    verb.add_argument("--against", metavar="OLD_PLAN", help="report what has changed since an older plan")


def _apply(verbs: _Verbs, common: argparse.ArgumentParser) -> None:
    text = "carry out a plan: write and verify overlays, and retire originals; or let guests share blocks"
    verb = _verb(verbs, common, "apply", text)
    verb.add_argument("plan", metavar="PLAN", help=_THE_PLAN)
    verb.add_argument(
        "--retire",
        choices=list(Retire),
        type=one_of(Retire),
        help="what to do with the originals (default: as planned)",
    )
    verb.add_argument(
        "--verify",
        choices=list(VerifyMode),
        type=one_of(VerifyMode),
        default=VerifyMode.FULL,
        help="how to verify overlays: full (QEMU compares every byte; the default), changed (batchdiff compares"
        " only the bytes written), or native (batchdiff compares every byte)",
    )
    what = "one overlay is being written while the others are verified"
    _add_jobs(verb, f"number of guests in progress at the same time: {what}")
    _add_guest(verb)
    verb.add_argument("-y", "--yes", action="store_true", help="do not ask before originals are deleted")
    _add_users(verb)


def _status(verbs: _Verbs, common: argparse.ArgumentParser) -> None:
    verb = _verb(verbs, common, "status", "show the state of each guest of a plan, and what to do next")
    verb.add_argument("plan", metavar="PLAN", help=_THE_PLAN)
    add_textfile(verb)
    _add_map(verb)


def _verify(verbs: _Verbs, common: argparse.ArgumentParser) -> None:
    verb = _verb(verbs, common, "verify", "check that the template and overlays are undamaged; nothing is changed")
    verb.add_argument("plan", metavar="PLAN", help=_THE_PLAN)
    _add_jobs(verb, "number of overlays checked at the same time")
    _add_guest(verb)
    add_textfile(verb)
    _add_map(verb)


def _definitions(verbs: _Verbs, common: argparse.ArgumentParser) -> None:
    verb = _verb(verbs, common, "definitions", "show what must change in the VM definitions, or change them")
    verb.add_argument("plan", metavar="PLAN", help=_THE_PLAN)
    add_places(verb)
    _add_connect(verb, "the libvirt connection, such as qemu:///system")
    _add_map(verb)
    add_changes(verb)


def _restore(verbs: _Verbs, common: argparse.ArgumentParser) -> None:
    verb = _verb(verbs, common, "restore", "give the VMs full images again: their originals, or rebuilt images")
    verb.add_argument("plan", metavar="PLAN", help=_THE_PLAN)
    what = "one image is being rebuilt while the others are compared"
    _add_jobs(verb, f"number of guests in progress at the same time: {what}")
    _add_guest(verb)
    verb.add_argument(
        "--discard-changes",
        action="store_true",
        help="go back to the originals and, after asking, discard what the VMs have written to their overlays;"
        " without --guest, for all guests",
    )
    verb.add_argument(
        "--allow-loss",
        choices=list(OF_OVERLAYS),
        type=one_of(Loss),
        action="append",
        default=[],
        help="restore even if an overlay has what is named here (internal snapshots or persistent bitmaps), which"
        " is then lost; may be repeated",
    )
    _add_dry_run(verb)
    verb.add_argument("-y", "--yes", action="store_true", help="do not ask for confirmation")
    _add_users(verb)
    _add_map(verb)
    verb.add_argument("--define", action="store_true", help="afterwards, change the definitions in libvirt back")


def _purge(verbs: _Verbs, common: argparse.ArgumentParser) -> None:
    what = "delete originals in quarantine that QEMU finds identical to the VMs' disks"
    verb = _verb(verbs, common, "purge", what)
    verb.add_argument("plan", metavar="PLAN", help=_THE_PLAN)
    _add_jobs(verb, "number of guests compared at the same time")
    _add_guest(verb)
    verb.add_argument(
        "--used",
        action="store_true",
        help="also delete originals that differ because their VMs have run since the conversion; the state from"
        " before the conversion cannot be restored afterwards",
    )
    _add_dry_run(verb)
    verb.add_argument("-y", "--yes", action="store_true", help="do not ask for confirmation")
    _add_users(verb)
    _add_map(verb)


def _validate(verbs: _Verbs, common: argparse.ArgumentParser) -> None:
    verb = _verb(verbs, common, "validate", "check a manifest, and nothing else")
    verb.add_argument("manifest", metavar="MANIFEST", help=_THE_MANIFEST)


def _doctor(verbs: _Verbs, common: argparse.ArgumentParser) -> None:
    verb = _verb(verbs, common, "doctor", "show what this machine and the filesystems of the given folders can do")
    verb.add_argument("folders", metavar="FOLDER", nargs="*", help="a folder of images (default: the current one)")


def _schema(verbs: _Verbs, common: argparse.ArgumentParser) -> None:
    verb = _verb(verbs, common, "schema", "print the JSON Schema of manifests, plans, the JSON report or events")
    names = f"one of: {', '.join(SchemaName)}"
    verb.add_argument("schema", metavar="NAME", choices=list(SchemaName), type=one_of(SchemaName), help=names)


def _add_jobs(verb: argparse.ArgumentParser, what: str) -> None:
    verb.add_argument("-j", "--jobs", metavar="N", type=jobs, help=f"{what} (default: one per CPU)")


def _add_guest(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--guest",
        metavar="NAME",
        type=guest_name,
        action="append",
        dest="guests",
        help="only this guest; may be repeated",
    )


def _add_dry_run(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "-n", "--dry-run", action="store_true", help="compare, and report what would be done, but change nothing"
    )


def _add_users(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--unseen",
        action="store_true",
        help="delete files even if the filesystem cannot report whether a VM has them open",
    )
    _add_connect(verb, _REFUSE_ACTIVE)


def _add_connect(verb: argparse.ArgumentParser, what: str) -> None:
    verb.add_argument("--connect", metavar="URI", help=what)


def _add_map(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--map",
        metavar="OLD=NEW",
        action="append",
        dest="moves",
        type=moved_to,
        help="the images were moved: a path under OLD in the plan is under NEW now; may be repeated",
    )


VERBS = (
    _discover,
    _estimate,
    _plan,
    _show,
    _apply,
    _status,
    _verify,
    _restore,
    _purge,
    _definitions,
    _validate,
    _doctor,
    _schema,
)
"""In the order of the help."""
