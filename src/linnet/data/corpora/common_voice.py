"""Common Voice (commonvoice.mozilla.org), any release: <language>/{train,dev,test,validated}.tsv and <language>/clips.

One split per table. `validated` contains the other three and more, so train on it only if you do not score on them.
The source may be a language's folder or a folder of languages (then splits are named <language>-train, …).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from linnet.data.corpora.recording import Recording, read_text
from linnet.errors import ManifestError

LAYOUT = "{train,dev,test,validated}.tsv beside a folder clips/"
_SPLITS = ("train", "dev", "test", "validated")
_EXTRA = ("age", "gender", "accents", "accent", "variant")


def matches(source: Path) -> bool:
    """Whether a folder of clips with its tables is here or up to two folders below."""
    return bool(_languages(source))


def recordings(source: Path) -> Iterator[Recording]:
    """All utterances in the order of language, split and table."""
    languages = _languages(source)
    for folder in languages:
        prefix = f"{folder.name}-" if len(languages) > 1 else ""
        for split in _SPLITS:
            if (table := folder / f"{split}.tsv").exists():
                yield from _table(table, prefix + split)


def _table(table: Path, split: str) -> Iterator[Recording]:
    # Sentences contain unbalanced quotes; the tables are plain tab-separated text without quoting.
    rows = csv.DictReader(io.StringIO(read_text(table), newline=""), delimiter="\t", quoting=csv.QUOTE_NONE)
    missing = {"path", "sentence"} - set(rows.fieldnames or ())
    if missing:
        raise ManifestError(f"{table}:1: no column {sorted(missing)}; got {rows.fieldnames}, expected Common Voice's.")
    for row in rows:
        name = row["path"]
        if not name:
            continue
        yield Recording(
            # Releases before 5.0 have no suffix in the table.
            audio_path=table.parent / "clips" / (name if Path(name).suffix else f"{name}.mp3"),
            text=row["sentence"] or "",
            id=Path(name).stem,
            split=split,
            speaker=row.get("client_id") or None,
            language=row.get("locale") or table.parent.name,
            extra={key: row[key] for key in _EXTRA if row.get(key)},
        )


def _languages(source: Path) -> list[Path]:
    clips = [clips for above in ("", "*/", "*/*/") for clips in sorted(source.glob(f"{above}clips")) if clips.is_dir()]
    return [path.parent for path in clips if any((path.parent / f"{split}.tsv").exists() for split in _SPLITS)]
