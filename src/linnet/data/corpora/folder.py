"""Any folder of audio, with or without transcripts, searched through all its subfolders.

A transcript is looked for in this order: a table `transcripts.tsv` or `transcripts.csv` in the folder of the file or
above it, then a text file of the same name ending in .txt or .lab. A table has a header row with a column `path` (also
`file`, `audio`, `filename`, `audio_filepath`, `id`) and a column `text` (also `transcript`, `sentence`), optionally
`speaker` and `language`; without a header, the first two columns are path and text. Paths are relative to the table
and may leave the file ending out. Recordings without a transcript are kept without a text.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator
from pathlib import Path

from linnet.containers import AUDIO_SUFFIXES
from linnet.data.corpora.recording import Recording, read_text
from linnet.errors import ManifestError

LAYOUT = "audio files, with optional .txt or .lab files of the same name, or transcripts.tsv / .csv"
_TABLES = ("transcripts.tsv", "transcripts.csv")
_PATH_COLUMNS = ("path", "file", "filename", "audio", "audio_filepath", "id")
_TEXT_COLUMNS = ("text", "transcript", "transcription", "sentence")

Row = dict[str, str]


def matches(source: Path) -> bool:
    """A folder always matches; other layouts are tried first."""
    return source.is_dir()


def recordings(source: Path) -> Iterator[Recording]:
    """All audio files in the order of their paths, and rows of tables whose file is missing."""
    files = sorted(path for path in source.rglob("*") if not _hidden(path.relative_to(source)) and path.is_file())
    rows: dict[Path, Row] = {}
    for table in (path for path in files if path.name.lower() in _TABLES):
        rows.update(_table(table))
    for path in files:
        if path.suffix.lower() in AUDIO_SUFFIXES:
            row = rows.pop(path, None) or rows.pop(path.with_suffix(""), None)
            yield _recording(path, source, row)
    for path, row in rows.items():  # not found: `prepare` will report them by name
        yield _recording(path, source, row)


def _recording(path: Path, source: Path, row: Row | None) -> Recording:
    text, problem = row["text"] if row else None, ""
    if row is None:
        try:
            text = _sidecar(path)
        except ManifestError as error:
            problem = str(error)
    return Recording(
        audio_path=path,
        text=text,
        problem=problem,
        id=(path.relative_to(source) if path.is_relative_to(source) else path).with_suffix("").as_posix(),
        speaker=(row or {}).get("speaker") or None,
        language=(row or {}).get("language") or None,
    )


def _sidecar(path: Path) -> str | None:
    for suffix in (".txt", ".lab"):
        if (transcript := path.with_suffix(suffix)).is_file():
            return " ".join(read_text(transcript).split())
    return None


def _table(table: Path) -> dict[Path, Row]:
    """Rows by the path they name, which may lack its ending."""
    content = io.StringIO(read_text(table), newline="")
    tabs = table.suffix.lower() == ".tsv"
    reader = csv.reader(content, delimiter="\t", quoting=csv.QUOTE_NONE) if tabs else csv.reader(content)
    cells = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    if not cells:
        return {}
    header = [cell.strip().lower() for cell in cells[0][1]]
    path_column = next((name for name in _PATH_COLUMNS if name in header), None)
    text_column = next((name for name in _TEXT_COLUMNS if name in header), None)
    if path_column and text_column:
        cells = cells[1:]
        columns = {"path": header.index(path_column), "text": header.index(text_column)}
        columns |= {name: header.index(name) for name in ("speaker", "language") if name in header}
    else:
        columns = {"path": 0, "text": 1}
    rows = {}
    for line, row in cells:
        if len(row) <= max(columns["path"], columns["text"]):
            raise ManifestError(
                f"{table}:{line}: no path and text, got {row}; expected {len(header)} columns separated by "
                f"{'tabs' if tabs else 'commas'}, as in the first row."
            )
        named = {name: " ".join(row[index].split()) for name, index in columns.items() if index < len(row)}
        rows[Path(os.path.normpath(table.parent / row[columns["path"]].strip()))] = named
    return rows


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)  # .DS_Store, ._resource forks, .cache
