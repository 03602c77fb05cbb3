"""JSON from files of which nothing is known."""

import json
from typing import Any

from maskgraft.files.faults import damaged


def parsed(text: bytes | memoryview, what: str) -> Any:
    """The value of a JSON text; `what` names it in the error.

    Raises `CheckpointError` (`file.damaged`) for what is no JSON, or nests too deep.
    """
    try:
        value = json.loads(bytes(text))
        if b"\\ud" in bytes(text).lower():
            # Half a surrogate pair is a name that cannot be printed.
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise damaged(f"{what} is no JSON: {error}") from None
    return value


def parsed_object(text: bytes | memoryview, what: str) -> dict[str, Any]:
    """The same for a text that must hold an object."""
    value = parsed(text, what)
    if not isinstance(value, dict):
        raise damaged(f"{what} holds no JSON object")
    return value
