"""How many documents a held-out set needs, so that differences measured on it can be judged."""

from __future__ import annotations

FEW_DOCUMENTS = 30
"""The number of documents below which a standard error is itself uncertain."""

LEAST_DOCUMENTS = 5
"""The least number of documents that an interval is given for."""


def few_documents(documents: int, windows: int | None = None) -> str | None:
    """What is to be said of held-out text of so few `documents`; None where there are enough."""
    if documents >= FEW_DOCUMENTS:
        return None
    held_out = f"{windows:,} held-out windows are" if windows is not None else "the held-out text is"
    of = "one document" if documents == 1 else f"{documents} documents"
    uncertain = (
        f"below {LEAST_DOCUMENTS}, no difference is marked"
        if documents < LEAST_DOCUMENTS
        else f"below {FEW_DOCUMENTS}, a standard error is itself uncertain"
    )
    return f"{held_out} of {of}; {uncertain}"
