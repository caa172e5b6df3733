"""Files of checkpoints: the committed ones and their checksums. Orbax is not needed."""

from pathlib import Path

from vcjax.runtime import checksums
from vcjax.runtime.checksums import DamagedError

CHECKSUMS = "checksums.json"


def damaged(checkpoint: Path) -> list[Path]:
    """Return the missing and damaged files of a checkpoint, a folder DIRECTORY/STEP."""
    try:
        recorded = checksums.read_json(checkpoint / CHECKSUMS)
    except FileNotFoundError:  # a checkpoint of an older version, without checksums
        return []
    except DamagedError:
        return [checkpoint / CHECKSUMS]
    missing = checksums.missing(recorded, checkpoint)
    return missing + checksums.find_corrupt(recorded, checkpoint)


def committed(directory: Path) -> list[Path]:
    """Return the folders of the committed checkpoints in `directory`, newest first."""
    if not directory.is_dir():
        return []
    return sorted(
        (path for path in directory.iterdir() if path.name.isdecimal() and path.is_dir()),
        key=lambda path: -int(path.name),
    )
