import pytest

from vcjax import settings


def test_sizes_follow_the_collection_and_the_videos_that_are_clustered():
    config = settings.apply_variants(settings.paper(), "smoke")
    config.la.batch_size, config.la.epochs = 50, 7
    sizes = settings.resolve(config, "la", 235, num_points=80)
    assert sizes == settings.Sizes(1, 4, num_clusters=2, num_cells=6, num_background=32)
    assert settings.resolve(config, "ir", 24) == settings.Sizes(2, 3)


def test_a_batch_that_does_not_fit_names_its_setting():
    config = settings.apply_variants(settings.paper(), "smoke")
    for num_videos, num_devices, match in ((7, 1, "exceeds the 7"), (24, 3, "among 3 devices")):
        with pytest.raises(settings.SettingsError, match=f"{match}.*ir.batch_size"):
            settings.resolve(config, "ir", num_videos, num_devices=num_devices)
    config.clusters.num_clusters = 24
    with pytest.raises(settings.SettingsError, match="num_clusters"):
        settings.resolve(config, "la", 24)


@pytest.mark.parametrize(
    "changed, continues",
    [
        ({"la.epochs": 30}, True),
        ({"la.epochs": 30, "la.lr_milestones": (16, 25)}, True),
        ({"la.lr_milestones": (16, 20)}, True),
        ({"la.epochs": 10}, False),
        ({"la.epochs": 30, "la.lr_milestones": (17,)}, False),
        ({"la.epochs": 30, "la.lr_milestones": (16, 19)}, False),
        ({"la.epochs": 30, "la.momentum": 0.8}, False),
        ({"la.epochs": 30, "seed": 1}, False),
        ({"epochs_scale": 2.0}, False),  # moves the drops
    ],
)
def test_training_continues_if_its_first_steps_are_the_old_ones(changed, continues):
    config = settings.apply_variants(settings.paper(), "folder")
    assert (config.la.epochs, config.la.lr_milestones) == (20, (16,))

    def recorded():
        return {k: v for k, v in config.to_dict().items() if k in ("la", "seed", "epochs_scale")}

    old = recorded()
    config.update_from_flattened_dict(changed)
    assert settings.only_trains_longer("la", old, recorded()) == continues


def test_finetuning_continues_with_more_epochs():
    old = {"finetune": settings.paper().finetune.to_dict(), "epochs_scale": 1.0}
    longer = {"finetune": old["finetune"] | {"epochs": 50}, "epochs_scale": 1.0}
    assert settings.only_trains_longer("finetune", old, longer)
    assert not settings.only_trains_longer("finetune", longer, old)
