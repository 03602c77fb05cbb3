"""Text of protocol buffers as nested dicts, and back, without protobuf and without a schema.

Grammar: the text format language specification of protocol buffers. Without the schema a field that stands once
cannot be told from a repeated field of one entry, so that `entries` asks for the list.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

_MOST_DEPTH = 100  # protobuf's own limit
_CLOSES = {"{": "}", "<": ">"}
_BOOLEANS = {"true": True, "True": True, "false": False, "False": False}
_ESCAPES = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_WORD = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.")


class NotText(Exception):
    """The text is no protocol buffer text; the message says where and why."""


@dataclass(frozen=True, slots=True)
class _Token:
    """A word, a number, a mark or a string (`quoted`), and the line it stands in; `stray`: a word glued to a string."""

    text: str
    line: int
    quoted: bool = False
    stray: bool = False


def read_text(text: str) -> Mapping[str, Any]:
    """A message as nested dicts.

        read_text('model { ssd { num_classes: 90 } } # comment')    # {"model": {"ssd": {"num_classes": 90}}}

    Enum values are strings, as are quoted ones; a field that stands several times is a list in the file's order.
    What `strays` finds is passed over. Raises `NotText` with the line.
    """
    tokens = [token for token in _tokens(text) if not token.stray]
    message, end = _message(tokens, 0, closes="", depth=0)
    assert end == len(tokens)
    return message


def strays(text: str) -> list[str]:
    """Words that are glued to the end of a string, where protobuf's own parser stops.

    strays('input_path: "PATH_TO_BE_CONFIGURED"s')     # ["line 1: 's'"], as in a published pipeline.config
    """
    return [f"line {token.line}: {token.text!r}" for token in _tokens(text) if token.stray]


def entries(message: Mapping[str, Any], name: str) -> list[Any]:
    """All values of a field that may be repeated; none when it is absent."""
    value = message.get(name, [])
    return value if isinstance(value, list) else [value]


def write_text(message: Mapping[str, Any], *, indent: str = "") -> str:
    """Nested dicts as protocol buffer text; a list is a repeated field, a word in capitals the value of an enum.

    write_text({"model": {"ssd": {"num_classes": 90}}})     # "model {\n  ssd {\n    num_classes: 90\n  }\n}\n"
    """
    lines = []
    for name in message:
        for value in entries(message, name):
            if isinstance(value, Mapping):
                lines.append(f"{indent}{name} {{\n{write_text(value, indent=indent + '  ')}{indent}}}\n")
            elif isinstance(value, bool):
                lines.append(f"{indent}{name}: {str(value).lower()}\n")
            elif isinstance(value, str) and not value.isupper():
                lines.append(f"{indent}{name}: {json.dumps(value)}\n")
            else:
                lines.append(f"{indent}{name}: {value}\n")
    return "".join(lines)


def _tokens(text: str) -> Iterator[_Token]:
    line, at = 1, 0
    while at < len(text):
        sign = text[at]
        if sign == "\n":
            line += 1
        if sign.isspace():
            at += 1
        elif sign == "#":
            end = text.find("\n", at)
            at = len(text) if end < 0 else end
        elif sign in "\"'":
            value, at = _string(text, at, line)
            yield _Token(value, line, quoted=True)
            end = at
            while end < len(text) and text[end] in _WORD:
                end += 1
            if end > at:
                yield _Token(text[at:end], line, stray=True)
            at = end
        elif sign in _WORD:
            end = at
            while end < len(text) and (text[end] in _WORD or (text[end] in "+-" and _is_exponent(text[at:end]))):
                end += 1
            yield _Token(text[at:end], line)
            at = end
        elif sign in "{}<>[]:,;-/":
            yield _Token(sign, line)
            at += 1
        else:
            raise NotText(f"line {line}: {sign!r} cannot stand here")


def _is_exponent(number: str) -> bool:
    """Whether a sign that follows belongs to the number: 1e-5, but not 0xe-5 or a-5."""
    return number[-1:] in ("e", "E") and number[:1] in "0123456789." and not number.lower().startswith("0x")


def _string(text: str, start: int, line: int) -> tuple[str, int]:
    quote, at, parts = text[start], start + 1, bytearray()
    while True:
        sign = text[at : at + 1]
        if sign in ("", "\n"):
            raise NotText(f"line {line}: a string does not end")
        at += 1
        if sign == quote:
            return parts.decode("utf-8", "replace"), at
        if sign != "\\":
            parts += sign.encode()
            continue
        sign = text[at : at + 1]
        at += 1
        digits, base = _digits(text, at, sign)
        if base:
            parts.append(int(digits, base) & 0xFF)
            at += len(digits) - (base == 8)
        else:
            parts += _ESCAPES.get(sign, sign).encode()


def _digits(text: str, at: int, sign: str) -> tuple[str, int]:
    """The digits of an escape like \\x4F (base 16) or \\117 (base 8); base 0 when it is none."""
    if sign in ("x", "X"):
        pair = "".join(one for one in text[at : at + 2] if one in "0123456789abcdefABCDEF")
        return pair, 16 if pair and text[at : at + len(pair)] == pair else 0
    if sign and sign in "01234567":
        digits = sign
        for one in text[at : at + 2]:
            if one not in "01234567":
                break
            digits += one
        return digits, 8
    return "", 0


def _message(tokens: list[_Token], at: int, *, closes: str, depth: int) -> tuple[dict[str, Any], int]:
    """The fields up to the mark `closes`, and where the text goes on after it."""
    if depth > _MOST_DEPTH:
        raise NotText(f"line {tokens[at - 1].line}: messages are nested more than {_MOST_DEPTH} deep")
    fields: dict[str, Any] = {}
    while True:
        if at == len(tokens):
            if closes:
                raise NotText(f"line {tokens[-1].line}: the text ends before {closes!r}")
            return fields, at
        token = tokens[at]
        if token.text == closes and not token.quoted:
            return fields, at + 1
        name, at = _name(tokens, at)
        value, at = _value(tokens, at, after=token, depth=depth)
        if name not in fields:
            fields[name] = value
        else:
            before = fields[name]
            fields[name] = [*(before if isinstance(before, list) else [before]), *(_listed(value))]
        if at < len(tokens) and tokens[at].text in (",", ";") and not tokens[at].quoted:
            at += 1


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _name(tokens: list[_Token], at: int) -> tuple[str, int]:
    """A field's name; that of an extension stands in brackets."""
    token = tokens[at]
    if token.text == "[" and not token.quoted:
        end = next((i for i in range(at, len(tokens)) if tokens[i].text == "]"), None)
        if end is None:
            raise NotText(f"line {token.line}: the name of an extension does not end")
        return "".join(one.text for one in tokens[at : end + 1]), end + 1
    if token.quoted or token.text[0] not in _WORD or token.text[0].isdigit():
        raise NotText(f"line {token.line}: {token.text!r} stands where a field's name should")
    return token.text, at + 1


