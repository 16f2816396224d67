"""The address of a checkpoint, as given on a command line or in `from:`."""

from __future__ import annotations

from dataclasses import dataclass

from curriculum import config
from curriculum.errors import NotFound
from curriculum.units import Length, parse_count


@dataclass(frozen=True, slots=True)
class Address:
    """`NAME[/STAGE][@TOKENS]`, as given on a command line or in `from:`."""

    curriculum: str
    stage: str | None = None
    position: int | None = None

    def __str__(self) -> str:
        """The address as it is written, with the exact position."""
        stage = f"/{self.stage}" if self.stage else ""
        position = f"@{Length(self.position, 'tokens')}" if self.position is not None else ""
        return f"{self.curriculum}{stage}{position}"


def parse_address(text: str) -> Address:
    """Read `NAME[/STAGE][@TOKENS]`; NotFound when it is not of that form."""
    name, at, position = text.partition("@")
    curriculum, slash, stage = name.partition("/")
    if not config.is_name(curriculum) or (slash and not config.is_name(stage)):
        raise NotFound(f"`{text}` is not an address", hint="an address is NAME[/STAGE][@TOKENS]")
    try:
        tokens = parse_count(position) if at else None
    except ValueError as error:
        raise NotFound(f"`{text}` is not an address: {error}", hint=f"as in {name}@1.2T") from None
    return Address(curriculum, stage or None, tokens)
