"""YAML as plain data, with the lines of values.

The expansion of aliases and merge keys is limited, because a few hundred bytes of nested aliases can expand to
billions of values.
"""

from __future__ import annotations

import contextlib
from typing import TypeAlias

import yaml

from batchdiff.errors import ManifestError
from batchdiff.manifest.text.problems import Problems, YamlPath
from batchdiff.manifest.text.yaml_errors import where_and_why
from batchdiff.quoting import show

MAX_VALUES = 250_000
"""The limit on keys and values in the text, and on values after aliases are expanded: enough for ten thousand
guests of ten keys each."""

MAX_DEPTH = 50
"""Much more than a manifest needs; the limit also stops a value that contains itself through an alias."""

_LONGEST_NUMBER = 80
"""In characters: enough for 64 binary digits. PyYAML takes quadratic time to convert a sexagesimal number, such as
1:30:00."""

PlainData: TypeAlias = "bool | int | float | str | list[PlainData] | dict[str, PlainData] | None"

_TAG = "tag:yaml.org,2002:"
_MERGE = _TAG + "merge"
# A date or "=" is text here: an image may well be called 2024-06-01.
_TEXT_TAGS = frozenset(_TAG + name for name in ("str", "timestamp", "value", "merge"))
# libyaml's parser is ten times as fast as PyYAML's own, but PyYAML may have been built without it.
_LOADER: type[yaml.SafeLoader] | type[yaml.CSafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def parse_yaml(text: str, name: str, problems: Problems) -> PlainData:
    """Return the single document in a YAML text as plain data; None if it is missing, null or unusable.

    Keys and values that cannot be used are reported; such a key is left out, such a value is None. ``problems``
    gets these reports, and the lines of values.

    :raises ManifestError: the text is not a single YAML document, or exceeds a limit.
    """
    control = yaml.reader.Reader.NON_PRINTABLE.search(text)
    if control:
        line = text.count("\n", 0, control.start()) + 1
        raise ManifestError(f"{name}:{line}: YAML does not allow the character {show(control.group())}; delete it")
    try:
        _check_bounds(text, name)
        node = yaml.compose(text, Loader=_LOADER)
    except yaml.MarkedYAMLError as error:
        at, reason = where_and_why(error, text)
        where = name if at is None else f"{name}:{at}"
        raise ManifestError(f"{where}: not valid YAML: {reason}") from None
    except (yaml.YAMLError, UnicodeError) as error:
        raise ManifestError(f"{name}: not valid YAML: {' '.join(str(error).split())}") from None
    return None if node is None else _Reader(name, problems).value(node, ())


def _check_bounds(text: str, name: str) -> None:
    """Refuse too many or too deeply nested values: composing would keep all nodes and recurse without limit."""
    depth = count = 0
    for event in yaml.parse(text, Loader=_LOADER):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        count += isinstance(event, yaml.NodeEvent)
        if event.start_mark is not None:
            _refuse_excess(name, event.start_mark.line + 1, count, depth)


def _refuse_excess(name: str, line: int, count: int, depth: int) -> None:
    if count > MAX_VALUES:
        raise ManifestError(
            f"{name}:{line}: the manifest has more than {MAX_VALUES} keys and values, including those from aliases"
        )
    if depth > MAX_DEPTH:
        raise ManifestError(f"{name}:{line}: values are nested more than {MAX_DEPTH} levels deep")


class _Reader:
    def __init__(self, name: str, problems: Problems) -> None:
        self._name = name
        self._problems = problems
        self._count = 0
        self._scalars = yaml.constructor.SafeConstructor()

    def value(self, node: yaml.Node, path: YamlPath, depth: int = 0) -> PlainData:
        line = node.start_mark.line + 1
        self._count += 1
        _refuse_excess(self._name, line, self._count, depth)
        self._problems.locate(path, line)
        match node:
            case yaml.MappingNode(tag="tag:yaml.org,2002:map"):
                return self._mapping(node, path, depth)
            case yaml.SequenceNode(tag="tag:yaml.org,2002:seq"):
                return [self.value(item, (*path, at), depth + 1) for at, item in enumerate(node.value)]
            case yaml.ScalarNode():
                return self._scalar(node, path)
        self._refuse_tag(node, path)
        return None

    def _mapping(self, node: yaml.MappingNode, path: YamlPath, depth: int) -> dict[str, PlainData]:
        data: dict[str, PlainData] = {}
        merged: list[yaml.Node] = []
        for key_node, value_node in node.value:
            if key_node.tag == _MERGE:
                merged.append(value_node)
                continue
            key = self._key(key_node, path, data)
            if key is not None:
                self._problems.locate((*path, key), key_node.start_mark.line + 1)
                data[key] = self.value(value_node, (*path, key), depth + 1)
        for source in merged:
            self._merge(source, path, depth, data)
        return data

    def _key(self, node: yaml.Node, path: YamlPath, seen: dict[str, PlainData]) -> str | None:
        line = node.start_mark.line + 1
        if not isinstance(node, yaml.ScalarNode):
            self._problems.add(path, "a key must be text, not a list or a mapping", line=line)
            return None
        if node.tag not in _TEXT_TAGS:
            self._problems.add(path, f"the key {show(node.value)} is not text; put it in quotes", line=line)
            return None
        key = str(node.value)
        if key in seen:
            first = self._problems.line((*path, key))
            self._problems.add((*path, key), f"given twice; the first is on line {first}", line=line)
            return None
        return key

    def _merge(self, source: yaml.Node, path: YamlPath, depth: int, data: dict[str, PlainData]) -> None:
        """Add the keys of ``<<: source`` that the mapping itself does not have; earlier sources win."""
        sources = source.value if isinstance(source, yaml.SequenceNode) else [source]
        for each in sources:
            content = self.value(each, path, depth + 1)
            if isinstance(content, dict):
                data.update({key: value for key, value in content.items() if key not in data})
            else:
                line = each.start_mark.line + 1
                self._problems.add(path, "the merge key << takes a mapping or a list of mappings", line=line)

    def _scalar(self, node: yaml.ScalarNode, path: YamlPath) -> PlainData:
        if node.tag in _TEXT_TAGS:
            return str(node.value)
        if node.tag == _TAG + "null":
            return None
        # PyYAML raises these errors for text that does not fit its tag, as in `!!int x`.
        with contextlib.suppress(ValueError, KeyError, IndexError, OverflowError):
            if len(node.value) > _LONGEST_NUMBER:
                raise ValueError(node.value)
            if node.tag == _TAG + "bool":
                return bool(self._scalars.construct_yaml_bool(node))
            if node.tag == _TAG + "float":
                return float(self._scalars.construct_yaml_float(node))
            if node.tag == _TAG + "int":
                number = int(self._scalars.construct_yaml_int(node))
                if -(1 << 63) <= number < 1 << 63:
                    return number
        if node.tag.startswith(_TAG) and node.tag[len(_TAG) :] in {"bool", "int", "float"}:
            self._problems.add(path, f"{show(node.value)} is not a value that can be used here")
        else:
            self._refuse_tag(node, path)
        return None

    def _refuse_tag(self, node: yaml.Node, path: YamlPath) -> None:
        line = node.start_mark.line + 1
        tag = str(node.tag).replace(_TAG, "!!")
        self._problems.add(path, f"the tag {show(tag)} has no meaning in a manifest; leave it out", line=line)
