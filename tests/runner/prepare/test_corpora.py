"""The paper's four corpora in their own layouts, in small, as the shipped sources.yaml reads them; and odd texts."""

from __future__ import annotations

import http.server
import json
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest
import tokenizers

import runner.prepare.readers
from curriculum.config.project import Project
from curriculum.data.manifest import HELD_OUT, TRAIN, Manifest
from curriculum.data.requests import PrepareRequest, TokenizerRequest
from curriculum.data.tokenizer import Tokenizer
from curriculum.errors import DataError
from runner.prepare.job import prepare
from runner.prepare.tokenizer import train_tokenizer

ROOT = Path(__file__).resolve().parents[3]
PROSE = "the state of the people and the law of the country in that year of peace number "
CHINESE = "我们训练了一个小的语言模型，它先读普通的文字，然后读代码和数学。"


@pytest.fixture(scope="module")
def tokenizer_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("tokenizer")
    (folder / "texts").mkdir()
    (folder / "texts" / "a.txt").write_text(PROSE * 20)
    path = folder / "tokenizer.json"
    train_tokenizer(
        TokenizerRequest(reads={"t": {"folder": "texts"}}, vocab_size=300, output=str(path), root=str(folder))
    )
    return str(path)


def text(number: int, words: int = 12) -> str:
    return (PROSE * words)[: 60 * words] + str(number)


