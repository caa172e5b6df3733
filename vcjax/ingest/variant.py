"""Variants of Fisher vectors: the extraction of trajectories, and the settings of the model."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from vcjax.idt import people
from vcjax.idt.collection import VERSION
from vcjax.idt.trajectories import IdtSettings
from vcjax.runtime import filesystem


class Extraction(NamedTuple):
    """Settings that determine the trajectories of a video."""

    matcher: str  # point matches for camera motion, a key of `camera.MATCHERS`
    detector: str  # detector of people as for `detectors.create`; "": none
    people: str  # folder of box files; "": none
    max_side: int = 0  # larger side of the frames in pixels; 0: as they are

    @property
    def settings(self) -> IdtSettings:
        """Constants of the method."""
        return IdtSettings(max_side=self.max_side)

    @property
    def key(self) -> str:
        """Short hash of the settings and of the detector's file."""
        kind, _, file = self.detector.partition(":")
        content = hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else ""
        return _hash([VERSION, self.matcher, kind, content, self.people, self.max_side])

    def version(self, video_id: str, version: str) -> str:
        """Return a text that changes with the content of a video and of its box file.

        `version` is the text of the video file alone.
        """
        if not self.people:
            return version
        return f"{version} {version_of(str(people.path_of(Path(self.people), video_id)))}"


@dataclass(frozen=True)
class Variant:
    """An extraction, the section `fisher` of a config, and the seed of the model's random draws."""

    extraction: Extraction
    fisher: Mapping[str, Any]
    seed: int

    @property
    def key(self) -> str:
        """Short hash of all settings."""
        return _hash([self.extraction.key, dict(self.fisher), self.seed])

    def as_json(self) -> dict[str, Any]:
        """Return all settings, for `from_json`."""
        return {"idt": self.extraction._asdict(), "fisher": dict(self.fisher), "seed": self.seed}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Variant":
        """Return the variant of `as_json`."""
        return cls(Extraction(**content["idt"]), content["fisher"], content["seed"])

    def describe(self) -> str:
        """Return the settings that users compare, in one line."""
        people = self.extraction.detector or self.extraction.people or "none"
        descriptors = "+".join(self.fisher["descriptors"])
        return (
            f"descriptors {descriptors}, {self.fisher['num_components']} components, "
            f"matcher {self.extraction.matcher}, people {people}, seed {self.seed}, "
            f"fitted to {self.fisher['fit_split']}"
        )


def variant_of(config: ConfigDict, *, seed: int) -> Variant:
    """Return the variant that a config describes in its sections `idt` and `fisher`.

    `seed` is the seed of the draws of the fit. Given boxes replace the detector.
    """
    idt = config.idt
    detector = "" if idt.people or idt.detector == "none" else idt.detector
    return Variant(
        Extraction(idt.matcher, detector, idt.people, idt.max_side), config.fisher.to_dict(), seed
    )


def version_of(path: str) -> str:
    """Return a text that changes with the content of a file; "" if there is no such file."""
    try:
        size, version = filesystem.file_version(path)
    except OSError:
        return ""
    return f"{size}/{version}"


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]
