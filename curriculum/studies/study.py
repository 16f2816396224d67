"""A study at a size: its file, the branch point that its arms leave, and the stage that it asks about."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from curriculum import config
from curriculum.compiler.lineage import (
    Address,
    LineageStage,
    Setting,
    batch_sequences,
    lineage,
    parse_address,
    stages_to,
)
from curriculum.config.project import Project
from curriculum.config.studies import VaryEntry
from curriculum.config.yaml import Document
from curriculum.errors import ConfigError, CurriculumError, NotFound, Place, PlanError, did_you_mean
from curriculum.runs.branch import stage_entries
from curriculum.units import Length


@dataclass(frozen=True, kw_only=True)
class Study:
    """A study whose arms are trained: `for:` or `from:`.

    `before` is the lineage up to the branch point, empty where the stage in question is the first of a root; `stage`
    is that stage, None with `from:`. Every length is at full size.
    """

    project: Project = field(repr=False)
    name: str
    size: str
    file: config.StudyFile
    document: Document = field(repr=False)
    before: tuple[LineageStage, ...] = field(repr=False)
    stage: LineageStage | None = field(repr=False)

    @property
    def vary(self) -> VaryEntry:
        """What is varied; the file's schema asks for it where arms are trained."""
        assert self.file.vary is not None
        return self.file.vary

    @property
    def parent(self) -> Setting | None:
        """The setting of the stage that the arms leave."""
        return self.before[-1].setting if self.before else None

    @property
    def root(self) -> Setting:
        return self.before[0].setting if self.before else self.asked.setting

    @property
    def asked(self) -> LineageStage:
        """The stage in question; where there is none, the one that the arms leave."""
        return self.stage or self.before[-1]

    @property
    def start(self) -> int:
        """The branch point in tokens."""
        return self.before[-1].left_at if self.before else 0

    @property
    def stage_tokens(self) -> int | None:
        """The length of the stage in question; None with `from:`."""
        return self.stage.setting.until - self.start if self.stage is not None else None

    @property
    def point(self) -> str | None:
        """The address of the branch point, as `from:` of a stage file states it; None without one."""
        if not self.before:
            return None
        last = self.before[-1]
        return str(Address(last.setting.curriculum, last.setting.stage, last.cut))

    @cached_property
    def entry(self) -> dict[str, Any]:
        """The stage in question as its file states it, without its name; of `from:` nothing but the length."""
        if self.stage is None:
            return {}
        ((_, entry),) = stage_entries(self.project, [self.stage], cut=None)
        return {key: value for key, value in entry.items() if key != "name"}

    def place(self, *path: str | int) -> Place:
        """The place of the value at `path` in the study's file, or of what holds it."""
        while path and path not in self.document:
            path = path[:-1]
        return self.document.place(path)

    def tokens(self, length: Length, *path: str | int) -> int:
        """A length of an arm in tokens; steps and sequences are those of the batch at the branch point."""
        setting = self.parent or self.asked.setting
        try:
            return length.tokens(sequence_length=setting.sequence_length, batch_sequences=batch_sequences(setting))
        except ValueError as error:
            raise PlanError(str(error), place=self.place(*path), hint="shorten it") from None


def open_study(project: Project, name: str, size: str) -> Study:
    """The study `name`; ConfigError, NotFound or PlanError at the line that names what is not there.

    Of a study of runs that are there (`arms:`, `table:`) nothing is trained: a PlanError says so.
    """
    file, document = project.study(name)
    if file.subject in ("arms", "table"):
        raise PlanError(
            f"study `{name}` has no arms to train: it asks of runs that are there (`{file.subject}:`)",
            place=document.place((file.subject,)),
            hint=f"`curriculum decide {name}` answers it",
        )
    key, text = ("for", file.for_) if file.for_ is not None else ("from", file.from_)
    assert text is not None
    place = document.place((key,))
    try:
        address = parse_address(text)
    except NotFound as error:
        raise ConfigError(error.what, place=place, hint=error.hint) from None
    names = project.names("stages")
    if address.curriculum not in names and address.curriculum in project.names("studies"):
        raise NotFound(
            f"study `{name}` asks about `{text}`, which is of a study and not of a curriculum",
            place=place,
            hint=f"`curriculum branch {address.curriculum}/ARM NAME` makes an arm a curriculum; name that one",
        )
    if address.curriculum not in names:
        raise NotFound(
            f"study `{name}` asks about `{address.curriculum}`, which does not exist",
            place=place,
            hint=did_you_mean(address.curriculum, names),
        )
    if key == "for" and (address.stage is None or address.position is not None):
        own = [stage.setting.stage for stage in lineage(project, address.curriculum)][-1]
        raise ConfigError(
            f"`for: {text}` names no stage",
            place=place,
            hint=f"name the stage whose setting is in question, as in `for: {address.curriculum}/{own}`",
        )
    try:
        stages = stages_to(project, address)
    except CurriculumError as error:
        error.place = error.place or place
        raise
    if key == "from":
        return Study(project=project, name=name, size=size, file=file, document=document, before=stages, stage=None)
    before, stage = stages[:-1], stages[-1]
    if not before and stage.setting.imported is None:
        _check_limits_of_a_root(file, document, text)
    return Study(
        project=project,
        name=name,
        size=size,
        file=file,
        document=document,
        before=before,
        stage=replace(stage, cut=None),
    )


def _check_limits_of_a_root(file: config.StudyFile, document: Document, stage: str) -> None:
    """PlanError for a limit that refers to the branch point, where the stage in question begins with random weights."""
    for source, limit in file.goal.keep.items():
        if limit.base == "before":
            raise PlanError(
                f"the limit of `{source}` is `{limit}`, and nothing was trained before `{stage}`",
                place=document.place(("goal", "keep", source)),
                hint="state a loss, as in `2.87`, or `control + 0.01`: the first stage leaves no branch point",
            )
