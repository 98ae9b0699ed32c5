"""Names of attributes, and the names of the columns that hold them."""

from __future__ import annotations

import re
import unicodedata

from sfsc.errors import SfscError

# The prefixes of attribute columns. No column that a store creates for itself begins with them.
PREFIX, NUMBER_PREFIX = "sfsc_", "sfscn_"
LONGEST = 200  # maximum number of characters of an attribute's name
_KEPT = re.compile(r"[a-z0-9]")
_ESCAPED = re.compile(r"_([0-9a-f]+)_")


def column_of(attribute: str, kind: str = "") -> str:
    """Return the name of the column that holds an attribute of a kind.

    The name consists of lower-case letters, digits and underscores: every other character of the attribute
    becomes its code point between underscores. Attributes therefore never use a name that a store reserves,
    and names that differ only in case remain distinct. Numbers have another prefix, because both columns
    exist for a moment when integers are converted to numbers.
    """
    prefix = NUMBER_PREFIX if kind == "number" else PREFIX
    return prefix + "".join(c if _KEPT.fullmatch(c) else f"_{ord(c):x}_" for c in attribute)


def attribute_of(column: str) -> str:
    """Return the name of the attribute that a column holds; in format 2, both have the same name."""
    for prefix in (PREFIX, NUMBER_PREFIX):
        if column.startswith(prefix):
            return _ESCAPED.sub(lambda code: chr(int(code[1], 16)), column.removeprefix(prefix))
    return column


def check_name(name: str, taken: tuple[str, ...]) -> str:
    """Return the name of an attribute as it is stored: in Unicode's composed form (NFC).

    Raises:
        SfscError: the name is empty or too long, every gallery has a column with this name, or it contains
            characters that cannot be written.
    """
    composed = unicodedata.normalize("NFC", name)
    if composed in taken:
        raise SfscError(
            f"an attribute cannot be named {name!r}, because every gallery has a column with this name: "
            "choose another name"
        )
    if not 0 < len(composed) <= LONGEST or not is_text(composed) or not composed.strip():
        raise SfscError(
            f"an attribute cannot be named {name[:LONGEST]!r}: a name has 1 to {LONGEST} characters, "
            "none of them a control character"
        )
    return composed


def is_text(value: str) -> bool:
    """Return whether a name is Unicode text without control characters and surrogates."""
    return not any(unicodedata.category(c) in ("Cc", "Cs") for c in value)
