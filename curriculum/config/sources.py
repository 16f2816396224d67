"""sources.yaml: what the names of tokenizers and sources are bound to in this project."""

from decimal import Context, Decimal, Inexact
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from curriculum.config.entry import (
    Count,
    Entry,
    Flag,
    HeldOutShare,
    Hub,
    Name,
    Names,
    Size,
    Text,
    Texts,
    Values,
    exactly_one,
)
from curriculum.config.fields import Refusal
from curriculum.errors import did_you_mean


class TokenizerEntry(Entry):
    """A tokenizer: a file, or one that is trained from sources."""

    one_of: ClassVar[tuple[str, ...]] = ("path", "train")

    path: Text | None = Field(
        default=None,
        description="A tokenizer.json, a SentencePiece .model, or a folder of either; as in `tokenizers/llama-2`.",
    )
    train: Names | None = Field(
        default=None, description="Sources that a byte-level BPE is trained on; as in `[sotu, stdlib]`."
    )
    vocab_size: Size | None = Field(default=None, description="Its number of ids, needed with `train`; as in `4096`.")

    @model_validator(mode="after")
    def _file_or_trained(self) -> Self:
        exactly_one(self, "a file, `path: …/tokenizer.json`, or `train: [SOURCE, …]`")
        if self.train and self.vocab_size is None:
            raise Refusal("lacks `vocab_size`", "as in `vocab_size: 4096`")
        if self.train and self.vocab_size is not None and self.vocab_size < 257:
            raise Refusal("cannot hold the 256 bytes and the end-of-text mark", "give 257 or more", "vocab_size")
        return self


_PLACES = ("hub", "installed", "stdlib", "folder", "dataset", "tokenised")
_TEXT_FORMATS = ("text", "json", "parquet")


class ReadEntry(Entry):
    """Where documents are: one of hub, installed, stdlib, folder, dataset and tokenised; and which files there."""

    one_of: ClassVar[tuple[str, ...]] = _PLACES

    hub: Hub | None = Field(default=None, description="A dataset of the Hugging Face hub.")
    installed: Texts | None = Field(
        default=None, description="Installed packages whose files are read; as in `[sympy, mpmath]`."
    )
    stdlib: Flag | None = Field(default=None, description="true: Python's own library, without its tests.")
    folder: Text | None = Field(
        default=None, description="A folder, from the project's, absolute or a URL; as in `texts`."
    )
    dataset: Text | None = Field(
        default=None,
        description="What the `datasets` package loads: OWNER/NAME of the hub, a folder of `save_to_disk`, or csv, "
        "json, parquet, arrow, text or webdataset with `files`.",
    )
    config: Text | None = Field(default=None, description="Configuration of the `dataset`; as in `en`.")
    split: Text | None = Field(default=None, description="Split of the `dataset`, else `train`.")
    tokenised: Text | None = Field(
        default=None, description="A folder, or one file, of tokens made elsewhere; read in place, never written to."
    )
    format: Literal["text", "json", "parquet", "datatrove", "megatron", "packed", "npy", "flat"] | None = Field(
        default=None,
        description="Format of all files, else each file's content shows it: text (a document a file), json or parquet "
        "(a document a row); of `tokenised` one of the others.",
    )
    dtype: Literal["uint16", "uint32", "int32", "int64"] | None = Field(
        default=None, description="Width of `tokenised`, where the files do not state it; as in `uint16`."
    )
    files: Texts | None = Field(
        default=None, description="Patterns, `**/` any folders, `*` part of a name; as in `**/*.jsonl`."
    )
    exclude: Texts | None = Field(default=None, description="Patterns of files to leave out.")
    subsets: Texts | None = Field(default=None, description="Folders below which `files` are looked for.")
    revision: Text | None = Field(default=None, description="Branch, tag or commit of the hub's dataset.")
    text: Text = Field(default="text", description="Column that holds the text, in JSON and Parquet.")

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        place = exactly_one(self, "as in `read: {folder: my-texts}` or `read: {hub: OWNER/NAME}`")
        if self.stdlib is False:
            raise Refusal("can only be true", "or name another place to read from", "stdlib")
        belongs = {
            "revision": ("hub", "dataset"),
            "files": _no("stdlib"),
            "subsets": _no("stdlib", "dataset"),
            "exclude": _no("dataset"),
            **dict.fromkeys(("config", "split"), ("dataset",)),
            "dtype": ("tokenised",),
            "format": _no("stdlib", "dataset"),
            "text": _no("stdlib", "tokenised"),
        }
        for key, places in belongs.items():
            if key in self.model_fields_set and place not in places:
                raise Refusal(f"is not supported with `{place}`", f"it belongs to {', '.join(places)}", key)
        tokens = self.format not in (None, *_TEXT_FORMATS)
        if self.format and tokens != (place == "tokenised"):
            hint = f"formats of text are {', '.join(_TEXT_FORMATS)}; the others belong to tokenised"
            raise Refusal(f"is `{self.format}`, which is not supported with `{place}`", hint, "format")
        if self.format == "text" and "text" in self.model_fields_set:
            raise Refusal("is not supported with `format: text`", "each file is read whole, as one document", "text")
        return self


