"""Labelled text: what is read, how it is split and identified, and every error's file, line and field."""

from __future__ import annotations

import csv
import gzip
import io
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgebert.errors import EnvironmentMissing, InputError, UsageError
from edgebert.training.data import Data, Row, match_labels, ordered, read, sample_texts, split_dev

GOOD = '{"text": "good", "label": "yes"}\n{"text": "bad", "label": "no"}\n'


def jsonl(rows: Sequence[dict[str, object]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def many(count: int, labels: Sequence[object] = ("a", "b")) -> str:
    return jsonl([{"text": f"text {i}", "label": labels[i % len(labels)]} for i in range(count)])


def write(folder: Path, files: Mapping[str, str | bytes]) -> Path:
    """Write text, compressed where the name says so, and bytes as they are."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        raw = content if isinstance(content, bytes) else content.encode()
        (folder / name).write_bytes(gzip.compress(raw) if name.endswith(".gz") and raw is not content else raw)
    return folder


# Files of a folder -> what the error says, and the place it names.
ERRORS: dict[str, tuple[dict[str, str | bytes], str, str]] = {
    "empty file": ({"train.jsonl": ""}, "no rows", "train.jsonl"),
    "blank lines only": ({"train.jsonl": "\n\r\n"}, "no rows", "train.jsonl"),
    "header only": ({"train.csv": "text,label\n"}, "no rows", "train.csv"),
    "no train": ({"test.jsonl": GOOD}, "no train file", ""),
    "two trains": ({"train.jsonl": GOOD, "train.csv": "text,label\n"}, "two files for train", ""),
    "bad JSON": ({"train.jsonl": GOOD + '{"text": \n'}, "not valid JSON", "train.jsonl, line 3"),
    "NaN": ({"train.jsonl": '{"text": "a", "label": NaN}'}, "not valid JSON", "train.jsonl, line 1"),
    "deep JSON": ({"train.jsonl": GOOD + "[" * 100_000}, "not valid JSON", "train.jsonl, line 3"),
    "not an object": ({"train.jsonl": "[1]\n"}, "not a JSON object", "train.jsonl, line 1"),
    "not UTF-8": ({"train.jsonl": GOOD.encode() + b'{"text": "\xe9"}'}, "not UTF-8", "train.jsonl, line 3"),
    "UTF-16": ({"train.csv": "text,label\n".encode("utf-16")}, "not UTF-8", "train.csv, line 1"),
    "torn gzip": (
        {"train.jsonl.gz": gzip.compress(GOOD.encode())[:-12]},
        "not a whole gzip file",
        "train.jsonl.gz",
    ),
    "no column in JSON": ({"train.jsonl": '{"sentence": "a"}\n'}, "no column 'text'", "train.jsonl, line 1"),
    "no column in CSV": ({"train.csv": "sentence,label\na,b\n"}, "no column 'text'", "train.csv, line 1"),
    "column twice": ({"train.csv": "text,text\na,b\n"}, "'text' stands twice", "train.csv, line 1"),
    "ragged CSV": ({"train.csv": 'text,label\n"a\nb",x\nc\n'}, "1 fields where", "train.csv, line 4"),
    "stray quote": ({"train.csv": 'text,label\n"a" b,x\n'}, "not a valid table", "train.csv, line 2"),
    "open quote": ({"train.csv": 'text,label\na,x\n"b,y\n'}, "not a valid table", "train.csv, line 3"),
    "number for text": ({"train.jsonl": '{"text": 5}\n'}, "not text but int", "line 1, field 'text'"),
    "null for text": ({"train.jsonl": '{"text": null}\n'}, "not text but NoneType", "line 1, field 'text'"),
    "half a surrogate": ({"train.jsonl": '{"text": "\\ud800"}\n'}, "surrogate", "line 1, field 'text'"),
    "lists for label": ({"train.jsonl": '{"text": "a", "label": [["b"]]}\n'}, "no names", "field 'label'"),
    "endless label": (
        {"train.jsonl": '{"text": "a", "label": 1e999}\n'},
        "no number",
        "line 1, field 'label'",
    ),
    "one class": ({"train.jsonl": many(4, ["x"])}, "only one class ('x')", "train.jsonl"),
    "label only in test": (
        {"train.jsonl": GOOD, "test.jsonl": GOOD + '{"text": "a", "label": "x"}\n'},
        "label 'x' in test is not in train",
        "test.jsonl, line 3, field 'label'",
    ),
    "label only in dev": (
        {"train.jsonl": GOOD, "dev.jsonl": '{"text": "a", "label": "x"}\n'},
        "label 'x' in dev is not in train",
        "dev.jsonl, line 1, field 'label'",
    ),
    "some unlabelled": ({"train.jsonl": GOOD + '{"text": "a"}\n'}, "no label here", "train.jsonl, line 3"),
    "part unlabelled": ({"train.jsonl": GOOD, "test.txt": "a\n"}, "has no labels, but others do", "test.txt"),
    "some pairs": (
        {"train.jsonl": '{"text": "a"}\n{"text": "a", "text_b": "b"}'},
        "no text_b here",
        "line 1",
    ),
    "names and scores": (
        {"train.jsonl": '{"text": "a", "label": 0.5}\n{"text": "b", "label": "x"}\n'},
        "label 'x' is no number",
        "train.jsonl, line 2",
    ),
    "UTF-16 without a mark": ({"train.csv": "text,label\na,x\n".encode("utf-16-le")}, "NUL byte", "train.csv, line 1"),
    "latin-1": ({"train.csv": "text,label\ncafé,x\n".encode("latin-1")}, "not UTF-8", "train.csv, line 2"),
    "NUL byte": ({"train.csv": "text,label\na,x\nb\0,y\n"}, "a NUL byte", "train.csv, line 3"),
    "folder for train": ({"train.jsonl/a": ""}, "train is no file", "train.jsonl"),
    "folder for test": ({"train.jsonl": GOOD, "test.csv/a": ""}, "test is no file", "test.csv"),
    "not gzip": ({"train.csv.gz": b"text,label\n"}, "not a whole gzip file", "train.csv.gz"),
    "not gzip to its end": ({"train.csv.gz": gzip.compress(b"text\n") + b"x"}, "not a whole gzip", "train.csv.gz"),
    "key twice": ({"train.jsonl": GOOD + '{"text": "a", "text": "b"}\n'}, "key stands twice", "train.jsonl, line 3"),
    "endless line": (
        {"train.jsonl": GOOD + jsonl([{"text": "a " * 5_000_000, "label": "yes"}])},
        "text of 10,000,000 characters",
        "train.jsonl, line 3, field 'text'",
    ),
    "endless field": (
        {"train.csv": "text,label\n" + "a" * 1_000_001 + ",x\n"},
        "text of 1,000,001 characters",
        "train.csv, line 2, field 'text'",
    ),
    "null label": ({"train.jsonl": GOOD + '{"text": "a", "label": null}\n'}, "no label here", "train.jsonl, line 3"),
    "object for label": ({"train.jsonl": '{"text": "a", "label": {}}\n'}, "label is dict", "line 1, field 'label'"),
    "pairs in dev alone": (
        {"train.jsonl": GOOD, "dev.jsonl": '{"text": "a", "text_b": "b", "label": "yes"}\n'},
        "train has single texts, this part has not",
        "dev.jsonl, line 1, field 'text_b'",
    ),
    "no rows in dev": ({"train.jsonl": GOOD, "dev.jsonl": ""}, "no rows", "dev.jsonl"),
    "one row": ({"train.jsonl": '{"text": "a"}\n'}, "too few rows", "train.jsonl"),
}


@pytest.mark.parametrize(("files", "what", "where"), ERRORS.values(), ids=ERRORS)
def test_bad_data_is_named(tmp_path: Path, files: dict[str, str | bytes], what: str, where: str) -> None:
    write(tmp_path, files)
    with pytest.raises(InputError) as caught:
        read(tmp_path)
    assert what in caught.value.what
    assert where in caught.value.where
    assert str(tmp_path) in caught.value.where
    assert caught.value.remedy


def test_one_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"unknown kind of data file.*\.jsonl"):
        read(write(tmp_path, {"train.xlsx": "a"}) / "train.xlsx")
    with pytest.raises(InputError, match="no such data file or folder"):
        read(tmp_path / "nothing")


def test_unknown_field_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no field is called 'y'"):
        read(write(tmp_path, {"train.jsonl": GOOD}), {"y": "label"})


@pytest.mark.parametrize("field", ["text", "text_b", "label"])
def test_a_column_that_is_mapped_must_be_there(tmp_path: Path, field: str) -> None:
    write(tmp_path / "csv", {"train.csv": "text,label\na,x\nb,y\n"})
    write(tmp_path / "jsonl", {"train.jsonl": GOOD})
    for folder in ("csv", "jsonl"):
        with pytest.raises(InputError, match="line 1, field 'other'"):
            read(tmp_path / folder, {field: "other"})


def test_parquet_without_its_package_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(EnvironmentMissing, match="pip install pyarrow"):
        read(write(tmp_path, {"train.parquet": "PAR1"}))


def test_broken_parquet_is_refused(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a", "b"], "label": ["x", "y"]}), tmp_path / "whole.parquet")
    whole = (tmp_path / "whole.parquet").read_bytes()
    page, footer = bytearray(whole), bytearray(whole)
    page[10:30] = b"\xff" * 20
    footer[-100:-20] = bytes(byte ^ 0x55 for byte in footer[-100:-20])
    for number, content in enumerate((b"", b"hello", whole[:-20], bytes(page), bytes(footer))):
        with pytest.raises(InputError, match=r"not a parquet file.*train\.parquet"):
            read(write(tmp_path / str(number), {"train.parquet": content}))


def test_parquet_of_bytes_and_nulls_is_refused_by_line_and_field(tmp_path: Path) -> None:
    for texts, what in (([b"a", b"b"], "not text but bytes"), (["a", None], "not text but NoneType")):
        table = pyarrow.table({"text": texts, "label": ["x", "y"]})
        pyarrow.parquet.write_table(table, tmp_path / "train.parquet")
        with pytest.raises(InputError, match=what + r".*line \d, field 'text'"):
            read(tmp_path)


def test_long_fields_are_read(tmp_path: Path) -> None:
    text = "word " * 50_000
    for name, rest in (("train.csv", "text,label\n{},x\nb,y\n"), ("train.tsv", "text\tlabel\n{}\tx\nb\ty\n")):
        write(tmp_path / name, {name: rest.format(text), name.replace("train", "dev"): rest.format("a")})
        assert read(tmp_path / name).train[0].text == text


def test_parquet_reads_like_jsonl(tmp_path: Path) -> None:
    table = pyarrow.table({"text": ["a", "b"] * 10, "label": [0, 1] * 10})
    pyarrow.parquet.write_table(table, tmp_path / "train.parquet")
    assert read(tmp_path / "train.parquet").labels == ("0", "1")


FORMS = {
    "train.jsonl": GOOD,
    "train.jsonl.gz": GOOD,
    "train.csv": "text,label\ngood,yes\nbad,no\n",
    "train.csv.gz": '"text","label"\n"good","yes"\n"bad","no"\n',
    "train.tsv": "text\tlabel\ngood\tyes\nbad\tno\n",
}


@pytest.mark.parametrize("change", ["none", "bom", "crlf", "no last newline"])
@pytest.mark.parametrize("name", FORMS)
def test_every_format_gives_the_same_rows(tmp_path: Path, name: str, change: str) -> None:
    text = FORMS[name]
    if change == "crlf":
        text = text.replace("\n", "\r\n")
    if change == "no last newline":
        text = text.rstrip("\n")
    text = "\ufeff" + text if change == "bom" else text
    data = read(write(tmp_path, {name: text, "dev.jsonl": GOOD}))
    assert data.train == (Row("good", None, "yes"), Row("bad", None, "no"))
    assert data.labels == ("no", "yes")


def test_text_files_are_unlabelled(tmp_path: Path) -> None:
    data = read(write(tmp_path, {"lines.txt": "a\r\n\nb\u2028c\n" + "\n".join("defghij")}) / "lines.txt")
    assert data.kind == "none"
    assert data.labels == ()
    assert {row.text for row in (*data.train, *data.dev)} == {"a", "b\u2028c", *"defghij"}
    assert data.name == "lines"


def test_tab_separated_files_have_no_quoting(tmp_path: Path) -> None:
    data = read(write(tmp_path, {"train.tsv": 'text\tlabel\n"a lone quote\tx\nb\ty\n', "dev.tsv": "text\tlabel\nc\tx"}))
    assert data.train[0].text == '"a lone quote'


def test_other_files_of_the_folder_are_left_alone(tmp_path: Path) -> None:
    write(tmp_path, {"train.jsonl": GOOD, "dev.jsonl": GOOD, "test.jsonl": GOOD, "train_oos.jsonl": "broken"})
    assert len(read(tmp_path).train) == 2


def test_columns_are_mapped_and_extra_ones_ignored(tmp_path: Path) -> None:
    rows = [{"sentence": f"a{i}", "other": f"b{i}", "y": i % 2, "id": i} for i in range(20)]
    data = read(write(tmp_path, {"train.jsonl": jsonl(rows)}), {"text": "sentence", "text_b": "other", "label": "y"})
    assert data.pair
    assert Row("a0", "b0", "0") in (*data.train, *data.dev)


LABELS: dict[str, tuple[list[object], str, tuple[str, ...]]] = {
    "names": (["b", "a", "B"], "label", ("B", "a", "b")),
    "whole numbers": ([10, 9, 0], "label", ("0", "9", "10")),
    "written numbers": (["10", "9", "-1"], "label", ("-1", "9", "10")),
    "truth": ([True, False], "label", ("false", "true")),
    "names and numbers": (["a", 1], "label", ("1", "a")),
    "scores": ([0.5, 3, 5.0], "score", ()),
    "written scores": (["0.5", "3", "1e-3"], "score", ()),
    "one whole score": ([1.0, 2.0], "score", ()),
}


@pytest.mark.parametrize(("labels", "kind", "names"), LABELS.values(), ids=LABELS)
def test_kinds_of_labels(tmp_path: Path, labels: list[object], kind: str, names: tuple[str, ...]) -> None:
    data = read(write(tmp_path, {"train.jsonl": many(30, labels)}))
    assert (data.kind, data.labels) == (kind, names)
    expected = float if kind == "score" else str
    assert all(isinstance(row.label, expected) for row in data.train)


def test_dev_is_a_seeded_tenth_of_train_and_serves_as_test(tmp_path: Path) -> None:
    write(tmp_path, {"train.jsonl": many(200)})
    data, again, other = read(tmp_path), read(tmp_path), read(tmp_path, seed=1)
    assert (len(data.train), len(data.dev)) == (180, 20)
    assert data.test == data.dev
    assert data.test_is_dev
    assert any("drawn from train" in note for note in data.notes)
    assert data == again
    assert data.digest != other.digest


@given(st.lists(st.sampled_from("abc"), min_size=4, max_size=60), st.integers(0, 5))
def test_every_label_stays_in_train(labels: list[str], seed: int) -> None:
    rows = [Row(f"text {i}", None, label) for i, label in enumerate(labels)]
    train, dev = split_dev(rows, seed, "here")
    assert {row.label for row in train} == set(labels)
    assert sorted(map(repr, [*train, *dev])) == sorted(map(repr, rows))
    assert len(dev) == max(1, round(len(rows) / 10))


def test_the_digest_follows_rows_not_places(tmp_path: Path) -> None:
    parts = {
        "train.jsonl": many(20),
        "dev.jsonl": GOOD.replace("yes", "a").replace("no", "b"),
    }
    first = read(write(tmp_path / "one", parts))
    moved = read(write(tmp_path / "two", {f"{name}.gz": content for name, content in parts.items()}))
    changed = read(write(tmp_path / "three", parts | {"train.jsonl": many(20).replace("text 7", "text seven")}))
    assert first.digest == moved.digest
    assert first.digest != changed.digest
    assert (first.name, moved.name) == ("one", "two")


def test_copies_and_overlaps_are_counted(tmp_path: Path) -> None:
    row = '{"text": "good", "label": "yes"}\n'
    data = read(write(tmp_path, {"train.jsonl": GOOD + row, "dev.jsonl": GOOD, "test.jsonl": GOOD}))
    assert data.warnings == ("2 of 2 test texts are also in train",)
    assert data.notes == ("train: 1 rows are exact copies of others",)


def data_with(labels: Sequence[str]) -> Data:
    rows = tuple(Row(f"text {name}", None, name) for name in labels)
    return Data("d", rows, rows, rows, ordered(labels), "label", "digest")


MATCHES: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...] | None]] = {
    "the same": (("a", "b"), ("a", "b"), ("a", "b")),
    "another order": (("a", "b"), ("b", "a"), ("a", "b")),
    "another case": (("no", "YES"), ("No", "Yes"), ("No", "Yes")),
    "indices": (("0", "1"), ("negative", "positive"), ("negative", "positive")),
    "default names": (("LABEL_1", "LABEL_0"), ("x", "y"), ("y", "x")),
    "indices of default names": (("0", "1"), ("LABEL_0", "LABEL_1"), ("LABEL_0", "LABEL_1")),
    "indices from one": (("1", "2"), ("x", "y"), None),
    "other names": (("a", "b"), ("a", "c"), None),
    "names for default names": (("a", "b"), ("LABEL_0", "LABEL_1"), None),
    "fewer": (("a", "b"), ("a", "b", "c"), None),
    "case alone tells ours apart": (("a", "A"), ("a", "b"), None),
}


@pytest.mark.parametrize(("ours", "theirs", "expected"), MATCHES.values(), ids=MATCHES)
def test_labels_are_matched(ours: tuple[str, ...], theirs: tuple[str, ...], expected: tuple[str, ...] | None) -> None:
    matched = match_labels(data_with(ours), theirs)
    if expected is None:
        assert matched is None
    else:
        assert matched is not None
        assert matched.labels == theirs
        assert tuple(row.label for row in matched.train) == expected


def test_scores_match_no_labels() -> None:
    rows = (Row("a", None, 0.5),)
    assert match_labels(Data("d", rows, rows, rows, (), "score", "digest"), ()) is None


def test_sampled_texts_are_spread_over_the_lengths() -> None:
    rows = [Row("x" * length) for length in (5, 1, 3, 2, 4, 9, 9)]
    assert [len(row.text) for row in sample_texts(rows, 3)] == [1, 3, 9]
    assert len(sample_texts(rows, 100)) == 6
    assert sample_texts(rows, 3, seed=1) == sample_texts(rows[::-1], 3, seed=1)
    assert sample_texts([], 3) == ()


# Any text that a file can hold; CSV turns a bare "\r" into a line end, as its readers must.
TEXTS = st.text(st.characters(codec="utf-8"), max_size=30)


@settings(max_examples=50)
@given(st.lists(st.tuples(TEXTS, TEXTS, st.sampled_from(["x", "y", "ß"])), min_size=2, max_size=8), st.booleans())
def test_what_is_written_is_read(rows: list[tuple[str, str, str]], as_csv: bool) -> None:
    rows = [*rows, ("one", "more", "x"), ("and", "another", "y"), ("and", "one more", "ß")]
    with tempfile.TemporaryDirectory() as name:
        if as_csv:
            # A NUL is a file of another encoding.
            rows = [tuple(cell.replace("\0", "") for cell in row) for row in rows]  # type: ignore[misc]
            file = io.StringIO(newline="")
            csv.writer(file).writerows([("text", "text_b", "label"), *rows])
            write(Path(name), {"train.csv": file.getvalue(), "dev.csv": file.getvalue()})
        else:
            text = jsonl([dict(zip(("text", "text_b", "label"), row, strict=True)) for row in rows])
            write(Path(name), {"train.jsonl": text, "dev.jsonl": text})
        data = read(name)
    assert data.train == tuple(Row(*row) for row in rows)


@pytest.mark.parametrize(
    ("name", "rows", "labels", "overlap"),
    [
        ("sst2_sent", (6920, 872, 1821), 2, 2),
        ("banking77", (9003, 1000, 3080), 77, 7),
        ("stsb", (5749, 1500, 1379), 0, 7),
    ],
)
def test_real_data(shared: Path, name: str, rows: tuple[int, int, int], labels: int, overlap: int) -> None:
    data = read(shared / "data" / name)
    assert (len(data.train), len(data.dev), len(data.test)) == rows
    assert len(data.labels) == labels
    assert data.warnings == (f"{overlap} of {rows[2]} test texts are also in train",)
