"""The reader of a manifest's entries: it applies defaults and checks values, but looks at no file.

A value that the schema has rejected counts as missing, so that the rest of the entry is still checked. That is
safe, because a manifest with problems is never used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batchdiff.choices import Strategy
from batchdiff.image_source import ImageFormat
from batchdiff.managers.manifest_keys import applicable_defaults, disk_in, of_one_disk
from batchdiff.manifest.text.problems import Problems, YamlPath
from batchdiff.manifest.text.written import WrittenGuest, WrittenImage
from batchdiff.plan.overlay_options import (
    AUTO,
    CLUSTER_SIZES,
    DEFAULT_CLUSTER_SIZE,
    DEFAULT_TABLE_SIZE,
    QED_CLUSTER_SIZES,
    BackingPath,
    Compat,
    Compression,
    Encryption,
    OverlayFormat,
    OverlayOptions,
    Preallocation,
)
from batchdiff.plan.overlay_rules import contradictions
from batchdiff.qcow2.geometry import DEFAULT_REFCOUNT_BITS
from batchdiff.quoting import show, suggestion
from batchdiff.units import format_size, parse_size

if TYPE_CHECKING:
    from collections.abc import Mapping

_STAND_IN = ImageFormat.QCOW2
"""Replaces a rejected format: qcow2 allows a chain and a secret, but needs neither."""

_CAN_BE_ENCRYPTED = (ImageFormat.LUKS, ImageFormat.QCOW2)
_DEFAULTS: YamlPath = ("defaults",)
_DEFAULT_OVERLAY: YamlPath = ("defaults", "overlay")
_ALLOWED_SIZES, _ALLOWED_QED_SIZES = (
    f"write {AUTO}, or a power of two from {format_size(sizes[0])} to {format_size(sizes[-1])}, such as 64KiB"
    for sizes in (CLUSTER_SIZES, QED_CLUSTER_SIZES)
)
_LEVEL = "compression_level"


class EntryReader:
    """A reader of one manifest's entries."""

    def __init__(self, defaults: object, problems: Problems, strategy: Strategy = Strategy.OVERLAY) -> None:
        self._defaults = defaults
        self._problems = problems
        self._strategy = strategy

    def image(
        self, entry: object, where: YamlPath, *, default: ImageFormat | None = None, secret: str | None = None
    ) -> WrittenImage | None:
        """Return an image's entry; None unless it has either a valid path or a valid glob.

        ``secret``: the secret file if the entry has neither a secret file nor a format.
        """
        sound = self._sound_keys(entry, where)
        names = [key for key in ("path", "glob") if key in sound]
        if len(names) != 1:
            return None
        form = self._format(entry, where, default)
        own = "secret_file" in sound
        secret_file = sound["secret_file"] if own else secret if "format" not in sound else None
        secret_where = (*(where if own else _DEFAULTS), "secret_file")
        self._check_secret(form, where, secret_file, secret_where)
        backing = sound.get("backing", [])
        images = [
            self.image(item, (*where, "backing", at))
            for at, item in enumerate(backing if isinstance(backing, list) else [])
        ]
        return WrittenImage(
            where=where,
            path=sound[names[0]],
            format=form,
            backing=tuple(image for image in images if image),
            is_glob=names == ["glob"],
            secret_file=secret_file,
            secret_where=secret_where,
            allow_folders=self._folders(entry, where),
        )

    def guest(self, entry: object, where: YamlPath) -> WrittenGuest | None:
        """Return a guest's entry with the manifest's defaults applied; None as for :meth:`image`."""
        overlay_at = (*where, "overlay")
        own = self._sound_keys(_mapping(entry, "overlay"), overlay_at)
        shared = applicable_defaults(self._default_overlay(), own)
        options = self._options(own, where, shared)
        default = self._format(self._defaults, _DEFAULTS, None)
        secret = self._sound_keys(self._defaults, _DEFAULTS).get("secret_file")
        image = self.image(entry, where, default=default, secret=secret)
        if image is None:
            return None
        if not (isinstance(entry, dict) and "allow_folders" in entry):
            image = image._replace(allow_folders=self._folders(self._defaults, _DEFAULTS))
        for key, what in of_one_disk(own) if image.is_glob else ():
            self._problems.add((*overlay_at, key), what)
        path_at = (*(overlay_at if "path" in own else _DEFAULT_OVERLAY), "path")
        path = own.get("path", shared.get("path"))
        sound, defaults = self._sound_keys(entry, where), self._sound_keys(self._defaults, _DEFAULTS)
        strategy = Strategy(sound.get("strategy", self._strategy))
        if strategy is Strategy.SHARE:
            self._check_without_overlay(sound, where)
            defaults.pop("rethin", None)
        return WrittenGuest(
            image=image,
            # The schema rejects a name beside a glob; do not give it to every match.
            name=None if image.is_glob else sound.get("name"),
            overlay_path=path,
            overlay_where=image.path_where if path is None else path_at,
            options=options,
            secret_where=(*(overlay_at if "encryption" in own else _DEFAULT_OVERLAY), "encryption", "secret_file"),
            rethin=bool(sound.get("rethin", defaults.get("rethin", False))),
            rethin_where=(*(where if "rethin" in sound else _DEFAULTS), "rethin"),
            layout=disk_in({**shared, **own}),
            data_file_where=(*(overlay_at if "data_file" in own else _DEFAULT_OVERLAY), "data_file"),
            strategy=strategy,
        )

    def _check_without_overlay(self, sound: Mapping[str, Any], where: YamlPath) -> None:
        for key in ("overlay", "rethin"):
            if sound.get(key):
                self._problems.add(
                    (*where, key),
                    f"needs `strategy: {Strategy.OVERLAY}`, because a guest that shares blocks in place gets no"
                    f" overlay; leave {key} out, or write `strategy: {Strategy.OVERLAY}` for this guest",
                )

    def check_defaults(self) -> None:
        """Report problems in the defaults, even if no guest uses them."""
        sound = self._sound_keys(self._defaults, _DEFAULTS)
        if "secret_file" in sound and "format" not in sound:
            self._problems.add(
                (*_DEFAULTS, "secret_file"),
                "needs `format` here, because it applies only to guests without their own format; write both, or"
                " give each encrypted guest its own `secret_file`",
            )
        shared = self._default_overlay()
        if "cluster_size" in shared:
            form = OverlayFormat(shared.get("format", OverlayFormat.QCOW2))
            self._cluster_size(shared["cluster_size"], (*_DEFAULT_OVERLAY, "cluster_size"), form)

    def _sound_keys(self, entry: object, where: YamlPath) -> dict[str, Any]:
        """Return an entry without the keys for which a problem has been reported."""
        if not isinstance(entry, dict):
            return {}
        return {key: value for key, value in entry.items() if not self._problems.objects_to((*where, key))}

    def _default_overlay(self) -> dict[str, Any]:
        return self._sound_keys(_mapping(self._defaults, "overlay"), _DEFAULT_OVERLAY)

    def _format(self, entry: object, where: YamlPath, default: ImageFormat | None) -> ImageFormat | None:
        sound = self._sound_keys(entry, where)
        if "format" in sound:
            return ImageFormat(sound["format"])
        # A misspelt key has been reported already; do not also report the right one as missing.
        wrong = [key for key in entry if key not in sound] if isinstance(entry, dict) else []
        return _STAND_IN if any(suggestion(key, ["format"]) for key in wrong) else default

    def _check_secret(
        self, form: ImageFormat | None, where: YamlPath, secret_file: str | None, secret_where: YamlPath
    ) -> None:
        if self._problems.objects_to((*where, "secret_file")):
            return
        if secret_file is not None and form not in {None, *_CAN_BE_ENCRYPTED}:
            problem = (
                f"{form} images are not encrypted (only luks and some qcow2 images are); leave secret_file out"
            )
            self._problems.add(secret_where, problem)
        if secret_file is None and form is ImageFormat.LUKS:
            problem = "secret_file is missing, but luks images need it; write the path of the file with the secret"
            self._problems.add(where, problem)

    def _folders(self, entry: object, where: YamlPath) -> tuple[tuple[YamlPath, str], ...]:
        at = (*where, "allow_folders")
        found = self._sound_keys(entry, where).get("allow_folders", [])
        if not isinstance(found, list):
            return ()
        listed = [((*at, number), folder) for number, folder in enumerate(found)]
        return tuple(each for each in listed if not self._problems.objects_to(each[0]))

    def _options(self, own: Mapping[str, Any], where: YamlPath, shared: Mapping[str, Any]) -> OverlayOptions:
        # A level in the defaults belongs to the compression there, not to an entry's own compression.
        shared = {key: value for key, value in shared.items() if key != _LEVEL or "compression" not in own}
        merged = {**shared, **own}

        def place(key: str) -> YamlPath:
            parts = key.split(".")
            return (*where, "overlay", *parts) if parts[0] in own else (*_DEFAULT_OVERLAY, *parts)

        form = OverlayFormat(merged.get("format", OverlayFormat.QCOW2))
        size = self._cluster_size(merged.get("cluster_size", DEFAULT_CLUSTER_SIZE), place("cluster_size"), form)
        extended = merged.get("extended_l2", False)
        # A level cannot be checked if the compression was rejected.
        places = ((*where, "overlay", "compression"), (*_DEFAULT_OVERLAY, "compression"))
        level = None if any(map(self._problems.objects_to, places)) else merged.get(_LEVEL)
        options = OverlayOptions(
            cluster_size=size,
            extended_l2=None if extended == AUTO else bool(extended),
            compression=Compression(merged.get("compression", Compression.NONE)),
            backing_path=BackingPath(merged.get("backing_path", BackingPath.ABSOLUTE)),
            lazy_refcounts=bool(merged.get("lazy_refcounts", False)),
            compression_level=None if level is None else int(level),
            refcount_bits=int(merged.get("refcount_bits", DEFAULT_REFCOUNT_BITS)),
            compat=Compat(merged.get("compat", Compat.V3)),
            format=form,
            table_size=merged.get("table_size", DEFAULT_TABLE_SIZE),
            preallocation=Preallocation(merged.get("preallocation", Preallocation.OFF)),
            encryption=self._encryption(merged.get("encryption"), place("encryption")),
            data_file=_data_file(merged.get("data_file", False)),
        )
        for key, what in contradictions(options, merged):
            self._problems.add(place(key), what)
        return options

    def _encryption(self, written: object, where: YamlPath) -> Encryption | None:
        sound = self._sound_keys(written, where)
        if "secret_file" not in sound:
            return None
        return Encryption(**{key: value for key, value in sound.items() if key in Encryption._fields})

    def _cluster_size(
        self, value: float | str, where: YamlPath, form: OverlayFormat = OverlayFormat.QCOW2
    ) -> int | None:
        if value == AUTO:
            return None
        is_qed = form is OverlayFormat.QED
        sizes, allowed = (QED_CLUSTER_SIZES, _ALLOWED_QED_SIZES) if is_qed else (CLUSTER_SIZES, _ALLOWED_SIZES)
        try:
            size = parse_size(value) if isinstance(value, str) else int(value)
        except ValueError:
            # The text may have thousands of digits: the message below shortens it; parse_size's does not.
            size = 0
        if size in sizes:
            return size
        self._problems.add(where, f"{_shown(value)} is not a cluster size; {allowed}")
        return DEFAULT_CLUSTER_SIZE


def _data_file(written: bool | str) -> str | None:
    """Return a path as written, empty for the default one; None for no data file."""
    return written if isinstance(written, str) else "" if written else None


def _mapping(entry: object, key: str) -> object:
    return entry.get(key) if isinstance(entry, dict) else None


def _shown(value: float | str) -> str:
    return show(value) if isinstance(value, str) else str(value)
