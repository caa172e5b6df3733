"""Validation of every setting of a config before any stage runs.

Errors that depend on the videos (more clusters than videos, a missing label column) are raised by
the stages.
"""

import difflib
import math
from collections.abc import Callable
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from vcjax.settings.defaults import (
    DESCRIPTORS,
    FINETUNING_STAGES,
    TRAINING_STAGES,
    SettingsError,
    flat,
    paper,
)


class _Rule(NamedTuple):
    holds: Callable[[Any], bool]
    description: str  # of valid values, after "use" in a message


def _one_of(*values: Any) -> _Rule:
    names = ", ".join(str(v) or "nothing" for v in values)
    return _Rule(lambda v: v in values, f"one of {names}")


def _each(rule: _Rule, kind: type, *, count: int | None = None) -> _Rule:
    def holds(values: Any) -> bool:
        return (
            isinstance(values, tuple | list)
            and count in (None, len(values))
            and all(
                isinstance(v, kind) and not isinstance(v, bool) and rule.holds(v) for v in values
            )
        )

    return _Rule(holds, f"{count or 'values'} in brackets, each {rule.description}")


_NUMBER: Any = int | float
_AT_LEAST_0 = _Rule(lambda v: 0 <= v < math.inf, "0 or more")
_AT_LEAST_1 = _Rule(lambda v: 1 <= v < math.inf, "1 or more")
_POSITIVE = _Rule(lambda v: 0 < v < math.inf, "more than 0")
_SHARE = _Rule(lambda v: 0 <= v <= 1, "from 0 to 1")
_PART = _Rule(lambda v: 0 < v <= 1, "more than 0, at most 1")
_LESS_THAN_1 = _Rule(lambda v: 0 <= v < 1, "from 0 to less than 1")
_BETWEEN = _Rule(lambda v: 0 < v < 1, "between 0 and 1")
_NAME = _Rule(lambda v: bool(v), "a name")
_STAGES = (*TRAINING_STAGES, *FINETUNING_STAGES)

# Keyed by the full name of a setting, or by its last part if it is in several sections.
_RULES: dict[str, _Rule] = {
    "seed": _Rule(lambda v: 0 <= v < 2**32, "from 0 to 4294967295"),
    "data.seed": _Rule(lambda v: -1 <= v < 2**32, "from 0 to 4294967295, or -1"),
    "stages": _each(_NAME, str),
    "eval_stages": _each(_NAME, str),
    "epochs_scale": _POSITIVE,
    "log_steps": _AT_LEAST_1,
    "bank_dtype": _one_of("float32", "bfloat16"),
    "data.holdout": _LESS_THAN_1,
    "data.codec": _one_of("jpeg", "h264"),
    "data.on_error": _one_of("error", "skip"),
    "data.verify": _one_of("decode", "header"),
    "data.max_corrupt_fraction": _SHARE,
    "data.num_threads": _AT_LEAST_0,
    "clip.num_frames": _AT_LEAST_1,
    "clip.stride": _AT_LEAST_1,
    "clip.side": _AT_LEAST_1,
    "clip.flip": _SHARE,
    "clip.grayscale": _SHARE,
    "clip.jitter": _each(_AT_LEAST_0, _NUMBER, count=4),
    "model.depth": _one_of(18, 34),
    "model.width": _AT_LEAST_1,
    "model.embedding_dim": _AT_LEAST_1,
    "model.dtype": _one_of("auto", "float32", "bfloat16", "float16"),
    "idt.matcher": _one_of("flow", "surf"),
    "idt.detector": _NAME,
    "fisher.explained_variance": _PART,
    "fisher.num_components": _AT_LEAST_1,
    "fisher.fit_split": _one_of("train", "all"),
    "fisher.num_videos": _AT_LEAST_1,
    "fisher.descriptors_per_video": _AT_LEAST_1,
    "fisher.variant": _one_of("paper", "released"),
    "fisher.descriptors": _each(_one_of(*DESCRIPTORS), str),
    "clusters.num_clusters": _Rule(lambda v: v == 0 or v >= 2, "2 or more, or 0"),
    "clusters.num_runs": _AT_LEAST_1,
    "clusters.num_iterations": _AT_LEAST_1,
    "explore.num_clusters": _Rule(lambda v: v == 0 or v >= 2, "2 or more, or 0"),
    "explore.embeddings": _each(_NAME, str),
    "explore.num_shared": _AT_LEAST_1,
    "ir.objective": _one_of("instance_recognition"),
    "ir.estimator": _one_of("sampled_softmax", "full_softmax", "nce"),
    "ir.num_negatives": _AT_LEAST_1,
    "svm.penalty": _POSITIVE,
    "scales": _each(_PART, _NUMBER),
    "epochs": _AT_LEAST_1,
    "lr_milestones": _each(_AT_LEAST_0, int),
    "init_from": _one_of("", *_STAGES),
    "starts": _each(_one_of("scratch", *_STAGES), str),
    "batch_size": _AT_LEAST_1,
    "accumulation_steps": _AT_LEAST_1,
    "learning_rate": _POSITIVE,
    "momentum": _LESS_THAN_1,
    "dampening": _LESS_THAN_1,
    "bank_momentum": _LESS_THAN_1,
    "temperature": _POSITIVE,
    "validate_epochs": _AT_LEAST_1,
    "source": _one_of("idt", "bank", "joint"),
    "bank": _one_of("embeddings", "fisher"),
    "plateau_split": _one_of("holdout", "test"),
    "average": _one_of("softmax", "logits"),
    "holdout": _BETWEEN,
    "frozen_stages": _one_of(0, 1, 2, 3, 4),
    "input_scale": _POSITIVE,
    "splits": _each(_NAME, str),
    "evaluation.labels": _each(_NAME, str),
    "clips_per_video": _AT_LEAST_1,
    "shots": _each(_AT_LEAST_1, int),
    "num_draws": _AT_LEAST_1,
    "max_train": _AT_LEAST_0,
    "sampling": _one_of("random", "first"),
    "retrieval": _each(_AT_LEAST_1, int),
    "num_neighbors": _AT_LEAST_1,
    **{f"{stage}.objective": _one_of("local_aggregation") for stage in ("la_own", "la", "tune")},
}
_MAY_BE_NONE = ("idt.detector",)  # whose value none has a meaning
_NOT_EMPTY = ("stages", "scales", "fisher.descriptors", "retrieval")


