"""``batchdiff doctor``: show what this machine and the filesystems of folders can do."""

from __future__ import annotations

import argparse

from batchdiff.cli.console import Console
from batchdiff.doctor.fact import Ability
from batchdiff.doctor.folder import folder_facts
from batchdiff.doctor.machine import QEMU, machine_facts, qemu_facts
from batchdiff.errors import EXIT_DONE, EXIT_SOME_GUESTS, ProgramError
from batchdiff.report.doctor_text import doctor_text
from batchdiff.report.events import fact_event


def run(console: Console, arguments: argparse.Namespace) -> int:
    """Run the verb."""
    folders = dict.fromkeys(arguments.folders or ["."])
    facts = [*machine_facts(), *qemu_facts(), *(fact for folder in folders for fact in folder_facts(folder))]
    for fact in facts:
        console.event("fact", **fact_event(fact))
    console.result(doctor_text(facts, width=console.width))
    missing = {fact.subject for fact in facts if fact.ability is Ability.MISSING}
    if QEMU in missing:
        return ProgramError.exit_code
    return EXIT_SOME_GUESTS if missing else EXIT_DONE
