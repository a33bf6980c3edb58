"""Linnet: speech recognition that fits small machines.

The public API, loaded on first use so that `import linnet` stays fast. Measuring is `linnet.evaluate.evaluate`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from linnet.errors import LinnetError

if TYPE_CHECKING:
    from linnet.codes import Codes as Codes
    from linnet.results import Segment as Segment
    from linnet.results import Transcription as Transcription
    from linnet.results import Word as Word
    from linnet.runtime.loader import load_codec as load_codec
    from linnet.runtime.loader import load_model as load_model

__version__ = "0.1.0"
_LAZY = {
    "load_model": "linnet.runtime.loader",
    "load_codec": "linnet.runtime.loader",
    "Codes": "linnet.codes",
    "Transcription": "linnet.results",
    "Segment": "linnet.results",
    "Word": "linnet.results",
}
__all__ = ["Codes", "LinnetError", "Segment", "Transcription", "Word", "__version__", "load_codec", "load_model"]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'linnet' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(_LAZY[name]), name)