def check(config: ConfigDict) -> None:
    """Raise SettingsError, which names the setting, for the first invalid setting or value."""
    if not isinstance(config, ConfigDict):
        raise SettingsError(
            f"get_config of the config file returned a {type(config).__name__}; "
            "return a modified settings.paper()"
        )
    defaults, values = dict(flat(paper())), dict(flat(config))
    for key in values:
        if key not in defaults:
            raise SettingsError(unknown(f"--config.{key}"))
    if missing := sorted(defaults.keys() - values.keys()):
        raise SettingsError(
            f"the config file has no setting {missing[0]}; begin with settings.paper()"
        )
    for key, value in values.items():
        rule = _RULES.get(key) or _RULES.get(key.rpartition(".")[2]) or _default(value)
        shown = f"--config.{key} is {_shown(value)}"
        if not _has_type(value, defaults[key]):
            raise SettingsError(f"{shown}; use {_KINDS[type(defaults[key])]}")
        if not rule.holds(value):
            raise SettingsError(f"{shown}; use {rule.description}")
        if _means_none(value) and key not in _MAY_BE_NONE:
            raise SettingsError(f"{shown}, which is no value; for none, leave it empty")
        if value == () and (key in _NOT_EMPTY or key.rpartition(".")[2] in _NOT_EMPTY):
            raise SettingsError(f"--config.{key} is empty")
    folds = {"evaluate": config.evaluation.folds, "svm": config.svm.leave_groups_out}
    if not config.data.holdout and not all(folds[s] for s in folds if s in config.stages):
        raise SettingsError(
            "--config.data.holdout is 0, so no video is held out; use a value between 0 and 1, or "
            "hold out groups in turn (--config.evaluation.folds, --config.svm.leave_groups_out)"
        )
    _check_videos(config.data)


def _check_videos(data: ConfigDict) -> None:
    """Raise SettingsError if several settings provide the videos."""
    given = [name for name in ("manifest", "collection") if data[name]]
    if given and data.rendered.num_videos:
        raise SettingsError(
            f"--config.data.{given[0]}={data[given[0]]} would be ignored, since the variant "
            f"(rendered, smoke) renders {data.rendered.num_videos} videos; "
            "use the variant folder, or add --config.data.rendered.num_videos=0"
        )
    if len(given) == 2:
        raise SettingsError(
            f"--config.data.manifest={data.manifest} would be ignored, since the videos of "
            f"--config.data.collection={data.collection} are used; leave out one of the two"
        )


def unknown(flag: str) -> str:
    """Return a message for the unknown setting `flag`, --config.KEY, with the closest settings."""
    key, names = flag.removeprefix("--config."), [name for name, _ in flat(paper())]
    last = {name: name.rpartition(".")[2] for name in names}
    close = difflib.get_close_matches(key, names, n=1, cutoff=0.8)
    if not close:  # the section may be wrong
        alike = difflib.get_close_matches(key.rpartition(".")[2], set(last.values()), n=1)
        close = [name for name in names if last[name] in alike][:3]
    advice = " or ".join(f"--config.{name}" for name in close)
    return f"there is no setting {flag}" + (f"; did you mean {advice}?" if close else "")


_KINDS = {
    bool: "True or False",
    int: "an integer",
    float: "a number",
    str: "text",
    tuple: "values in brackets",
}


def _has_type(value: Any, default: Any) -> bool:
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(value, bool) and isinstance(default, bool)
    accepted: Any = {float: int | float, tuple: tuple | list}.get(type(default), type(default))
    return isinstance(value, accepted)


def _means_none(value: Any) -> bool:
    """Return True if text, or an element of a tuple, is the name of the value of no value."""
    if isinstance(value, tuple | list):
        return any(map(_means_none, value))
    return isinstance(value, str) and value.strip().lower() in ("none", "null")


def _shown(value: Any) -> str:
    """Return `value` as it is written on the command line."""
    if isinstance(value, tuple | list):
        return f"({', '.join(map(_shown, value))})"
    return repr(value) if isinstance(value, str) else str(value)


def _default(value: Any) -> _Rule:
    """Return the rule of a setting without its own: finite and non-negative, or printable."""
    if isinstance(value, int | float):
        return _AT_LEAST_0
    if isinstance(value, str):
        return _Rule(lambda v: v.isprintable(), "no line breaks or other control characters")
    return _Rule(lambda v: True, "anything")
