import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from vcjax.evaluation import embeddings
from vcjax.evaluation.embeddings import EmbeddingsError, parse, read

IDS = ("a", "b", "c")
ROWS = np.arange(6, dtype=np.float32).reshape(3, 2)


def _npz(path, ids=("c", "a", "b"), **arrays):
    np.savez(path, video_id=np.array(ids), **(arrays or {"embedding": ROWS}))
    return parse(f"clip={path}")


def test_rows_follow_the_ids_of_the_collection(tmp_path):
    source = _npz(tmp_path / "e.npz")
    np.testing.assert_array_equal(read(source, IDS), ROWS[[1, 2, 0]])
    table = {"video_id": ["c", "a", "b"], "features": ROWS.tolist()}
    parquet.write_table(pyarrow.table(table), tmp_path / "e.parquet")
    np.testing.assert_array_equal(read(parse(f"clip={tmp_path}/e.parquet"), IDS), ROWS[[1, 2, 0]])


def test_an_array_is_selected_by_its_name(tmp_path):
    _npz(tmp_path / "e.npz", first=ROWS, second=2 * ROWS)
    np.testing.assert_array_equal(
        read(parse(f"x={tmp_path}/e.npz:second"), ("c", "a", "b")), 2 * ROWS
    )
    with pytest.raises(EmbeddingsError, match=r"select one of \['first', 'second'\] by x="):
        read(parse(f"x={tmp_path}/e.npz"), IDS)


def test_ids_that_do_not_match_are_refused_by_name(tmp_path, caplog):
    source = _npz(tmp_path / "e.npz", ids=("a", "b", "z"))
    with pytest.raises(EmbeddingsError, match=r"no row for 1 of 3 videos, first \['c'\].*'z'"):
        read(source, IDS)
    with pytest.raises(EmbeddingsError, match="the id 'a' has 2 rows"):
        read(_npz(tmp_path / "twice.npz", ids=("a", "b", "a")), IDS)
    assert not caplog.records
    assert len(read(source, ("a", "b"))) == 2
    assert "1 rows belong to no video and are ignored: ['z']" in caplog.text


def test_values_that_are_not_finite_name_the_video(tmp_path):
    rows = ROWS.copy()
    rows[2, 1] = np.nan
    with pytest.raises(EmbeddingsError, match="the embedding of 'b' is not finite"):
        read(_npz(tmp_path / "e.npz", embedding=rows), IDS)


@pytest.mark.parametrize(
    "text, message",
    [
        ("e.npz", "use NAME=FILE.npz"),
        ("a/b=e.npz", "use NAME=FILE.npz"),
        ("idt=e.npz", "the name 'idt' is taken"),
        ("x=e.csv", "ends in .npz or .parquet"),
    ],
)
def test_other_forms_are_refused(text, message):
    with pytest.raises(EmbeddingsError, match=message):
        parse(text)


def test_unreadable_files_are_named(tmp_path):
    with pytest.raises(EmbeddingsError, match="none.npz: no such file"):
        read(parse(f"x={tmp_path}/none.npz"), IDS)
    (tmp_path / "e.npz").write_bytes(b"text")
    with pytest.raises(EmbeddingsError, match="e.npz: not a readable npz file"):
        read(parse(f"x={tmp_path}/e.npz"), IDS)
    np.savez(tmp_path / "o.npz", video_id=np.array(["a", 1], object))
    with pytest.raises(EmbeddingsError, match="o.npz: not a readable npz file"):
        embeddings.read(parse(f"x={tmp_path}/o.npz"), IDS)
