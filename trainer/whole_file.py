"""Files that appear whole or not at all."""

from __future__ import annotations

from etils import epath


def write_whole(path: epath.PathLike, text: str) -> None:
    """Writes a text under another name first, and then gives it its own."""
    path = epath.Path(path)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
