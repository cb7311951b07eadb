"""Find installed fonts for the names in a picture, and say which characters none of them has.

Matplotlib draws a box for a character that its font lacks. Its own font has no Chinese, Japanese and Korean, and no
emoji.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from matplotlib import font_manager, rc_context
from matplotlib.ft2font import FT2Font

_OWN = "DejaVu Sans"
# It has every character, each as a box that names its script.
_BOXES = "Last Resort"
_MOST_NAMED = 12


@dataclass(frozen=True)
class Fonts:
    """The fonts of a picture.

    Attributes:
        families: Names of fonts; each character is drawn in the first that has it.
        missing: Characters that no font has.
    """

    families: tuple[str, ...]
    missing: frozenset[str]

    def drawing(self) -> AbstractContextManager[None]:
        """Return a context in which texts are names: no formulas, whatever is in them."""
        return rc_context({"font.family": list(self.families), "text.parse_math": False})

    def can_draw(self, text: str) -> bool:
        """Return whether all characters of a text can be drawn."""
        return self.missing.isdisjoint(text)

    def replace(self, text: str) -> str:
        """Return a text with a question mark for each character that cannot be drawn."""
        return "".join("?" if character in self.missing else character for character in text)

    def label(self, names: Sequence[str]) -> list[str]:
        """Return the names as labels; one that cannot be drawn becomes its number, as in :meth:`describe`."""
        # A line break would move whatever is drawn around the name.
        return [" ".join(name.split()) if self.can_draw(name) else f"#{number}" for number, name in enumerate(names)]

    def describe(self, names: Sequence[str]) -> str | None:
        """Return what to tell the user about names that cannot be drawn; None if there are none."""
        numbered = [f"#{number} {name}" for number, name in enumerate(names) if not self.can_draw(name)]
        if not numbered:
            return None
        return (
            f"No installed font has {' '.join(sorted(self.missing)[:_MOST_NAMED])}, so the picture shows numbers: "
            f"{', '.join(numbered)}. Install a font for them, such as fonts-noto-cjk or fonts-symbola"
        )


def find_fonts(texts: Iterable[str]) -> Fonts:
    """Return fonts that together have the characters of all texts, as far as installed fonts do."""
    missing = {character for text in texts for character in text if not character.isspace()}
    families = [_OWN]
    missing -= _characters(font_manager.findfont(_OWN))
    # Few names need it, and a machine may have a thousand fonts, so they are opened only now.
    for entry in sorted(font_manager.fontManager.ttflist, key=lambda entry: (entry.name, entry.weight != 400)):
        if not missing:
            break
        if entry.name in families or entry.name.startswith(_BOXES):
            continue
        if found := missing & _characters(entry.fname):
            families.append(entry.name)
            missing -= found
    return Fonts(tuple(families), frozenset(missing))


def _characters(path: str) -> set[str]:
    try:
        font = FT2Font(path)
    except (OSError, RuntimeError):
        return set()  # a colour font, which Matplotlib cannot draw
    return {chr(code) for code in font.get_charmap()} if font.scalable else set()
