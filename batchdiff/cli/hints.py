"""What an operator should hear of a manifest that is valid all the same."""

from __future__ import annotations

from batchdiff.applying.space import check_space
from batchdiff.cli.console import Console
from batchdiff.errors import GuestError
from batchdiff.image.lookalike import looks_like
from batchdiff.image.source import ImageFormat
from batchdiff.model.manifest import Manifest
from batchdiff.model.plan import Plan, Verdict


def warn_of_lookalikes(console: Console, manifest: Manifest) -> None:
    """Names images that are declared raw and begin like another format: right only for a forged header."""
    for source in (manifest.template, *(guest.image for guest in manifest.guests)):
        found = looks_like(source.path) if source.format is ImageFormat.RAW else None
        if found not in {None, ImageFormat.RAW}:
            console.warn(
                f"warning: {source.path} is declared raw, but begins like {found}. Taken as raw, its guest sees"
                f" the {found} file itself as its disk. If that is not meant, write `format: {found}`"
            )


def warn_of_space(console: Console, plan: Plan) -> None:
    """Says at once what apply would refuse later: that a filesystem has not enough space."""
    try:
        check_space([guest for guest in plan.guests if guest.verdict is Verdict.CONVERT], plan.retire)
    except GuestError as error:
        console.warn(f"warning: apply would be refused: {error}")
