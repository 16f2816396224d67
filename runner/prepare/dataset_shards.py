"""Sources that the `datasets` package loads: `read: {dataset: …}`, as shards of Arrow rows that are dealt to the tasks.

    dataset: my-folder       what `save_to_disk` wrote: its Arrow files are read as they are, without the package
    dataset: csv             a packaged builder (csv, json, parquet, arrow, text, webdataset) with `files`
    dataset: OWNER/NAME      of the hub, or a local folder that `load_dataset` understands; by streaming

A shard is `SPLIT/NUMBER`, or a file of the folder; how many there are follows from the data's files alone.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]

from curriculum import fs
from curriculum.data.listing import PACKAGED_BUILDERS, WEBDATASET, SourceFile
from curriculum.errors import DataError, did_you_mean
from runner.prepare import remote

STREAMED = "dataset:"
"""How the path of a shard begins that is no file."""
SPLIT = "train"
ROWS = 1000
"""Of a streamed shard, the rows that are read at a time."""


class DatasetShards:
    """The dataset that `read` names; folders in it start at `root`. It is loaded once, when it is first needed."""

    def __init__(self, read: Mapping[str, Any], root: str, revision: str | None = None) -> None:
        self.name = str(read["dataset"])
        self.split = str(read.get("split") or SPLIT)
        self.config = read.get("config")
        self.revision = revision or read.get("revision")
        files = read.get("files") or []
        self.files = [str(Path(root, name)) for name in ([files] if isinstance(files, str) else files)] or None
        self.folder = Path(root, self.name).expanduser()
        self._lock = threading.Lock()
        self._splits: Mapping[str, Any] | None = None

    @property
    def of_hub(self) -> bool:
        return self.name not in PACKAGED_BUILDERS and not self.folder.exists()

    def list_shards(self, held_out: str | None) -> tuple[list[SourceFile], dict[str, Any]]:
        """The shards of the split, and of the one that is `held_out`; with the commit of a dataset of the hub."""
        splits = [self.split, *([] if held_out in (None, self.split) else [str(held_out)])]
        if (self.folder / "dataset_dict.json").is_file():
            with self._saved(self.folder):
                listed = list(fs.parse_json((self.folder / "dataset_dict.json").read_bytes())["splits"])
            self._check_splits(splits, listed)
            return [file for split in splits for file in self._arrow_files(self.folder / split, f"{split}/")], {}
        if (self.folder / "state.json").is_file():
            self._check_splits(splits, [self.split])
            return self._arrow_files(self.folder, ""), {}
        details: dict[str, Any] = {}
        if self.of_hub:
            details["revision"] = self.revision = self._commit()
        loaded = self._load()
        self._check_splits(splits, loaded)
        return [
            SourceFile(f"{split}/{number:05d}", f"{STREAMED}{split}:{number}")
            for split in splits
            for number in range(loaded[split].num_shards)
        ], details

    def batches(self, file: SourceFile) -> Iterator[pa.RecordBatch]:
        """The rows of a streamed shard."""
        split, _, number = file.path.removeprefix(STREAMED).rpartition(":")
        try:
            dataset = self._load()[split]
            shard = dataset.shard(num_shards=dataset.num_shards, index=int(number))
            if self.name == WEBDATASET:  # its rows have no schema in common, as Arrow needs
                for rows in shard.iter(batch_size=ROWS):
                    texts = {name: values for name, values in rows.items() if isinstance(values[0], str | bytes)}
                    yield pa.RecordBatch.from_pydict(texts)
                return
            for table in shard.with_format("arrow").iter(batch_size=ROWS):
                yield from table.to_batches()
        except DataError:
            raise
        except Exception as error:  # of the builder, the storage or the network
            raise self._refusal(error) from None

    def _arrow_files(self, folder: Path, prefix: str) -> list[SourceFile]:
        """The files that the state of a saved dataset names; DataError where one is missing."""
        with self._saved(folder):
            names = [
                str(entry["filename"]) for entry in fs.parse_json((folder / "state.json").read_bytes())["_data_files"]
            ]
            return [SourceFile(f"{prefix}{name}", str(folder / name), (folder / name).stat().st_size) for name in names]

    @contextlib.contextmanager
    def _saved(self, folder: Path) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = f"it has no {error}" if isinstance(error, KeyError) else error
            raise DataError(
                f"`{folder}` is a damaged folder of `save_to_disk`: {reason}",
                hint="save it again; finished tasks are kept",
                entry=("dataset",),
            ) from None

    def _check_splits(self, splits: Sequence[str], listed: Any) -> None:
        for split in splits:
            if split not in listed:
                raise DataError(
                    f"the dataset `{self.name}` has no split `{split}`",
                    hint=f"it has: {', '.join(f'`{name}`' for name in listed)}; {did_you_mean(split, listed)}",
                    entry=("split",) if split == self.split else (),
                )

    def _load(self) -> Mapping[str, Any]:
        with self._lock:
            if self._splits is None:
                import datasets
                from datasets.utils.logging import disable_progress_bar

                disable_progress_bar()
                path = self.name if self.name in PACKAGED_BUILDERS or self.of_hub else str(self.folder)
                try:
                    self._splits = datasets.load_dataset(
                        path, self.config, data_files=self.files, revision=self.revision, streaming=True
                    )
                except Exception as error:  # every builder and storage has its own
                    raise self._refusal(error) from None
            return self._splits

    def _commit(self) -> str:
        """The commit of a dataset of the hub, so that it does not move between two attempts."""
        from huggingface_hub import HfApi

        try:
            return str(HfApi().dataset_info(self.name, revision=self.revision).sha)
        except Exception as error:
            raise self._refusal(error) from None

    def _refusal(self, error: Exception) -> DataError:
        where = f"hf://datasets/{self.name}" + (f"@{self.revision}" if self.revision else "")
        explained = remote.explain(where, error) if self.of_hub else None
        if explained is not None:  # what was meant as a folder may be written like OWNER/NAME
            hint = f"{explained.hint}; there is no folder `{self.folder}` either"
            return DataError(explained.what, hint=hint, entry=("dataset",))
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        hint = "see `dataset`, `config`, `split` and `files`; finished tasks are kept"
        if "BuilderConfig" in reason or "Config name is missing" in reason:
            hint = "`config:` names one of those that it has"
        return DataError(f"`datasets` cannot load `{self.name}`: {reason}", hint=hint, entry=("dataset",))
