"""Findings, reports and tables for people. Colour only on a terminal; machines get JSON elsewhere."""

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from maskgraft.errors import Finding

_STYLE = {"error": "bold red", "warning": "yellow", "info": "cyan"}
_MOST_NAMES = 6
_PIPE_WIDTH = 160
_SET_IN = 4


def console(*, quiet: bool = False) -> Console:
    """Standard output, for results; nothing where `quiet`. Wide where nobody's terminal limits it.

    Text is shown as it is: names of files, classes and settings may have brackets, which mean no style.
    """
    width = None if sys.stdout.isatty() else _PIPE_WIDTH
    return Console(highlight=False, markup=False, quiet=quiet, width=width)


def head(title: object, rest: str) -> Text:
    """The first line about a thing: what it is called, and in short what it is."""
    return Text.assemble((str(title), "bold"), f"  {rest}")


def print_json(data: Any) -> None:
    """JSON on standard output."""
    json.dump(data, sys.stdout, indent=1)
    sys.stdout.write("\n")


def print_findings(findings: Sequence[Finding], *, to: Console | None = None, most: int | None = None) -> None:
    """Each finding: severity and code, the sentence, the tensors, what it does, and what to type. Worst first."""
    out = to or Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    shown = findings if most is None else findings[:most]
    for finding in shown:
        head = Text.assemble(
            (finding.severity, _STYLE[finding.severity]), (f" {finding.code}", "bold"), f": {finding.message}"
        )
        _hang(head, out)
        if finding.names and len(finding.names) > 1:
            _hang(Text(folded(finding.names), "dim"), out, first=_SET_IN)
        if finding.effect:
            _hang(Text(f"if ignored: {finding.effect}"), out, first=_SET_IN)
        if finding.fix:  # never cut, so that it can be copied
            out.print(Text(f"{' ' * _SET_IN}→ {finding.fix}", "green"), soft_wrap=True)
    if len(shown) < len(findings):
        out.print(f"… and {len(findings) - len(shown)} more (--all shows them)")


def _hang(text: Text, out: Console, *, first: int = 0) -> None:
    """A paragraph whose lines are set in from the second one on; where a console cuts no lines, it is one line."""
    lines = [text] if out.soft_wrap else list(text.wrap(out, out.width - _SET_IN))
    for number, line in enumerate(lines):
        line.pad_left(_SET_IN if number else first)
        out.print(line)


def folded(names: Sequence[str], most: int = _MOST_NAMES) -> str:
    """The first few names, and how many more there are."""
    return ", ".join(names[:most]) + (f" … ({len(names)} in all)" if len(names) > most else "")


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], *, right: Sequence[int] = ()) -> Table:
    """A plain table; `right` are the indices of right-aligned columns."""
    result = Table(title=title or None, title_justify="left", box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for index, column in enumerate(columns):
        result.add_column(column, justify="right" if index in right else "left", overflow="fold")
    for row in rows:
        result.add_row(*(str(cell) for cell in row))
    return result


def bar(things: Iterable[Any], title: str, *, quiet: bool) -> Iterable[Any]:
    """The things one by one, with a bar on a terminal; without one where `quiet`, or where nobody sees it."""
    from rich.progress import track

    return things if quiet or not sys.stdout.isatty() else track(things, description=title, transient=True)
