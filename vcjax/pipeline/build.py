"""Builder of the stages that a config lists.

manifest -> ingest -> fisher -> ir -> la -> tune -> evaluate -> finetune, or fisher -> svm
"""

import functools
import importlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from vcjax import settings
from vcjax.data.manifest import Manifest
from vcjax.pipeline import manifest
from vcjax.pipeline import workdir as workdirs
from vcjax.runtime.stage_cache import Stage
from vcjax.settings import validation


def build(config: ConfigDict, workdir: Path) -> list[Stage]:
    """Return the stages that `config.stages` lists, in order.

    Raises:
        SettingsError: If a stage is unknown or repeated, or a setting is invalid.
    """
    validation.check(config)
    if unknown := [s for s in config.stages if s not in _BUILDERS]:
        raise settings.SettingsError(f"no stage {unknown[0]!r}; use some of {', '.join(_BUILDERS)}")
    if twice := [s for s in config.stages if config.stages.count(s) > 1]:
        raise settings.SettingsError(
            f"--config.stages has {twice[0]!r} twice; a second --config.stages adds to the first"
        )
    listed = functools.cache(lambda: manifest.listed(config, workdir))

    def videos(running: Collection[str]) -> Manifest:
        return listed() if "manifest" in running else workdirs.manifest(workdir)

    return [_builder(name)(name, config, workdir, videos) for name in config.stages]


# Stage -> module and function that builds it. A module is imported if a config lists its stage:
# a run without training does not wait for Flax, optax, orbax and grain.
_BUILDERS: dict[str, tuple[str, str]] = {
    "manifest": ("manifest", "manifest_stage"),
    "ingest": ("ingest", "ingest_stage"),
    "fisher": ("ingest", "fisher_stage"),
    **dict.fromkeys(settings.TRAINING_STAGES, ("pretrain", "training_stage")),
    **dict.fromkeys(settings.FINETUNING_STAGES, ("transfer", "finetune_stage")),
    "few_shot": ("transfer", "few_shot_stage"),
    "evaluate": ("evaluate", "evaluate_stage"),
    "svm": ("svm", "svm_stage"),
    "explore": ("explore", "explore_stage"),
}


def _builder(name: str) -> Any:
    module, function = _BUILDERS[name]
    return getattr(importlib.import_module(f"vcjax.pipeline.{module}"), function)
