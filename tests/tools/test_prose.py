"""tools/prose.py finds each habit that it knows, at its line, and lets plain English pass."""

import prose
import pytest

BAD = {
    "is no": ["A pipe is no regular file.", "These are no\nimages."],
    "all the same": ["It is refused all the same."],
    "any more": ["The file is not there any more.", "It is not used\nanymore."],
    "shall": ["Which guests shall be converted."],
    "somebody": ["Somebody has it open.", "nobody knows", "in everybody's way", "what anybody may read"],
    "tells": ["The exit code tells it.", "what a user was told"],
    "goes on": ["The scan goes on later.", "Going on where it was", "the command to go\non"],
    "look into": ["Look into the journal.", "a folder that cannot be looked into"],
    "begun": ["once it is begun", "a guest that was begun but not finished"],
    "for one": ["A VM, for one, has it open."],
    "where": [
        "Where it is missing, nothing is done.",
        "It is refused, where that is known.",
        "It counts only where they differ.",
        "Null where the guest was skipped.",
        "Return the size, or None where it has none.",
        "The field is left out\nwhere there is no template.",
        "It is read where there are none.",
        "Scanned again where the guest was not compared.",
        "Compared by content where the kernel cannot be asked.",
    ],
}

GOOD = [
    "There is no such file, and there are no others.",
    "There may be no overlay, and there has been no error.",
    "The image is nowhere, is not a file, and is no longer held; it is no larger than before.",
    "It is now the same file; all of the same size.",
    "A marshalled value is a shallow copy of a shell's.",
    "Run it for each guest, for one or for all of them. It fails without asking for one.",
    "The server maps root to nobody, and it runs as the user nobody.",
    "The lease goes on a descriptor.",
    "It has begun. It had\nbegun before.",
    "The folder where it is, and the line where that starts.",
    "The path, where it was found; a place where the file is kept.",
    "Look at the journal. The kernel reports it to the caller.",
    "The user `nobody` owns it, and ``shall`` is an option.",
    "It reads as zeros where the template does not.",
    "```text\nnobody shall tell it any more\n```",
]


def in_markdown(text, path):
    path.write_text(text)
    return [(finding.line, finding.pattern.name) for finding in prose.findings(path)]


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in BAD.items() for text in texts])
@pytest.mark.parametrize("shape", ["document", "docstring", "comment", "message", "joined", "script"])
def test_each_habit_is_found_at_its_line(name, text, shape, tmp_path):
    lines = text.splitlines()
    source = {
        "document": text,
        "docstring": f'"""Plain.\n\n{text}\n"""',
        "comment": "\n".join(f"# {line}" for line in lines),
        "message": f'print(f"{{path}}: {text}")'.replace("\n", " "),
        "joined": "print(\n" + "\n".join(f'    "{line} "' for line in lines) + "\n)",
        "script": "\n".join(f"echo # {line}" for line in lines),
    }[shape]
    path = tmp_path / {"document": "a.md", "script": "a"}.get(shape, "a.py")
    path.write_text(f"\n\n{source}\n")
    found = prose.findings(path)
    assert [finding.pattern.name for finding in found] == [name]
    begins = source.splitlines()[found[0].line - 3].lower()
    assert found[0].words.split()[0].lower() in begins


@pytest.mark.parametrize("text", GOOD)
def test_plain_english_passes(text, tmp_path):
    assert in_markdown(text, tmp_path / "a.md") == []
    if "```" not in text:
        code = tmp_path / "a.py"
        code.write_text(f'"""{text}"""\n')
        assert prose.findings(code) == []


def test_every_pattern_has_an_example():
    assert set(BAD) == {pattern.name for pattern in prose.PATTERNS}


@pytest.mark.parametrize("word", ["Whether", "What", "How", "Which", "Where", "Why"])
def test_docstrings_of_functions_begin_with_a_verb(word, tmp_path):
    path = tmp_path / "a.py"
    path.write_text(
        f'"""{word} a module may begin with."""\n'
        f'class A:\n    """{word} a class may."""\n\n'
        f'    async def b(self):\n        """{word} it is."""\n\n'
        f'    def c(self):\n        """Return {word.lower()} it is."""\n'
    )
    assert [(found.line, found.words) for found in prose.findings(path)] == [(6, word)]


def test_names_and_filled_in_values_are_not_prose(tmp_path):
    path = tmp_path / "a.py"
    path.write_text('shall = nobody(told, "x")\nprint(f"{shall} is no {nobody}", \'is no\')\n')
    assert prose.findings(path) == []


def test_positions_are_right_beside_letters_of_several_bytes(tmp_path):
    path = tmp_path / "a.py"
    path.write_text('a = "\u00e4\u00f6\u00fc", "it shall"  # \u00e9 nobody\nb = "\u20ac"\n')
    assert {(found.line, found.words) for found in prose.findings(path)} == {(1, "shall"), (1, "nobody")}


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "good.md").write_text("There is no fault.\n")
    (tmp_path / "docs" / "bad.md").write_text("Fine.\nIt is no fault.\n")
    monkeypatch.setattr(prose, "ROOT", tmp_path)
    return tmp_path


def test_findings_fail_the_check(checkout, monkeypatch, capsys):
    monkeypatch.setattr(prose, "NOT_YET", ())
    assert prose.main([]) == 1
    assert capsys.readouterr().out == 'docs/bad.md:2: "is no fault": "is not a ..."\n'


@pytest.mark.parametrize("entry", ["docs/bad.md", "docs/"])
def test_what_is_not_yet_reworded_does_not(entry, checkout, monkeypatch, capsys):
    monkeypatch.setattr(prose, "NOT_YET", (entry,))
    assert prose.main([]) == 0
    assert capsys.readouterr().out == ""
    assert prose.main([str(checkout / "docs" / "bad.md")]) == 1, "a file that is named is checked"


@pytest.mark.parametrize("entry", ["docs/good.md", "docs/gone.md", "docs/bad"])
def test_the_list_only_shrinks(entry, checkout, monkeypatch, capsys):
    monkeypatch.setattr(prose, "NOT_YET", ("docs/bad.md", entry))
    assert prose.main([]) == 1
    assert f'"{entry}" has no findings left' in capsys.readouterr().out
