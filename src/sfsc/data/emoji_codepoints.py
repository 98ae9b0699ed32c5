"""Assigning the icons of each vendor to emoji, by codepoints or by name.

An emoji is named by its codepoints in lower-case hexadecimal, joined by hyphens, without the variation
selector fe0f: "1f44d", "1f468-200d-1f33e".
"""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

SKIN = frozenset({"1f3fb", "1f3fc", "1f3fd", "1f3fe", "1f3ff"})
_HAIR = frozenset({"1f9b0", "1f9b1", "1f9b2", "1f9b3"})
_GENDER = frozenset({"2640", "2642"})
_JOINER = "200d"
_FACING_RIGHT = "27a1"
_PERSON, _CHILD, _ELDER = "1f9d1", "1f9d2", "1f9d3"
_SAME_PERSON = {
    "1f468": _PERSON,
    "1f469": _PERSON,
    "1f466": _CHILD,
    "1f467": _CHILD,
    "1f474": _ELDER,
    "1f475": _ELDER,
}
# Single codepoints, and joined sequences that show the same and are drawn alike.
_SAME_GROUP = {
    "1f46a": f"{_PERSON}-{_CHILD}",
    "1f46b": f"{_PERSON}-1f91d",
    "1f46c": f"{_PERSON}-1f91d",
    "1f46d": f"{_PERSON}-1f91d",
    "1f48f": f"{_PERSON}-2764-1f48b",
    "1f491": f"{_PERSON}-2764",
}


@dataclass(frozen=True)
class IconSet:
    """The drawings of one vendor.

    Attributes:
        drawings: maps each name, including aliases, to the name of the icon that is drawn.
        codepoints: maps raw codepoint sequences to names; empty if the vendor gives only names.
    """

    drawings: Mapping[str, str]
    codepoints: Mapping[str, str]


def normalise(raw: str) -> str | None:
    """Return the sequence in lower case without fe0f, or None if a codepoint is for private use."""
    parts = [part for part in raw.lower().split("-") if part != "fe0f"]
    private = any(unicodedata.category(chr(int(part, 16))) == "Co" for part in parts)
    return None if private else "-".join(parts)


def has_skin_tone(codepoints: str) -> bool:
    """Return whether this is a skin-tone variant of another emoji (the colour swatches alone are not)."""
    parts = codepoints.split("-")
    return len(parts) > 1 and not SKIN.isdisjoint(parts)


def base(codepoints: str) -> str:
    """Return the codepoints that all variants of an emoji share.

    Gender, hair, skin tone, direction and repetitions are removed.
    """
    dropped = {_JOINER, _FACING_RIGHT, *SKIN, *_HAIR, *_GENDER}
    kept = [_SAME_PERSON.get(part, part) for part in codepoints.split("-") if part not in dropped]
    shared = "-".join(dict.fromkeys(kept)) or codepoints
    return _SAME_GROUP.get(shared, shared)


def assign(sets: Mapping[str, IconSet]) -> dict[str, dict[str, str]]:
    """Return {codepoints: icon to draw} for each vendor.

    Icons of a set without codepoints are matched by name: with the codepoints that most of the other sets
    give to the name, or else with those of the name in the Unicode standard.
    """
    known = {vendor: _by_codepoints(icons) for vendor, icons in sets.items() if icons.codepoints}
    names = _unicode_names({codepoints for drawn in known.values() for codepoints in drawn})
    names |= _voted_names((sets[vendor], drawn) for vendor, drawn in known.items())
    return {
        vendor: known[vendor] if vendor in known else _by_name(icons, names) for vendor, icons in sets.items()
    }


def _by_codepoints(icons: IconSet) -> dict[str, str]:
    drawn: dict[str, str] = {}
    for raw, name in sorted(icons.codepoints.items()):
        codepoints = normalise(raw)
        if codepoints and name in icons.drawings:
            drawn.setdefault(codepoints, icons.drawings[name])
    return drawn


def _by_name(icons: IconSet, names: Mapping[str, str]) -> dict[str, str]:
    drawn: dict[str, str] = {}
    mapped: set[str] = set()
    # Own names come before aliases, and the first name that is known decides about a drawing.
    for name, drawing in sorted(icons.drawings.items(), key=lambda item: (item[0] != item[1], item[0])):
        codepoints = names.get(_squash(name))
        if codepoints and drawing not in mapped:
            mapped.add(drawing)
            drawn.setdefault(codepoints, drawing)
    return drawn


def _voted_names(voters: Iterable[tuple[IconSet, Mapping[str, str]]]) -> dict[str, str]:
    votes: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for icons, drawn in voters:
        codepoints_of = defaultdict(list)
        for codepoints, drawing in drawn.items():
            codepoints_of[drawing].append(codepoints)
        for name, drawing in icons.drawings.items():
            votes[_squash(name)].update(codepoints_of[drawing])
    return {name: min(count, key=lambda c: (-count[c], c)) for name, count in votes.items() if count}


def _unicode_names(known: Iterable[str]) -> dict[str, str]:
    single = {codepoints: chr(int(codepoints, 16)) for codepoints in known if "-" not in codepoints}
    return {
        _squash(unicodedata.name(character).lower()): codepoints
        for codepoints, character in single.items()
        if unicodedata.name(character, "")
    }


def _squash(name: str) -> str:
    """Return a name without differences between vendors: "flag-for-france" becomes "flagfrance"."""
    return name.replace("flag-for-", "flag-").replace("-", "").replace(" ", "")
