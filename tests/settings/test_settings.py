import importlib.util
from pathlib import Path

import pytest

from vcjax import settings
from vcjax.settings import defaults, description, validation

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.py"))


def _get_config(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
@pytest.mark.parametrize(
    "variant", ["", "rendered", "folder", "released", "smoke", "folder,released"]
)
def test_every_config_builds_its_stages(path, variant, tmp_path):
    from vcjax.pipeline import build

    config = _get_config(path)(variant)
    if not config.data.rendered.num_videos:
        (tmp_path / "videos.tsv").write_text("path\na.mp4\n")
        config.data.manifest = str(tmp_path / "videos.tsv")
    assert [s.name for s in build.build(config, tmp_path)] == list(config.stages)


def test_without_variant_the_values_are_the_papers():
    config = settings.paper()
    assert (config.ir.epochs, config.la.epochs) == (40, 200)
    assert (config.la.batch_size, config.la.learning_rate, config.la.momentum) == (256, 0.03, 0.9)
    assert (config.clusters.num_clusters, config.clusters.num_runs) == (6000, 3)
    assert (config.fisher.num_components, config.fisher.sketch_dim) == (256, 2000)
    assert config.ir.temperature == 0.07


def test_small_collections_keep_the_papers_proportions():
    assert settings.num_clusters(0, 235_000) == pytest.approx(6000, rel=0.01)
    assert settings.num_background(0, 235_000) == pytest.approx(4096, rel=0.01)
    assert settings.num_clusters(0, 211) == 5
    assert settings.num_background(0, 211) == 32
    assert settings.num_background(0, 20) == 20


def test_more_clusters_than_videos_is_an_error_that_says_what_to_do():
    with pytest.raises(settings.SettingsError, match="clusters.num_clusters=0"):
        settings.num_clusters(6000, 211)


def test_every_rule_is_that_of_a_setting():
    flat = [key for key, _ in defaults.flat(settings.paper())]
    names = {*flat, *(key.rpartition(".")[2] for key in flat)}
    assert not validation._RULES.keys() - names


@pytest.mark.parametrize(
    "key, value",
    [("la.init_from", "nothing"), ("ucf101.plateau_split", "x"), ("evaluation.sampling", "x")],
)
def test_an_invalid_value_is_refused_under_its_name(key, value):
    config = settings.paper()
    config.update_from_flattened_dict({key: value})
    with pytest.raises(settings.SettingsError, match=f"--config.{key} is {value!r}; use one of"):
        validation.check(config)


def test_unknown_variant_names_the_known_ones():
    with pytest.raises(settings.SettingsError, match="'tiny' is unknown; use one of .*rendered"):
        settings.apply_variants(settings.paper(), "tiny")


def _refused(message, *variants, **values):
    config = settings.apply_variants(settings.paper(), ",".join(variants))
    for key, value in values.items():
        *section, name = key.split("__")
        holder = config[section[0]] if section else config
        with holder.ignore_type():
            holder[name] = value
    with pytest.raises(settings.SettingsError, match=message):
        validation.check(config)


def test_a_misspelled_setting_is_refused_with_the_closest_name():
    _refused("no setting --config.ir.epohcs; did you mean --config.ir.epochs", ir__epohcs=20)
    _refused("no setting --config.epochs; did you mean --config.*epochs", epochs=20)


@pytest.mark.parametrize("none", ["None", "none", "null", " None"])
def test_the_word_none_is_not_a_path(none):
    for key in ("idt__people", "data__manifest", "finetune__label", "data__group"):
        _refused("which is no value; for none, leave it empty", "folder", **{key: none})


def test_none_is_a_detector():
    assert settings.paper().idt.detector == "maskrcnn"
    config = settings.apply_variants(settings.paper(), "folder")
    assert config.idt.detector == "none"
    validation.check(config)


def test_a_manifest_that_a_collection_would_ignore_is_refused():
    both = dict(data__manifest="VIDEOS", data__collection="COLLECTION")
    _refused("--config.data.manifest=VIDEOS would be ignored", "folder", **both)


def test_a_value_of_another_type_is_refused():
    _refused("--config.seed is None; use an integer", seed=None)
    _refused("--config.ir.epochs is '20'; use an integer", ir__epochs="20")
    _refused("--config.keep_best is 1; use True or False", keep_best=1)


@pytest.mark.parametrize("variant", ["rendered", "smoke"])
def test_a_manifest_that_rendering_would_ignore_is_refused(variant):
    _refused(
        "--config.data.manifest=videos.tsv would be ignored", variant, data__manifest="videos.tsv"
    )


def test_the_description_has_every_setting_with_its_comment():
    lines = description.describe().splitlines()[1:]
    assert len(lines) == len(list(defaults.flat(settings.paper())))
    assert all(len(line.split(maxsplit=1)) == 2 for line in lines)
    (batch_size,) = [line for line in lines if line.strip().startswith("--config.la.batch_size=")]
    assert batch_size.split(maxsplit=1) == [
        "--config.la.batch_size=256",
        "clips per step, Sec. 4.2",
    ]


def test_a_config_of_another_origin_is_refused():
    with pytest.raises(settings.SettingsError, match="get_config .* returned a NoneType"):
        validation.check(None)
    config = settings.paper()
    del config.svm
    with pytest.raises(settings.SettingsError, match="no setting svm.*settings.paper"):
        validation.check(config)