def _no(*places: str) -> tuple[str, ...]:
    return tuple(place for place in _PLACES if place not in places)


class HeldOutEntry(Entry):
    """The held-out text, on which the loss is measured: a share by content, the corpus's own split, or all of it."""

    one_of: ClassVar[tuple[str, ...]] = ("share", "split", "all")

    share: HeldOutShare | None = Field(
        default=None, description="A share of the documents, what a number alone says as well; as in `5%`."
    )
    split: Text | None = Field(default=None, description="Files with this word in their path; as in `validation`.")

    all: Flag = Field(
        default=False,
        description="true: all of it, so that no mixture reads it, as the text of a task; `all` alone says the same.",
    )

    @model_validator(mode="after")
    def _one_of_three(self) -> Self:
        exactly_one(self, "`held_out: 5%`, `held_out: all` or `held_out: {split: validation}`")
        if "all" in self.model_fields_set and not self.all:
            raise Refusal("can only be true", "or say a `share`, as in `held_out: 5%`", "all")
        return self


def _blocks(value: Any) -> Any:
    """Each block as `{NAME: {option: value}}`; a name alone takes no options."""
    if not isinstance(value, list | tuple):
        raise Refusal("must be a list", "as in `[PIIFormatter, {GopherQualityFilter: {min_doc_words: 20}}]`")
    blocks = []
    for number, block in enumerate(value):
        entry = {block: {}} if isinstance(block, str) else block
        if not isinstance(entry, dict) or len(entry) != 1 or not isinstance(next(iter(entry.values())), dict):
            raise Refusal(
                "must be a block's name, or one name with its options",
                "as in `- GopherQualityFilter: {min_doc_words: 20}`",
                number,
            )
        blocks.append(entry)
    return tuple(blocks)