def _value(tokens: list[_Token], at: int, *, after: _Token, depth: int) -> tuple[Any, int]:
    """What follows a field's name `after`: a message, a list, or a colon and a plain value."""
    colon = at < len(tokens) and tokens[at].text == ":" and not tokens[at].quoted
    at += colon
    if at == len(tokens):
        raise NotText(f"line {tokens[-1].line}: the text ends before a value")
    token = tokens[at]
    if not token.quoted and token.text in _CLOSES:
        return _message(tokens, at + 1, closes=_CLOSES[token.text], depth=depth + 1)
    if not token.quoted and token.text == "[":
        return _list(tokens, at + 1, depth=depth)
    if not colon:
        raise NotText(f"line {after.line}: {after.text!r} is followed by {token.text!r} and not by ':' or '{{'")
    return _plain(tokens, at)


def _list(tokens: list[_Token], at: int, *, depth: int) -> tuple[list[Any], int]:
    values: list[Any] = []
    while at < len(tokens) and tokens[at].text != "]":
        token = tokens[at]
        if not token.quoted and token.text in _CLOSES:
            value, at = _message(tokens, at + 1, closes=_CLOSES[token.text], depth=depth + 1)
        else:
            value, at = _plain(tokens, at)
        values.append(value)
        if at < len(tokens) and tokens[at].text == ",":
            at += 1
    if at == len(tokens):
        raise NotText(f"line {tokens[-1].line}: the text ends before ']'")
    return values, at + 1


def _plain(tokens: list[_Token], at: int) -> tuple[Any, int]:
    """A string (of one or more parts), a number, a truth value or the name of an enum's value."""
    token = tokens[at]
    if token.quoted:
        text = ""
        while at < len(tokens) and tokens[at].quoted:
            text, at = text + tokens[at].text, at + 1
        return text, at
    negative = token.text == "-"
    if negative:
        at += 1
        if at == len(tokens) or tokens[at].quoted:
            raise NotText(f"line {token.line}: '-' without a number")
        token = tokens[at]
    word = token.text
    if word[0] not in _WORD:
        raise NotText(f"line {token.line}: {word!r} stands where a value should")
    number = _number(word)
    if number is not None:
        return -number if negative else number, at + 1
    if negative or word[0].isdigit():
        raise NotText(f"line {token.line}: {word!r} is no number")
    return _BOOLEANS.get(word, word), at + 1


def _number(word: str) -> int | float | None:
    lower = word.lower()
    if lower in ("inf", "infinity", "nan"):
        return float(lower)
    if lower[0] not in "0123456789.":
        return None
    try:
        if lower.startswith("0x"):
            return int(lower, 16)
        if len(lower) > 1 and lower[0] == "0" and lower.isdigit():
            return int(lower, 8)
        return int(lower)
    except ValueError:
        pass
    try:
        return float(lower.removesuffix("f"))
    except ValueError:
        return None
