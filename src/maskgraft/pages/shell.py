"""What every page has: its head, its style, and words made safe."""

from html import escape
from importlib.resources import files


def document(title: str, body: str, script: str = "") -> str:
    """A whole page with the style and the script inside it."""
    style = files("maskgraft.pages").joinpath("page.css").read_text(encoding="utf-8")
    code = f"<script>\n{script}</script>\n" if script else ""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>
{style}</style>
</head>
<body>
<main>
{body}
</main>
{code}</body>
</html>
"""


def table(heads: list[str], rows: list[list[str]], *, right: tuple[int, ...] = ()) -> str:
    """A table of cells that are already HTML; columns of `right` are numbers."""

    def cells(tag: str, texts: list[str]) -> str:
        return "".join(
            f'<{tag} class="n">{text}</{tag}>' if column in right else f"<{tag}>{text}</{tag}>"
            for column, text in enumerate(texts)
        )

    lines = "\n".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f'<div class="scroll"><table>\n<tr>{cells("th", heads)}</tr>\n{lines}\n</table></div>'


def plain(value: object) -> str:
    """A value of a spec as HTML: short numbers, lists with spaces."""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, tuple | list):
        return escape(" ".join(plain(item) for item in value)) if value else "–"
    return escape(str(value))
