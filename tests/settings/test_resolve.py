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
