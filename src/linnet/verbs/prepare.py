"""`linnet prepare`: folders and corpora → manifests."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

from linnet.verbs.terminal import say


def prepare(
    source: Path,
    out: Path,
    /,
    corpus: Literal["auto", "folder", "librispeech", "common_voice", "aishell", "grid", "av_list"] = "auto",
    language: str | None = None,
    min_duration_s: float = 0.1,
    max_duration_s: float = 3600.0,
) -> int:
    """Write JSONL manifests for a folder of recordings or a published corpus.

    Recordings that cannot be read are named and left out; the exit code is still 0.

    Args:
        source: Folder of audio (transcripts beside it as .txt or .lab, or transcripts.tsv), or a corpus folder.
        out: Folder for the manifests, or the name of one that ends in .jsonl.
        corpus: Layout of the folder; auto looks at it.
        language: ISO code to write into the manifest instead of what the corpus says.
        min_duration_s: Leave out shorter recordings.
        max_duration_s: Leave out longer recordings.
    """
    from linnet.data.prepare import prepare as make_manifests
    from linnet.progress import task_bar

    with task_bar("prepare") as show:
        report = make_manifests(
            source,
            out=out,
            corpus=corpus,
            language=language,
            min_duration_s=min_duration_s,
            max_duration_s=max_duration_s,
            progress=show,
        )
    say(report.table())
    sys.stdout.write("".join(f"{manifest.path}\n" for manifest in report.manifests))
    return 0