class SourceEntry(Entry):
    """A source: documents under a name."""

    about: Text | None = Field(default=None, description="What it is, for people.")
    read: ReadEntry = Field(description="Where its documents are; as in `{folder: my-texts}`.")
    id: Text | None = Field(default=None, description="Column with a document's own id; else file and row.")
    drop: dict[Text, Values] = Field(
        default={}, description="Column to values whose documents are left out; as in `{lang: [fr, de]}`."
    )
    keep: dict[Text, Values] = Field(
        default={}, description="Column to values, other documents are left out; as in `{lang: en}`."
    )
    extract: Literal["chinese-docstrings"] | None = Field(default=None, description="Take only this of each file.")
    blocks: Annotated[
        tuple[dict[str, dict[str, Any]], ...],
        BeforeValidator(_blocks, json_schema_input_type=list[str | dict[str, dict[str, Any]]]),
    ] = Field(
        default=(),
        description="datatrove's filters and formatters, in order; as in `[PIIFormatter, GopherQualityFilter]`.",
    )
    held_out: Annotated[
        HeldOutEntry,
        BeforeValidator(
            lambda value: value if isinstance(value, dict) else {"all": True} if value == "all" else {"share": value},
            json_schema_input_type=HeldOutShare | Literal["all"] | HeldOutEntry,
        ),
    ] = Field(description="Kept to measure the loss on; as in `5%`, `all` or `{split: validation}`.")
    overlap: Literal["refuse", "allow"] = Field(
        default="refuse", description="Whether it may train on what other sources of a curriculum hold out."
    )
    tokens: Count | None = Field(
        default=None, description="Its size, an estimate that holds until it is prepared; as in `659B`."
    )
    tokens_from: Text | None = Field(default=None, description="Where that size is from.")
    assumed: Flag = Field(default=False, description="Whether that size is derived or guessed, not published.")
    licence: Text | None = Field(default=None, description="Its licence, for people.")
    bos: Flag = Field(default=False, description="Whether each document begins with the tokenizer's BOS.")
    eos: Flag = Field(default=True, description="Whether each document ends with the tokenizer's EOS.")
    order: Literal["shuffled", "in-order"] = Field(default="shuffled", description="Order of its windows.")
    tasks: Size = Field(default=1, description="Parts it is prepared in; fixes the shard layout.")

    @model_validator(mode="after")
    def _keys_fit_the_format(self) -> Self:
        columns = ("id", "drop", "keep")
        whole = "without rows there are no columns; `files` and `exclude` choose among files"
        for applies, keys, what, hint in (
            (
                self.read.tokenised is not None,
                (*columns, "extract", "blocks", "tasks"),
                "for tokens that are read in place",
                "they are read as they are; prepare the text itself to choose among documents",
            ),
            (self.extract is not None, columns, "with `extract`", whole),
            (self.read.stdlib is not None, columns, "with `stdlib`", whole),
            (self.read.format == "text", columns, "with `format: text`", whole),
        ):
            for key in keys if applies else ():
                if key in self.model_fields_set:
                    raise Refusal(f"is not supported {what}", hint, key)
        if self.extract is not None and {"text", "format"} & self.read.model_fields_set:
            key = "text" if "text" in self.read.model_fields_set else "format"
            raise Refusal("is not supported with `extract`", "it reads each file whole", "read", key)
        return self

    @property
    def is_probe(self) -> bool:
        """Whether all of it is held out, so that it is measured and no mixture reads it."""
        return self.held_out.all

    def read_options(self) -> dict[str, Any]:
        """`read` as plain values for a preparation, without the text column."""
        options = self.read.model_dump(exclude_none=True, exclude={"text"})
        return {key: list(value) if isinstance(value, tuple) else value for key, value in options.items()}

    def held_out_options(self) -> dict[str, str]:
        """`held_out` as plain text: `{"share": "5%"}`, of all `100%`, or `{"split": "validation"}`."""
        if self.held_out.all:
            return {"share": "100%"}
        share, split = self.held_out.share, self.held_out.split
        if share is None:
            return {"split": split or ""}
        exact = Context(prec=200, traps=[Inexact])  # a share that was written in decimals has finitely many digits
        return {"share": f"{exact.divide(Decimal(100 * share.numerator), Decimal(share.denominator)):f}%"}


class SourcesFile(Entry):
    """sources.yaml: what the names of tokenizers and sources are bound to in this project."""

    tokenizers: dict[Name, TokenizerEntry] = Field(default={}, description="Tokenizers by name.")
    sources: dict[Name, SourceEntry] = Field(description="Sources by name.")

    @model_validator(mode="after")
    def _trained_on_sources(self) -> Self:
        for tokenizer, entry in self.tokenizers.items():
            for number, name in enumerate(entry.train or ()):
                if name not in self.sources:
                    hint = did_you_mean(name, self.sources)
                    raise Refusal(f"is no source: `{name}`", hint, "tokenizers", tokenizer, "train", number)
        return self
