"""What every page has: its head, its style, and words made safe."""

import base64
import io
from html import escape
from importlib.resources import files
from pathlib import Path

from PIL import Image

from maskgraft.errors import Finding


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


def finding(one: Finding, *, mark: str = "", note: str = "", id_: int | None = None) -> str:
    """A finding as a block; `mark` stands before its code, `note` after it, `id_` is what links point at."""
    effect = f"<p>If ignored: {escape(one.effect)}.</p>" if one.effect else ""
    fix = f'<p class="fix">{escape(one.fix)}</p>' if one.fix else ""
    names = ""
    if one.names:
        listed = ", ".join(f"<code>{escape(name)}</code>" for name in one.names[:200])
        more = f" and {len(one.names) - 200} more" if len(one.names) > 200 else ""
        how_many = "1 name" if len(one.names) == 1 else f"{len(one.names)} names"
        names = f"<details><summary>{how_many}</summary>{listed}{more}</details>"
    place = f' id="finding-{id_}"' if id_ is not None else ""
    said = f" · {escape(note)}" if note else ""
    head = f'<p class="code">{mark}{one.severity} · {escape(one.code)}{said}</p>'
    return f'<div class="finding {one.severity}"{place}>{head}<p>{escape(one.message)}</p>{effect}{names}{fix}</div>'


def figure(picture: Path | Image.Image, caption: str, *, width: int, wide: bool = False) -> str:
    """A picture inside the page, at most `width` pixels wide, with its caption."""
    one = Image.open(picture) if isinstance(picture, Path) else picture
    if one.width > width:
        one = one.resize((width, max(1, round(one.height * width / one.width))), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    one.convert("RGB").save(buffer, "JPEG", quality=82)
    data = base64.b64encode(buffer.getvalue()).decode()
    return (
        f'<figure class="picture{" wide" if wide else ""}"><img src="data:image/jpeg;base64,{data}" '
        f'width="{one.width}" height="{one.height}" alt="{escape(caption)}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )
