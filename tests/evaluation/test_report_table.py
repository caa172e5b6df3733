import pytest

from vcjax.evaluation import report_table, table


def _report(labels=("motion", "scene")):
    share = dict.fromkeys(labels, 0.5)
    entry = {"neighbor": share, "linear": share, "clusters": {"ami": share, "num": 3}}
    return {
        "dataset": "some",
        "models": dict.fromkeys(("la_idt_tune", "la_idt", "la", "ir", "scratch"), entry),
        "idt": {"linear": share, "clusters": {"ami": share, "num": 3}},
        "seconds": {},
        "num_videos": {"train": 30, "test": 10},
        "chance": dict.fromkeys(labels, 0.25),
        "asked": {k: {"fit": 5, "test": 5, "within_test": True} for k in labels},
    }


def test_every_model_has_a_row_in_the_papers_order():
    lines = table(_report()).splitlines()
    titles = [line[:22].strip() for line in lines]
    order = [
        "Scratch", "Video IR", "Video LA", "Video LA + IDT", "Video LA + IDT, tuned",
        "IDT Fisher vectors", "Chance",
    ]  # fmt: skip
    start = titles.index("Scratch")
    assert titles[start : start + len(order)] == order
    assert lines[start].split()[1:] == ["50.0", "50.0", "0.50"] * 2
    assert lines[start + 5].split()[3:] == ["-", "50.0", "0.50"] * 2
    assert "10 held-out videos, 30 training videos" in lines


@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_it_fits_100_columns_whatever_the_number_of_labels(count):
    names = [f"quite a long label, the number {i}" for i in range(count)]
    text = table(_report(names))
    assert max(map(len, text.splitlines())) <= 100
    assert text.count("Scratch") >= 1 and text.count("50.0") == count * 11


def test_the_fixed_part_of_a_report_is_enough():
    report = _report()
    for key in ("num_videos", "chance", "asked", "idt"):
        del report[key]
    assert "Video LA + IDT, tuned" in table(report)


def test_labels_cannot_give_orders_to_the_terminal():
    assert "\x1b" not in table(_report(["\x1b[2J"])) and report_table.printable("a\nb") == "a b"