def zst(path: Path, rows: list[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = b"".join(row if isinstance(row, bytes) else json.dumps(row).encode() + b"\n" for row in rows)
    with pa.CompressedOutputStream(str(path), "zstd") as out:
        out.write(data)


def jsonl(path: Path, rows: list[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(row if isinstance(row, bytes) else json.dumps(row).encode() + b"\n" for row in rows))


def parquet(path: Path, columns: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


def slimpajama(root: Path) -> None:
    """train/chunk1/example_train_0.jsonl.zst …, validation/…, test/…; the subset is in `meta`."""
    subsets = ["RedPajamaCommonCrawl", "RedPajamaC4", "RedPajamaGithub", "RedPajamaBook"]
    for split, count in (("train", 40), ("validation", 60), ("test", 5)):
        rows = [{"text": f"{split} " + text(n), "meta": {"redpajama_set_name": subsets[n % 4]}} for n in range(count)]
        for chunk in (1, 2):
            zst(root / split / f"chunk{chunk}" / f"example_{split}_0.jsonl.zst", rows[chunk - 1 :: 2])


def starcoder(root: Path) -> None:
    """python/train-00000-of-00002.parquet …; `content`, and an `id` that restarts in every language."""
    for subset in ("python", "jupyter-scripts-dedup-filtered", "jupyter-structured-clean-dedup", "java"):
        for part in (0, 1):
            parquet(
                root / subset / f"train-{part:05d}-of-00002.parquet",
                {
                    "max_stars_repo_path": [f"src/{n}.py" for n in range(20)],
                    "id": [str(n) for n in range(20)],
                    "content": [f"# {subset} {part} {n}\n" + text(n, 24) for n in range(20)],
                },
            )
    parquet(root / "github-issues-filtered-structured" / "train-00000-of-00001.parquet", {"issue": ["x"]})


def proof_pile_2(root: Path) -> None:
    """arxiv/train/arXiv_000.jsonl.zst …; open-web-math and algebraic-stack beside it, each with its splits."""
    for subset, name in (("arxiv", "arXiv_000"), ("open-web-math", "shard-0000"), ("algebraic-stack", "lean0000")):
        for split, count in (("train", 20), ("validation", 20), ("test", 5)):
            rows = [{"text": f"{subset} {split} " + text(n), "meta": {"n": n}} for n in range(count)]
            zst(root / subset / split / f"{name}.jsonl.zst", rows)


def skypile(root: Path) -> None:
    """data/2020-40_zh_head_0000.jsonl …; `text` alone."""
    for part in range(3):
        rows = [{"text": f"第{part}卷第{n}页：" + CHINESE * 8} for n in range(60)]
        jsonl(root / "data" / f"2020-40_zh_head_{part:04d}.jsonl", rows)


CORPORA = {
    "slimpajama": (slimpajama, 30, 45),
    "starcoder-python-jupyter": (starcoder, 120, 0),
    "proof-pile-2": (proof_pile_2, 60, 60),
    "skypile": (skypile, 180, 0),
}


def request_of(name: str, folder: Path, tmp_path: Path, tokenizer_file: str, **changes: Any) -> PrepareRequest:
    """What the shipped sources.yaml asks for, from a local folder in the hub's layout."""
    entry = Project.find(ROOT).sources.sources[name]
    read = {key: value for key, value in entry.read_options().items() if key != "hub"}
    settings: dict[str, Any] = {
        "dataset": name,
        "read": {**read, "folder": str(folder)},
        "tokenizer_file": tokenizer_file,
        "output": str(tmp_path / "data" / name),
        "progress": str(tmp_path / "attempt" / "progress.jsonl"),
        "sequence_length": 8,
        "text": entry.read.text,
        "id": entry.id,
        "drop": entry.drop,
        "keep": entry.keep,
        # a share that is meant for billions of documents holds none of these out
        "held_out": entry.held_out_options() if entry.held_out.split else {"share": "10%"},
        "bos": entry.bos,
        "eos": entry.eos,
        "tasks": 3,
    }
    return PrepareRequest(**{**settings, **changes})


@pytest.mark.promise("The four corpora are prepared from their own layouts, odd documents counted")
@pytest.mark.parametrize("name", CORPORA)
def test_each_corpus_is_prepared_from_its_own_layout_as_the_shipped_sources_say(
    tmp_path: Path, tokenizer_file: str, name: str
) -> None:
    write, train, held_out = CORPORA[name]
    write(tmp_path / "corpus")
    request = request_of(name, tmp_path / "corpus", tmp_path, tokenizer_file)
    prepare(request)
    manifest = Manifest.load(Path(request.output))
    splits = manifest.splits
    if held_out:  # its own validation split; its test split is never read
        assert (splits[TRAIN].documents, splits[HELD_OUT].documents) == (train, held_out)
    else:
        assert splits[TRAIN].documents + splits[HELD_OUT].documents == train
        assert 0 < splits[HELD_OUT].documents < train // 3
    assert manifest.policy.bos is None
    assert manifest.policy.eos == Tokenizer.load(tokenizer_file).eos_id
    assert splits[TRAIN].filler == splits[TRAIN].documents
    if name == "slimpajama":
        assert splits[TRAIN].dropped == {"meta.redpajama_set_name is RedPajamaGithub": 10}


def test_a_hub_id_is_read_as_its_files_from_the_commit_that_was_listed(
    tmp_path: Path, tokenizer_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    slimpajama(tmp_path / "hub")

    class Hub:
        def dataset_info(self, name: str, revision: str | None = None) -> Any:
            assert name == "cerebras/SlimPajama-627B"
            return type("Info", (), {"sha": "c0ffee"})

    def local(where: str) -> tuple[Any, str]:
        inside = where.removeprefix("hf://datasets/cerebras/SlimPajama-627B@c0ffee").lstrip("/")
        assert inside != where
        return fsspec.filesystem("file"), str(tmp_path / "hub")

    real = runner.prepare.readers.storage_of
    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    monkeypatch.setattr(runner.prepare.readers, "storage_of", lambda w: local(w) if w.startswith("hf://") else real(w))
    request = request_of("slimpajama", tmp_path, tmp_path, tokenizer_file)
    read = {**request.read, "hub": "cerebras/SlimPajama-627B"}
    del read["folder"]
    prepare(replace(request, read=read))
    manifest = Manifest.load(Path(request.output))
    assert manifest.splits[TRAIN].documents == 30
    assert manifest.provenance["revision"] == "c0ffee"


@pytest.mark.parametrize("scheme", ["file", "memory"])
def test_any_file_system_s_address_is_read_as_a_folder_is(tmp_path: Path, tokenizer_file: str, scheme: str) -> None:
    skypile(tmp_path / "corpus")
    where = f"file://{tmp_path}/corpus"
    if scheme == "memory":
        fsspec.filesystem("memory").put(str(tmp_path / "corpus"), "/corpus", recursive=True)
        where = "memory://corpus"
    here = request_of("skypile", tmp_path / "corpus", tmp_path, tokenizer_file)
    prepare(here)
    there = replace(here, read={**here.read, "folder": where}, output=str(tmp_path / "data" / "there"), workers=2)
    prepare(there)
    assert Manifest.load(Path(there.output)).digest == Manifest.load(Path(here.output)).digest


@pytest.fixture
def far(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """A server on the loopback that answers everything with one refusal; hub and S3 are configured to ask it."""
    answer: dict[str, Any] = {}

    class Refusing(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(answer["status"])
            for key, value in answer["headers"].items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(answer["body"])))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer["body"])

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            """Nothing is said."""

    def refuse(status: int, code: str) -> None:
        body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>no</Message></Error>".encode()
        answer.update(status=status, headers={"X-Error-Code": code}, body=body)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", url)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    yield refuse
    server.shutdown()
    fsspec.get_filesystem_class("s3").clear_instance_cache()


@pytest.mark.promise(
    "Missing credentials, wrong buckets and gated data are refused on one screen with a hint (with s3fs "
    "and huggingface_hub themselves)"
)
@pytest.mark.parametrize(
    ("read", "answer", "what", "way_out"),
    [
        ({"folder": "s3://bucket/x"}, None, "no credentials for `s3://bucket/x`", "AWS_ACCESS_KEY_ID"),
        ({"folder": "s3://bucket/x"}, (404, "NoSuchBucket"), "no such bucket", "check its name"),
        ({"folder": "s3://bucket/x"}, (403, "AccessDenied"), "denied to the credentials", "aws configure"),
        ({"folder": "s3://bucket/x"}, (403, "InvalidAccessKeyId"), "denied to the credentials", "aws configure"),
        ({"hub": "owner/name"}, (401, ""), "the token is missing or not valid", "HF_TOKEN"),
        ({"hub": "owner/name"}, (401, "RepoNotFound"), "no such dataset, or it is private", "hf auth login"),
        ({"hub": "owner/name"}, (403, "GatedRepo"), "is gated", "huggingface.co/datasets/owner/name"),
        ({"folder": "memory://no-such-bucket"}, None, "no such bucket", "check its name"),
        ({"folder": "nosuchscheme://bucket/x"}, None, "no storage has the scheme", "as in `s3://"),
        ({"folder": "gs://bucket/x"}, None, "a package that is not installed: gcsfs", "pip install gcsfs"),
    ],
)
def test_a_wrong_bucket_or_missing_credentials_are_one_clear_refusal_that_names_the_way_out(
    tmp_path: Path,
    tokenizer_file: str,
    far: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    read: dict[str, str],
    answer: tuple[int, str] | None,
    what: str,
    way_out: str,
) -> None:
    if answer is not None:
        far(*answer)
        if "folder" in read:
            monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
            monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    request = request_of("skypile", tmp_path, tmp_path, tokenizer_file)
    with pytest.raises(DataError) as refused:
        prepare(replace(request, read=read))
    assert what in refused.value.what
    assert way_out in (refused.value.hint or "")
    assert len(refused.value.render().splitlines()) <= 24


def test_credentials_that_end_while_text_is_read_cost_the_task_and_the_same_request_goes_on(
    tmp_path: Path, tokenizer_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    skypile(tmp_path / "corpus")
    here = request_of("skypile", tmp_path / "corpus", tmp_path, tokenizer_file)
    prepare(here)
    memory = fsspec.filesystem("memory")
    memory.put(str(tmp_path / "corpus"), "/ending", recursive=True)
    there = replace(here, read={**here.read, "folder": "memory://ending"}, output=str(tmp_path / "data" / "ending"))
    with monkeypatch.context() as patch:
        patch.setattr(type(memory), "_open", lambda *_, **__: (_ for _ in ()).throw(PermissionError("Forbidden")))
        with pytest.raises(DataError, match="is denied to the credentials that were found: Forbidden"):
            prepare(there)
    prepare(there)
    assert Manifest.load(Path(there.output)).digest == Manifest.load(Path(here.output)).digest


@pytest.mark.promise("The four corpora are prepared from their own layouts, odd documents counted")
def test_odd_documents_are_kept_or_counted_and_two_layouts_share_a_folder(tmp_path: Path, tokenizer_file: str) -> None:
    rows = [{"text": text(n), "id": f"a/{n % 50}"} for n in range(100)]  # every id twice
    odd: list[Any] = [
        {"text": "", "id": "empty"},
        {"text": "   \n", "id": "blank"},
        {"body": "no such column"},
        {"text": None},
        b'{"text": "\xff\xfe not UTF-8"}\n',
        b'{"text": "never ends\n',
        b"\n",
        {"text": "one\r\ntwo\r\n" + text(1), "id": "crlf"},
        {"text": text(2) + "</s> and \x00 inside 🙂", "id": "marks"},
    ]
    jsonl(tmp_path / "corpus" / "a.jsonl", rows + odd)
    parquet(tmp_path / "corpus" / "b" / "b.parquet", {"text": [text(n) for n in range(60)], "id": list(range(60))})
    request = PrepareRequest(
        dataset="odd",
        read={"folder": str(tmp_path / "corpus")},
        tokenizer_file=tokenizer_file,
        output=str(tmp_path / "data" / "odd"),
        progress=str(tmp_path / "progress.jsonl"),
        sequence_length=8,
        id="id",
        tasks=2,
    )
    prepare(request)
    split = Manifest.load(Path(request.output)).splits[TRAIN]
    assert split.documents == 100 + 2 + 60
    assert split.dropped == {
        "empty": 2,
        "no text column": 1,
        "with null instead of text": 1,
        "not UTF-8": 1,
        "not JSON": 1,
    }
    from curriculum.data.dataset import Dataset

    dataset = Dataset.open(request.output, sequence_length=8)
    assert len(dataset.find_documents("a/7")) == 2
    span = dataset.find_documents("crlf")[0]
    import numpy as np

    tokens = np.fromfile(Path(request.output) / dataset.shards[span.shard], "<u2")
    back = Tokenizer.load(tokenizer_file).decode(tokens[span.first_token :][: span.tokens - 1].tolist())
    assert back == "one\r\ntwo\r\n" + text(1)


def test_one_document_of_fifty_megabytes_is_one_document(tmp_path: Path) -> None:
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"</s>": 0, "<unk>": 1}, unk_token="<unk>"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()  # quick: how is not what is tried here
    words.save(str(tmp_path / "words.json"))
    large = ("x" * 4095 + " ") * 12_800
    assert len(large) == 52_428_800
    jsonl(tmp_path / "corpus" / "a.jsonl", [{"text": "a b"}, {"text": large}, {"text": "c"}])
    request = PrepareRequest(
        dataset="large",
        read={"folder": str(tmp_path / "corpus")},
        tokenizer_file=str(tmp_path / "words.json"),
        output=str(tmp_path / "data" / "large"),
        progress=str(tmp_path / "progress.jsonl"),
        sequence_length=8,
    )
    prepare(request)
    split = Manifest.load(Path(request.output)).splits[TRAIN]
    assert (split.documents, split.tokens) == (3, 2 + 12_800 + 1 + 3)
    assert split.text_bytes == 52_428_800 + 4


def test_a_half_downloaded_shard_names_its_file_and_the_same_command_continues(
    tmp_path: Path, tokenizer_file: str
) -> None:
    slimpajama(tmp_path / "corpus")
    request = request_of("slimpajama", tmp_path / "corpus", tmp_path, tokenizer_file)
    path = tmp_path / "corpus" / "train" / "chunk2" / "example_train_0.jsonl.zst"
    whole = path.read_bytes()
    path.write_bytes(whole[:-40])
    with pytest.raises(DataError, match=r"chunk2/example_train_0.jsonl.zst` cannot be read to its end") as refused:
        prepare(request)
    assert "fetch or write it again" in str(refused.value.hint)
    path.write_bytes(whole)
    prepare(request)
    assert Manifest.load(Path(request.output)).splits[TRAIN].documents == 30


def test_filters_and_cleaners_of_datatrove_are_named_in_sources_and_counted(
    tmp_path: Path, tokenizer_file: str
) -> None:
    rows = [{"text": text(n)} for n in range(30)] + [{"text": "Write to jane@firm.com " + text(n)} for n in range(3)]
    jsonl(tmp_path / "corpus" / "a.jsonl", [*rows, {"text": "casino casino bonus " + text(1)}])
    request = PrepareRequest(
        dataset="cleaned",
        read={"folder": str(tmp_path / "corpus")},
        tokenizer_file=tokenizer_file,
        output=str(tmp_path / "data" / "cleaned"),
        progress=str(tmp_path / "progress.jsonl"),
        sequence_length=8,
        blocks=[{"RegexFilter": {"regex_exp": "casino"}}, {"PIIFormatter": {}}],
    )
    prepare(request)
    manifest = Manifest.load(Path(request.output))
    assert manifest.splits[TRAIN].documents == 33
    (reason,) = manifest.splits[TRAIN].dropped
    assert reason.startswith("RegexFilter")
    import numpy as np

    tokens = np.fromfile(Path(request.output) / "train" / "00000.ds", "<u2")
    whole = Tokenizer.load(tokenizer_file).decode(tokens.tolist())
    assert "jane@firm.com" not in whole
    assert request.recipe_digest() != replace(request, blocks=()).recipe_digest()


@pytest.mark.parametrize(
    ("block", "words"),
    [
        ({"GopherQualtyFilter": {}}, "has no filter or formatter"),
        ({"LambdaFilter": {}}, "has no filter or formatter"),
        ({"RegexFilter": {"regexp": "x"}}, "cannot be made of"),
    ],
)
def test_a_block_that_cannot_be_meant_is_refused_with_what_there_is(
    tmp_path: Path, tokenizer_file: str, block: Any, words: str
) -> None:
    jsonl(tmp_path / "corpus" / "a.jsonl", [{"text": text(1)}])
    request = PrepareRequest(
        dataset="cleaned",
        read={"folder": str(tmp_path / "corpus")},
        tokenizer_file=tokenizer_file,
        output=str(tmp_path / "data" / "cleaned"),
        progress=str(tmp_path / "progress.jsonl"),
        sequence_length=8,
        blocks=[block],
    )
    with pytest.raises(DataError, match=words) as refused:
        prepare(request)
    assert refused.value.hint
