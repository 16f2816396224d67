"""Which encoder makes the ids of a source: chosen once, recorded in the partial folder, the same for all its tasks."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curriculum import fs
from curriculum.data.tokenizer import Tokenizer
from curriculum.errors import DataError
from runner.prepare.encoder import (
    FAST,
    REFERENCE,
    CheckedEncoder,
    Encoder,
    EncoderDiffers,
    EncoderUnavailable,
    FastEncoder,
    ReferenceEncoder,
    version_of,
)
from runner.prepare.proof import prove

FILE = "encoder.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderChoice:
    """`encoder` is the library with its version, `refused` why it is not the fast one (empty where it is)."""

    encoder: str
    refused: str = ""

    @property
    def fast(self) -> bool:
        return self.encoder.split()[0] == FAST

    def record(self) -> dict[str, str]:
        """For the manifest's provenance."""
        return {"encoder": self.encoder, **({"fast_encoder_refused": self.refused} if self.refused else {})}


class SourceEncoder:
    """The encoder of one source, whose tokenizer is at `path`; its choice is kept in the folder `partial`.

    `proofs` is the folder with the records of tokenizers on which the fast encoder was proven. `appended_to` is the
    provenance of the text that is appended to, whose encoder is kept.
    """

    def __init__(
        self,
        path: Path,
        tokenizer: Tokenizer,
        partial: Path,
        proofs: Path | None,
        appended_to: Mapping[str, Any] | None = None,
    ) -> None:
        self.data = path.read_bytes()
        self.tokenizer = tokenizer
        self.file = partial / FILE
        self.proofs = proofs
        self.appended_to = appended_to
        self._local = threading.local()
        self._made: list[FastEncoder] = []

    def choice(self) -> EncoderChoice:
        """What was chosen, by this process or another; else it is chosen now."""
        try:
            record = fs.read_sealed(self.file)
            if record.pop("tokenizer") == self.tokenizer.digest:
                kept = fs.from_json(EncoderChoice, record)
                if kept.encoder == version_of(kept.encoder.split()[0]):
                    return kept
        except (OSError, ValueError, KeyError, ImportError):
            pass
        return self._keep(self._choose())

    def for_task(self, choice: EncoderChoice, *, threads: bool) -> Encoder:
        """An encoder for a task, checked again; tasks that one thread runs share what it has learnt.

        Threads do not share one: they would wait for each other.
        """
        reference = ReferenceEncoder(self.tokenizer)
        if not choice.fast:
            return reference
        fast: FastEncoder | None = getattr(self._local, "fast", None)
        if fast is None:
            fast = self._local.fast = self._made.pop() if self._made else FastEncoder(self.data)
        fast.threads = threads
        return CheckedEncoder(fast, reference)

    def fall_back(self, why: str) -> None:
        """Choose `tokenizers` for the whole source; DataError where text is there that the fast encoder made."""
        if self.appended_to is not None:
            raise DataError(
                f"nothing can be appended with the encoder that the text was made with: {why}",
                hint="`pip install gigatoken` where that is missing, and repeat the command; or name the new files "
                "as a source of their own in sources.yaml",
            )
        self._keep(EncoderChoice(encoder=version_of(REFERENCE), refused=why))

    def _choose(self) -> EncoderChoice:
        earlier = None if self.appended_to is None else str(self.appended_to.get("encoder", REFERENCE))
        if earlier is not None and not earlier.startswith(FAST):
            return EncoderChoice(encoder=version_of(REFERENCE), refused=f"the text was started with {earlier}")
        try:
            fast = FastEncoder(self.data)
            prove(fast, ReferenceEncoder(self.tokenizer), self.data, self.proofs)
        except (EncoderUnavailable, EncoderDiffers) as reason:
            if earlier is not None:
                self.fall_back(str(reason))
            return EncoderChoice(encoder=version_of(REFERENCE), refused=str(reason))
        self._made.append(fast)
        return EncoderChoice(encoder=fast.name)

    def _keep(self, choice: EncoderChoice) -> EncoderChoice:
        fs.write_sealed(self.file, {**fs.fields_of(choice), "tokenizer": self.tokenizer.digest}, replace=True)
        return choice
