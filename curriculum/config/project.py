"""A project: its YAML files by name, validated, and the paths of its runs and data."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Final

from curriculum import config
from curriculum.config import layout
from curriculum.config.yaml import Document, load_yaml, parse_yaml
from curriculum.errors import ConfigError, NotFound, did_you_mean

ROOT_FILES = ("sources.yaml", "sizes.yaml", "machines.yaml")
REHEARSAL = "rehearsal"
LONGEST_NAME = 100  # characters of curricula in a file name; most file systems take 255 bytes in all
_ROOT_VALUES: Final = (
    *("sources_document", "sources", "sizes_document", "sizes", "machines_document", "machines", "default_size"),
)
"""Properties of a project that hold the values of its root files."""
DRAFTED: Final = "in the file that would be written, "
"""Before the name of a file that is drafted, where a place is in it."""
_NO_TEXTS: Final[Mapping[str, str]] = MappingProxyType({})
LOCAL = "local"  # the default machine


class Project:
    """A project folder. Each file is loaded once; the error for an unknown name hints at the nearest."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self._curricula: dict[str, tuple[config.CurriculumFile, Document]] = {}
        self._mixtures: dict[str, tuple[config.MixtureFile, Document]] = {}
        self._studies: dict[str, tuple[config.StudyFile, Document]] = {}
        self._drafts: dict[tuple[str, str], Document] = {}

    @staticmethod
    def find(start: Path | None = None) -> Project:
        """The project around `start` (default: the working folder), found as git finds `.git`."""
        start = (start or Path.cwd()).resolve()
        root = layout.root_around(start)
        if root is not None:
            if any("\ud800" <= character <= "\udfff" for character in str(root)):  # os.fsdecode's
                raise ConfigError(
                    f"the path of this project is not UTF-8, as safetensors needs it: {root}",
                    hint="rename the folder; the text files inside may have any names",
                )
            return Project(root)
        raise NotFound(
            f"no project here: neither {start} nor a folder above it holds `stages/` and `mixtures/`",
            hint="`curriculum init DIR` writes one you own; or change into a project's folder",
        )

    def with_stage_file(self, name: str, document: Document) -> Project:
        """The project with `document` in place of `stages/<name>.yaml`; nothing is written."""
        return self._with_drafts({("stages", name): document})

    def with_draft(self, name: str, text: str, mixtures: Mapping[str, str] = _NO_TEXTS) -> Project:
        """The same with the text of a stage file that is not written yet, and of `mixtures` that it names."""
        texts = {("stages", name): text, **{("mixtures", mixture): mixtures[mixture] for mixture in mixtures}}
        return self._with_drafts(
            {
                (folder, name): parse_yaml(text.encode(), f"{DRAFTED}{folder}/{name}.yaml")
                for (folder, name), text in texts.items()
            }
        )

    def _with_drafts(self, drafts: Mapping[tuple[str, str], Document]) -> Project:
        """A project of the same files, of which `drafts` are replaced; what else was read is not read again."""
        project = Project(self.root)
        project._drafts = {**self._drafts, **drafts}
        project._curricula = {name: one for name, one in self._curricula.items() if ("stages", name) not in drafts}
        project._mixtures = {name: one for name, one in self._mixtures.items() if ("mixtures", name) not in drafts}
        project._studies = dict(self._studies)
        project.__dict__.update({key: self.__dict__[key] for key in _ROOT_VALUES if key in self.__dict__})
        return project

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    @property
    def data(self) -> Path:
        return self.root / "data"

    def stage_folder(self, size: str, curriculum: str, stage: str) -> Path:
        """The path of a stage's run folder, for `StageFolder.open`."""
        return self.runs / size / curriculum / stage

    def output_path(self, size: str, kind: str, names: Sequence[str], suffix: str) -> Path:
        """The default path of a report on curricula: next to the runs of its size."""
        curricula = list(dict.fromkeys(names))
        label = "-".join(curricula)
        if len(label) > LONGEST_NAME:
            label = f"{curricula[0][:LONGEST_NAME]}-and-{len(curricula) - 1}-more"
        return self.runs / size / f"{kind}-{label}{suffix}"

    def names(self, folder: str) -> list[str]:
        """The names of the YAML files in `stages`, `mixtures` or `studies`."""
        drafts = {name for of, name in self._drafts if of == folder}
        return sorted({*layout.names(self.root, folder), *drafts})

    def check_is_new(self, name: str) -> None:
        """An error for a name that a new curriculum cannot have."""
        _check_name(name, "curriculum")
        if name in self.names("stages"):
            raise ConfigError(
                f"`stages/{name}.yaml` exists already; nothing was written", hint="take another name, or edit that file"
            )
        if name in self.names("studies"):
            raise ConfigError(
                f"`{name}` is the name of a study, `studies/{name}.yaml`; nothing was written",
                hint="studies and curricula are addressed by their names alone: take another name",
            )
        if folders := self.runs_of(name):
            raise ConfigError(
                f"`{folders[0].relative_to(self.root).as_posix()}` holds the run of another `{name}`, whose stage file "
                "is gone; nothing was written",
                hint="take another name, or move that folder out of runs/",
            )

    def runs_of(self, name: str) -> list[Path]:
        """The folders of a curriculum's runs, at any size."""
        return sorted(path for path in self.runs.glob("*/*") if path.name == name and path.is_dir())

    def is_recipe(self, name: str) -> bool:
        """Whether a curriculum's file is in a subfolder of `stages/`."""
        paths = layout.files(self.root, "stages", name)
        return bool(paths) and paths[0].parent.parent != self.root

    def is_arm(self, name: str) -> bool:
        """Whether `name` is the address of a study's arm, which is read as one also where the study has no such arm."""
        study, slash, _ = name.partition("/")
        return bool(slash) and study in self.names("studies")

    def curriculum(self, name: str) -> tuple[config.CurriculumFile, Document]:
        """`stages/<name>.yaml`, validated."""
        if name not in self._curricula:
            document = self._load("stages", name, "curriculum")
            self._curricula[name] = (config.validate(config.CurriculumFile, document), document)
        return self._curricula[name]

    def mixture(self, name: str) -> tuple[config.MixtureFile, Document]:
        """`mixtures/<name>.yaml`, validated."""
        if name not in self._mixtures:
            document = self._load("mixtures", name, "mixture")
            self._mixtures[name] = (config.validate(config.MixtureFile, document), document)
        return self._mixtures[name]

    def study(self, name: str) -> tuple[config.StudyFile, Document]:
        """`studies/<name>.yaml`, validated; a curriculum of the same name is an error."""
        if name not in self._studies:
            document = self._load("studies", name, "study")
            if name in layout.names(self.root, "stages"):
                raise ConfigError(
                    f"`studies/{name}.yaml` and `stages/{name}.yaml` have one name",
                    place=document.place(()),
                    hint="studies and curricula are addressed by their names alone, and share runs/: rename one",
                )
            self._studies[name] = (config.validate(config.StudyFile, document), document)
        return self._studies[name]

    @cached_property
    def sources_document(self) -> Document:
        return self._root_file("sources.yaml")

    @cached_property
    def sources(self) -> config.SourcesFile:
        return config.validate(config.SourcesFile, self.sources_document)

    @cached_property
    def sizes_document(self) -> Document:
        return self._root_file("sizes.yaml")

    @cached_property
    def sizes(self) -> config.SizesFile:
        return config.validate(config.SizesFile, self.sizes_document)

    @cached_property
    def machines_document(self) -> Document:
        return self._root_file("machines.yaml")

    @cached_property
    def machines(self) -> config.MachinesFile:
        return config.validate(config.MachinesFile, self.machines_document)

    @cached_property
    def default_size(self) -> str:
        """The size where none is stated: `rehearsal`, or the only one of the project."""
        sizes = self.sizes_document.value
        names = list(sizes) if isinstance(sizes, dict) else []
        if REHEARSAL in names or not names:
            return REHEARSAL
        if len(names) == 1:
            return str(names[0])
        raise ConfigError(
            f"which size? `sizes.yaml` has no `{REHEARSAL}`, which is meant where none is named",
            place=self.sizes_document.key_place((names[0],)),
            hint=f"say `--size NAME`: there are {', '.join(map(str, names))}",
        )

    def options(self, size: str, machine: str = LOCAL) -> str:
        """The options with which a command states this size and machine; empty for the defaults."""
        try:
            is_default = size == self.default_size
        except ConfigError:
            is_default = False
        return ("" if is_default else f" --size {size}") + ("" if machine == LOCAL else f" --machine {machine}")

    def size(self, name: str) -> config.SizeEntry:
        if name not in self.sizes.root:
            raise NotFound(f"unknown size `{name}`", hint=did_you_mean(name, self.sizes.root))
        return self.sizes.root[name]

    def machine(self, name: str) -> config.MachineEntry:
        """The machine of that name; NotFound for another, ConfigError where `local` is meant and missing."""
        if name not in self.machines.root:
            if name == LOCAL and self.machines.root:
                raise ConfigError(
                    f"which machine? `machines.yaml` has no `{LOCAL}`, which is meant where none is named",
                    place=self.machines_document.key_place((next(iter(self.machines.root)),)),
                    hint=f"say `--machine NAME`: there are {', '.join(self.machines.root)}",
                )
            raise NotFound(f"unknown machine `{name}`", hint=did_you_mean(name, self.machines.root))
        return self.machines.root[name]

    def _load(self, folder: str, name: str, noun: str) -> Document:
        _check_name(name, noun, self.names(folder))
        if (folder, name) in self._drafts:
            return self._drafts[folder, name]
        paths = layout.files(self.root, folder, name)
        if not paths and folder == "stages" and name in self.names("studies"):
            raise NotFound(
                f"`{name}` is a study, not a curriculum",
                hint=f"`curriculum plan {name}` shows its arms; `curriculum branch {name}/ARM NAME` makes one of them "
                "a curriculum, which every verb takes",
            )
        if not paths:
            raise NotFound(
                f"unknown {noun} `{name}`: there is no {folder}/{name}.yaml",
                hint=did_you_mean(name, [*self.names(folder), *(self.names("studies") if folder == "stages" else ())]),
            )
        if len(paths) > 1:
            both = " and ".join(path.relative_to(self.root).as_posix() for path in paths)
            raise ConfigError(
                f"two files bear the name `{name}`: {both}", hint=f"a {noun} is called by its name alone: rename one"
            )
        return load_yaml(paths[0], root=self.root)

    def _root_file(self, name: str) -> Document:
        path = self.root / name
        if not path.exists() and not path.is_symlink():
            missing = [f"`{file}`" for file in ROOT_FILES if not (self.root / file).exists()]
            verb, shown = ("is", "one") if len(missing) == 1 else ("are", "them")
            raise ConfigError(
                f"{', '.join(missing)} {verb} missing from the project {self.root}",
                hint=f"`curriculum init DIR` shows {shown}",
            )
        return load_yaml(path, root=self.root)


def _check_name(name: str, noun: str, names: Collection[str] = ()) -> None:
    """NotFound for what is no name; its hint takes one of `names` out of a path or an address."""
    if not config.is_name(name):
        words = [name.removesuffix(".yaml").rpartition("/")[2], *re.split("[/@]", name)]
        meant = next((word for word in words if word in names), None)
        raise NotFound(
            f"`{name}` cannot be the name of a {noun}",
            hint="a name is a-z, 0-9, `.` and `-`, begins with a letter, and is no path"
            if meant is None
            else f"did you mean `{meant}`? a {noun} is named here without its folder, a stage or a position",
        )
