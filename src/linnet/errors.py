"""Every error Linnet raises on purpose.

    LinnetError
    ├── AudioError (ValueError)              something is wrong with the sound itself
    │   ├── AudioNotFoundError (FileNotFoundError)   no such file
    │   ├── AudioDecodeError                 not audio, truncated, or a codec we cannot read
    │   └── AudioContentError                readable, but empty, NaN, or too short for the task
    ├── VideoError (ValueError)              something is wrong with the pictures of a recording
    │   ├── VideoDecodeError                 no video track, truncated, or a codec we cannot read
    │   └── VideoContentError                readable, but without a face, or too short to read lips
    ├── ManifestError (ValueError)           a manifest line is wrong; carries file:line
    ├── LanguageError (ValueError)           a language the model does not know
    ├── ConfigError (ValueError)             an option or a preset that cannot work
    ├── DownloadError                        a hub could not be reached, or sent something else than it lists
    ├── CheckpointError                      a safetensors checkpoint is missing, truncated or foreign
    ├── BundleError                          a bundle cannot be used
    │   ├── BundleNotFoundError (FileNotFoundError)
    │   ├── BundleCorruptError               a file is missing, altered, or points outside the folder
    │   └── BundleVersionError               written by a newer Linnet
    ├── CodesError (ValueError)              a .bsq file or token ids cannot be used
    │   ├── CodesCorruptError                not a .bsq file, cut short, or altered
    │   └── CodesVersionError                written by a newer Linnet
    ├── ExportError                          conversion failed or was refused
    ├── TrainingError                        training had to stop (non-finite loss, collapse, no data)
    └── MissingExtraError (ImportError)      an optional dependency is needed; says which extra

Each message says what happened, what was got, what is accepted, and what to do next. The classes that have a
built-in counterpart also inherit it, so `except FileNotFoundError` keeps working.
"""

from __future__ import annotations


class LinnetError(Exception):
    """Base of everything Linnet raises on purpose; catch this one to keep a batch going."""


class AudioError(LinnetError, ValueError):
    """Something is wrong with the audio that was given."""


class AudioNotFoundError(AudioError, FileNotFoundError):
    """The audio file does not exist."""

    def __str__(self) -> str:  # OSError.__str__ would hide the message behind errno formatting
        return str(self.args[0]) if self.args else ""


class AudioDecodeError(AudioError):
    """The file exists but is not readable audio: wrong format, truncated, or unsupported codec."""


class AudioContentError(AudioError):
    """The audio decodes, but its samples cannot be used: empty, NaN or infinite, or too short."""


class VideoError(LinnetError, ValueError):
    """Something is wrong with the pictures of a recording; its sound may still be usable."""


class VideoDecodeError(VideoError):
    """There is no video track, or it cannot be decoded to its end."""


class VideoContentError(VideoError):
    """The video decodes, but lips cannot be read from it: no face, or hardly any frames."""


class ManifestError(LinnetError, ValueError):
    """A manifest is malformed; the message carries file:line."""


class LanguageError(LinnetError, ValueError):
    """The language asked for is not one the model knows."""


class ConfigError(LinnetError, ValueError):
    """An option, preset or combination of them cannot work."""


class DownloadError(LinnetError):
    """A model could not be downloaded: no network, no such model, wrong content, or no space."""


class CheckpointError(LinnetError):
    """A checkpoint is missing, truncated, or of another architecture."""


class BundleError(LinnetError):
    """A bundle cannot be used."""


class BundleNotFoundError(BundleError, FileNotFoundError):
    """No bundle at this path or under this name."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class BundleCorruptError(BundleError):
    """A bundle's file is missing, altered, or its description is malformed."""


class BundleVersionError(BundleError):
    """The bundle was written by a newer Linnet than this one."""


class CodesError(LinnetError, ValueError):
    """A `.bsq` file or token ids cannot be used."""


class CodesCorruptError(CodesError):
    """Not a `.bsq` file, cut short, or altered."""


class CodesVersionError(CodesError):
    """The `.bsq` file was written by a newer Linnet than this one."""


class ExportError(LinnetError):
    """A conversion failed or was refused; nothing half-written is left behind."""


class TrainingError(LinnetError):
    """Training had to stop; the message names the reason and the last good checkpoint."""


class MissingExtraError(LinnetError, ImportError):
    """An optional dependency is missing; the message names the extra that brings it."""

    def __init__(self, feature: str, extra: str, package: str) -> None:
        super().__init__(
            f"{feature} needs the package '{package}', which is not installed. "
            f"Install it with: pip install 'linnet[{extra}]'"
        )
        self.extra = extra
