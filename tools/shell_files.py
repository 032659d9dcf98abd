"""Make the man pages, and the completions for bash, zsh and fish, from the parser of the command line.

::

    share/man/man1/batchdiff.1, batchdiff-plan.1, ...
    share/bash-completion/completions/batchdiff
    share/zsh/site-functions/_batchdiff
    share/fish/vendor_completions.d/batchdiff.fish

`python tools/shell_files.py FOLDER` writes them to FOLDER.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
os.environ["COLUMNS"] = "80"  # the pages do not depend on who builds them

import shtab  # noqa: E402
from argparse_manpage.manpage import Manpage  # noqa: E402

from batchdiff import __version__  # noqa: E402
from batchdiff.cli.arguments import parser  # noqa: E402
from batchdiff.cli.help_layout import EXIT_CODES  # noqa: E402

COMPLETIONS = {
    "bash": "bash-completion/completions/batchdiff",
    "zsh": "zsh/site-functions/_batchdiff",
    "fish": "fish/vendor_completions.d/batchdiff.fish",
}

PREAMBLES = {
    # readline quotes file names itself, because shtab sets `-o filenames` for functions called ..._file. Guests'
    # names are quoted here: after a typed ' or ", only names that need no escape inside such quotes are offered.
    "bash": r"""
_batchdiff_file() {
  local word=${1//\\/} suffix
  word=${word#[\'\"]}
  for suffix in "${@:2}"; do compgen -f -X "!*$suffix" -- "$word"; done
  compgen -d -- "$word"
}
_batchdiff_plan_file() { _batchdiff_file "$1" .json; }
_batchdiff_manifest_file() { _batchdiff_file "$1" .yaml .yml; }
_batchdiff_prom_file() { _batchdiff_file "$1" .prom; }
_batchdiff_guests() {
  local word=${1//\\/} quote='' name
  case $word in [\'\"]*) quote=${word:0:1} word=${word:1} ;; esac
  while IFS= read -r name; do
    [[ $name == "$word"* ]] || continue
    case $quote in
      \') [[ $name == *\'* ]] || printf '%s\n' "$name" ;;
      \") [[ $name == *[\"\$\`\\!]* ]] || printf '%s\n' "$name" ;;
      *) printf '%q\n' "$name" ;;
    esac
  done < <(batchdiff _guest-names "$COMP_LINE" 2>/dev/null)
}
""",
    # compadd quotes what it inserts; (Q) removes quotes, and expands nothing.
    "zsh": r"""
_batchdiff_guests() {
  local -a names
  names=("${(@f)$(batchdiff _guest-names "${(@Q)words}" 2>/dev/null)}")
  names=("${(@)names:#}")
  compadd -a names
}
""",
    # fish's own function for suffixes offers other files, too.
    "fish": r"""
function _batchdiff_file
  for candidate in (__fish_complete_path (commandline -ct))
    set -l name (string split -m1 \t -- $candidate)[1]
    for end in / $argv
      if string match -q -- "*$end" $name
        printf '%s\n' $candidate
      end
    end
  end
end
""",
}

PLAN = {
    "bash": "_batchdiff_plan_file",
    "zsh": "_files -g '*.json'",
    "fish": "(_batchdiff_file .json)",
}
MANIFEST = {
    "bash": "_batchdiff_manifest_file",
    "zsh": "_files -g '*.(yaml|yml)'",
    "fish": "(_batchdiff_file .yaml .yml)",
}
TEXTFILE = {
    "bash": "_batchdiff_prom_file",
    "zsh": "_files -g '*.prom'",
    "fish": "(_batchdiff_file .prom)",
}
GUEST = {
    "bash": "_batchdiff_guests",
    "zsh": "_batchdiff_guests",
    "fish": "(batchdiff _guest-names (commandline -opc) 2>/dev/null)",
}
BY_METAVAR = {
    "FILE": shtab.FILE,
    "FILE.prom": TEXTFILE,
    "FOLDER": shtab.DIRECTORY,
    "MANIFEST": MANIFEST,
    "OLD_PLAN": PLAN,
    "PLAN": PLAN,
}
"""What completes a value, by the placeholder that the help shows for it. A guest's NAME is known by its option."""


def verbs_of(main: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Return the parsers of the verbs by name, each with the verb's one-line help as its description."""
    (action,) = (each for each in main._actions if isinstance(each, argparse._SubParsersAction))
    for choice in action._choices_actions:
        action.choices[choice.dest].description = str(choice.help)
    return dict(action.choices)


def completion(shell: str) -> str:
    """Return the completion script for a shell."""
    main = parser()
    for verb in verbs_of(main).values():
        for action in verb._actions:
            kind = GUEST if "--guest" in action.option_strings else BY_METAVAR.get(str(action.metavar))
            if kind is not None:
                action.complete = kind  # type: ignore[attr-defined]  # where shtab looks for it
    return str(shtab.complete(main, shell, preamble=PREAMBLES[shell]))


def man_pages() -> dict[str, str]:
    """Return the man pages by the names of their files."""
    main = parser()
    example_of = {name: str(verb.description).partition("\n")[0] for name, verb in _verbs(main).items()}
    verbs = verbs_of(main)
    pages = {f"batchdiff-{name}.1": _verb_page(name, verb, example_of[name]) for name, verb in verbs.items()}
    return pages | {"batchdiff.1": _main_page(main, verbs)}


def _verbs(main: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    (action,) = (each for each in main._actions if isinstance(each, argparse._SubParsersAction))
    return dict(action.choices)


def _verb_page(name: str, verb: argparse.ArgumentParser, example: str) -> str:
    summary = str(verb.description)
    verb.description = f"{summary[0].upper()}{summary[1:]}."
    verb.epilog = None
    page = _page(f"batchdiff-{name}", verb, summary)
    page.add_section("examples", ">", _literal(example.removeprefix("example: ")))
    page.add_section("exit status", ">", "See\n.BR batchdiff (1).")
    page.add_section("see also", ">", ".BR batchdiff (1)")
    return str(page)


def _main_page(main: argparse.ArgumentParser, verbs: dict[str, argparse.ArgumentParser]) -> str:
    alone = argparse.ArgumentParser("batchdiff", usage="batchdiff [-h] [-V] VERB ...")
    summary, _, examples = str(main.description).partition("\n\n")
    alone.description = summary
    alone.add_argument("-V", "--version", action="store_true", help="show the version and exit")
    page = _page("batchdiff", alone, summary[0].lower() + summary[1:].rstrip("."))
    rows = (f".TP\n.BR batchdiff\\-{name} (1)\n{_text(_summary(verb))}" for name, verb in verbs.items())
    page.add_section("verbs", ">", "\n".join(rows))
    page.add_section("examples", ">", _literal(examples))
    page.add_section("exit status", ">", _literal(EXIT_CODES.partition("\n")[2]))
    page.add_section("see also", ">", ",\n".join(f".BR batchdiff\\-{name} (1)" for name in verbs))
    return str(page)


def _summary(verb: argparse.ArgumentParser) -> str:
    return str(verb.description).rstrip(".")


def _page(name: str, parser_of_page: argparse.ArgumentParser, summary: str) -> Manpage:
    data = {"project_name": "batchdiff", "version": __version__, "manual_title": "batchdiff manual"}
    page = Manpage(parser_of_page, _data=data | {"description": summary})
    page.prog = name
    return page


def _text(text: str) -> str:
    return text.replace("\\", "\\\\").replace("-", "\\-")


def _literal(text: str) -> str:
    lines = (f"\\&{_text(line)}" for line in text.splitlines())
    return ".nf\n" + "\n".join(lines) + "\n.fi"


def write_all(folder: Path) -> None:
    """Write all files below a folder such as /usr/share."""
    texts = {COMPLETIONS[shell]: completion(shell) for shell in COMPLETIONS}
    texts |= {f"man/man1/{name}": text for name, text in man_pages().items()}
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write_all(Path(sys.argv[1]))
