"""Sources that the `datasets` package wrote or loads: every document once, with the same id for any number of tasks."""

from __future__ import annotations

import io
import json
import struct
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import httpx
import huggingface_hub
import pyarrow as pa  # type: ignore[import-untyped]
import pytest
from texts import digests, documents_of

from curriculum.config.project import Project
from curriculum.data.manifest import HELD_OUT, TRAIN, Manifest
from curriculum.errors import DataError
from runner.prepare.corpus import Corpus
from runner.prepare.dataset_shards import DatasetShards
from runner.prepare.job import prepare
from runner.prepare.tally import Tally


def rows(count: int, first: int = 0) -> list[dict[str, Any]]:
    return [
        {"text": f"document {n} of the people and the state " * 9, "meta": {"set": "ab"[n % 2]}, "name": f"own-{n}"}
        for n in range(first, first + count)
    ]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of `save_to_disk` with two splits, the first in three files."""
    folder = tmp_path_factory.mktemp("saved") / "both"
    train, held_out = (datasets.Dataset.from_list(rows(*bounds)) for bounds in ((300,), (80, 300)))
    both = datasets.DatasetDict(train=train, validation=held_out)
    both.save_to_disk(folder, num_shards={"train": 3, "validation": 1})
    return folder


def documents(read: dict[str, Any], held_out: str | None = None, **options: Any) -> tuple[list[tuple[str, str]], Tally]:
    """`(id, text)` of every document, read without a preparation."""
    shards = DatasetShards(read, ".")
    files, _ = shards.list_shards(held_out)
    tally = Tally()
    corpus = Corpus(files, shards=shards, tally=tally, **options)
    found = [
        (json.loads(line), text)
        for batch in corpus.batches()
        for line, text in zip(batch.lines, batch.texts.strings(), strict=True)
    ]
    return found, tally


@pytest.mark.promise(
    "A folder that `datasets` saved is a source, with a held-out split of its own and the same bytes for any workers"
)
def test_a_saved_folder_gives_every_document_once_in_its_split_for_any_number_of_workers(
    saved: Path, request_for: Any, tokenizer_file: str, tmp_path: Path
) -> None:
    request = request_for(read={"dataset": str(saved)}, held_out={"split": "validation"}, tasks=2, id="name")
    prepare(request)
    train = documents_of(request.output, TRAIN, tokenizer_file)
    held_out = documents_of(request.output, HELD_OUT, tokenizer_file)
    assert sorted(train) == sorted(row["name"] for row in rows(300))
    assert sorted(held_out) == sorted(row["name"] for row in rows(80, 300))
    assert train["own-7"].removesuffix("</s>") == rows(300)[7]["text"]
    prepare(other := replace(request, output=str(tmp_path / "other"), workers=3))
    assert digests(request.output) == digests(other.output)
    provenance = Manifest.load(Path(request.output)).provenance
    assert (provenance["kind"], provenance["files"]) == ("dataset", 4)


def test_ids_are_of_the_file_and_row_and_nested_columns_are_seen(saved: Path) -> None:
    found, tally = documents({"dataset": str(saved)})
    assert [name for name, _ in found][:2] == ["train/data-00000-of-00003.arrow:1", "train/data-00000-of-00003.arrow:2"]
    assert found[-1][0] == "train/data-00002-of-00003.arrow:100"
    assert tally.columns == {"text", "meta", "name"}
    kept, tally = documents({"dataset": str(saved)}, keep={"meta.set": "a"}, id="name")
    assert [name for name, _ in kept] == [f"own-{n}" for n in range(0, 300, 2)]
    assert tally.dropped == {(TRAIN, "meta.set is not a"): 150}


def test_a_dataset_saved_alone_is_its_only_split(tmp_path: Path) -> None:
    datasets.Dataset.from_list(rows(5)).save_to_disk(tmp_path / "one")
    assert [text for _, text in documents({"dataset": str(tmp_path / "one")})[0]] == [row["text"] for row in rows(5)]
    with pytest.raises(DataError, match="has no split `validation`"):
        documents({"dataset": str(tmp_path / "one")}, "validation")


WRITERS: dict[str, Callable[[datasets.Dataset, Path], Any]] = {
    "csv": lambda dataset, path: dataset.remove_columns("meta").to_csv(path),
    "json": lambda dataset, path: dataset.to_json(path),
    "parquet": lambda dataset, path: dataset.to_parquet(path),
    "text": lambda dataset, path: path.write_text("".join(f"{text}\n" for text in dataset["text"])),
    "arrow": lambda dataset, path: _write_arrow(dataset, path),
    "webdataset": lambda dataset, path: _write_tar(dataset, path),
}


def _write_arrow(dataset: datasets.Dataset, path: Path) -> None:
    table = pa.Table.from_pylist(dataset.to_list())
    with pa.OSFile(str(path), "wb") as out, pa.ipc.new_stream(out, table.schema) as writer:
        writer.write_table(table)


def _write_tar(dataset: datasets.Dataset, path: Path) -> None:
    with tarfile.open(path, "w") as tar:
        for number, text in enumerate(dataset["text"]):
            data = text.encode()
            info = tarfile.TarInfo(f"{number:04d}.txt")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


@pytest.mark.parametrize("builder", WRITERS)
def test_packaged_builders_read_their_data_files(tmp_path: Path, builder: str) -> None:
    ending = "tar" if builder == "webdataset" else builder
    for number in range(2):
        WRITERS[builder](datasets.Dataset.from_list(rows(10, 10 * number)), tmp_path / f"{number}.{ending}")
    column = "txt" if builder == "webdataset" else "text"
    found, tally = documents({"dataset": builder, "files": str(tmp_path / f"*.{ending}")}, text=column)
    assert [text for _, text in found] == [row["text"] for row in rows(20)]
    assert len({name for name, _ in found}) == 20
    assert found[10][0] == "train/00001:1"
    assert not tally.dropped


@pytest.mark.parametrize("damage", ["cut off", "between batches", "missing", "state", "splits", "offsets"])
def test_a_damaged_folder_is_refused_by_name_and_goes_on_once_it_is_mended(
    saved: Path, tmp_path: Path, request_for: Any, damage: str
) -> None:
    import shutil

    folder = Path(shutil.copytree(saved, tmp_path / "copy"))
    names = {"state": "train/state.json", "splits": "dataset_dict.json"}
    broken = folder / names.get(damage, "train/data-00001-of-00003.arrow")
    data = broken.read_bytes()
    if damage == "missing":
        broken.unlink()
    else:
        length = len(rows(200)[100]["text"])
        offsets = struct.pack("<2i", length, 2 * length)  # of the first text's end, and of the second's
        assert damage != "offsets" or data.count(offsets) == 1
        damaged = {
            "cut off": data[:2000],
            "between batches": data[:-8],
            "state": b"{",
            "splits": b"{}",
            "offsets": data.replace(offsets, struct.pack("<2i", 1 << 30, 2 * length)),
        }
        broken.write_bytes(damaged[damage])
    request = request_for(read={"dataset": str(folder)}, held_out=None, tasks=3)
    with pytest.raises(DataError) as refused:
        prepare(request)
    assert str(broken.parent if damage in ("missing", "state", "splits") else broken) in str(refused.value)
    assert refused.value.entry[:3] == ("sources", "texts", "read")
    assert str(refused.value).startswith("`texts`: ")
    broken.write_bytes(data)
    prepare(request)
    assert Manifest.load(Path(request.output)).splits[TRAIN].documents == 300


def test_a_split_or_configuration_that_is_not_there_is_refused_with_those_that_are(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no split `trian`") as refused:
        documents({"dataset": str(saved), "split": "trian"})
    assert "it has: `train`, `validation`" in str(refused.value.hint)
    (tmp_path / "a.csv").write_text("text\nwords\n")
    with pytest.raises(DataError, match="has no split `test`"):
        documents({"dataset": "csv", "files": str(tmp_path / "a.csv"), "split": "test"})
    with pytest.raises(DataError, match="`datasets` cannot load `csv`"):
        documents({"dataset": "csv", "files": str(tmp_path / "none.csv")})


def response(status: int) -> httpx.Response:
    return httpx.Response(status, request=httpx.Request("GET", "https://huggingface.co/api/datasets/o/n"))


REFUSED = {
    "missing": (
        lambda: huggingface_hub.errors.RepositoryNotFoundError("404", response=response(404)),
        "no such dataset",
    ),
    "gated": (lambda: huggingface_hub.errors.GatedRepoError("403", response=response(403)), "is gated"),
    "revision": (
        lambda: huggingface_hub.errors.RevisionNotFoundError("404", response=response(404)),
        "no such revision",
    ),
    "offline": (lambda: huggingface_hub.errors.OfflineModeIsEnabled("offline mode is enabled"), "cannot be reached"),
    "network": (lambda: httpx.ConnectError("Name or service not known"), "cannot be reached"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_the_hub_s_refusals_say_what_is_missing_in_one_screen(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    make, said = REFUSED[kind]

    def refuse(self: Any, name: str, revision: str | None = None) -> Any:
        raise make()

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", refuse)
    with pytest.raises(DataError, match=said) as refused:
        documents({"dataset": "owner/name", "revision": "main"})
    assert "owner/name" in str(refused.value)
    assert str(refused.value.hint).endswith("there is no folder `owner/name` either")
    assert refused.value.entry == ("dataset",)


def test_a_dataset_of_the_hub_is_pinned_to_the_commit_that_was_listed(
    monkeypatch: pytest.MonkeyPatch, request_for: Any, saved: Path
) -> None:
    class Info:
        sha = "c0ffee"

    asked = []

    def load(path: str, name: str | None, **options: Any) -> Any:
        asked.append((path, name, options["revision"]))
        found = datasets.load_from_disk(str(saved))
        return {split: found[split].to_iterable_dataset(num_shards=2) for split in found}

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda *words, **keys: Info)
    monkeypatch.setattr(datasets, "load_dataset", load)
    request = request_for(read={"dataset": "owner/name", "config": "en"}, held_out={"split": "validation"}, tasks=2)
    prepare(request)
    assert asked == [("owner/name", "en", "c0ffee")]
    manifest = Manifest.load(Path(request.output))
    assert manifest.provenance["revision"] == "c0ffee"
    assert (manifest.splits[TRAIN].documents, manifest.splits[HELD_OUT].documents) == (300, 80)


def test_a_dataset_is_a_place_in_sources_yaml(small_project: Path, saved: Path) -> None:
    sources = small_project / "sources.yaml"
    sources.write_text(
        sources.read_text().replace(
            "prose: {read: {folder: texts/prose}, held_out: 25%}",
            f"prose: {{read: {{dataset: {saved}}}, held_out: {{split: validation}}}}",
        )
    )
    entry = Project.find(small_project).sources.sources["prose"]
    assert entry.read_options() == {"dataset": str(saved)}
