"""The errors Spikeloom raises on purpose.

    SpikeloomError
    |-- FileError            a file is missing, unreadable, unwritable or malformed
    |   |-- TraceError       a spike trace (.npz)
    |   |-- ConfigError      a machine, workload or training file (.toml)
    |   |-- NetworkFileError a network or checkpoint file
    |   `-- DataError        a data set is absent or malformed
    |-- NetworkError         a network whose nodes do not fit together
    |-- MappingError         a machine cannot run a layer
    |-- SearchError          a search cannot start, go on or be resumed
    `-- CostError            a quantity has no sourced price, or lies outside its valid range

Every message is one line and says what was got, what was expected, where, and what to do.
"""

from __future__ import annotations


class SpikeloomError(ValueError):
    """Base of all errors a user can cause; the command line prints it as one line and exits with 1."""

    def __init__(self, message: str = "") -> None:
        super().__init__(" ".join(message.splitlines()))  # names and causes may hold line breaks


class FileError(SpikeloomError):
    """A file is missing, unreadable, unwritable or malformed."""


class TraceError(FileError):
    """A spike trace does not follow the format; names the file and the key."""


class ConfigError(FileError):
    """A TOML file does not follow its schema; names the file and the key."""


class NetworkFileError(FileError):
    """A network or checkpoint file does not follow the format."""


class DataError(FileError):
    """A data set is absent or malformed; names the path and where it was looked for."""


class NetworkError(SpikeloomError):
    """A network whose nodes, edges or shapes do not fit together; names the node."""


class MappingError(SpikeloomError):
    """A machine cannot run a layer; names the layer and what the machine supports."""


class SearchError(SpikeloomError):
    """A search cannot start, go on or be resumed; names the setting or the folder."""


class CostError(SpikeloomError):
    """A quantity has no sourced price or lies outside the range its source covers."""
