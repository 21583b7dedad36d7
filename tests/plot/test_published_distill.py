import copy
import json
import subprocess
import sys

import numpy as np
import pytest
from distill_samples import ROWS, all_labels, few_labels, loss_ablation, stages, store, tailor
from drawn import boxes_of, line, means_of, names, seeds_of, texts
from matplotlib.collections import PolyCollection
from matplotlib.patches import Rectangle

from kdnas import api
from kdnas.errors import InputError
from kdnas.evaluate.results import table_kind, validate_table
from kdnas.plot import (
    all_labels_figure,
    few_labels_figure,
    loss_ablation_figure,
    stages_figure,
    store_figure,
    tailor_figure,
)
from kdnas.plot.pairs import paired_points, std_of, two_errors

FIGURES = {
    "few labels": few_labels_figure, "all labels": all_labels_figure, "store": store_figure, "tailor": tailor_figure,
    "stages": stages_figure, "loss ablation": loss_ablation_figure,
}  # fmt: skip


def table(rows):
    return {"command": "made up", "rows": rows}


def changed(kind, index=0, **changes):
    rows = copy.deepcopy(ROWS[kind]())
    rows[index].update(changes)
    return table(rows)


def without(kind, key, index=0):
    document = changed(kind)
    del document["rows"][index][key]
    return document


def spreads_of(ax):
    """Half-widths of the horizontal intervals."""
    return [np.ptp(bars.get_segments()[0][:, 0]) / 2 for c in ax.containers for bars in c.lines[2]]


@pytest.mark.parametrize("only", ["one seed", "all"])
@pytest.mark.parametrize("kind", ROWS)
def test_texts_are_inside_the_picture_and_no_two_overlap(kind, only):
    rows = ROWS[kind]()
    if only == "one seed":
        rows = [row for row in rows if row["seed"] == 0 and row["dataset"] == rows[0]["dataset"]]
    figure = FIGURES[kind](rows)
    boxes = boxes_of(figure)
    assert len(boxes) > 10
    for index, (text, box) in enumerate(boxes):
        assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1, text
        assert figure.bbox.y0 <= box.y0 and box.y1 <= figure.bbox.y1, text
        assert [other for other, second in boxes[index + 1 :] if box.overlaps(second)] == [], text


@pytest.mark.parametrize("kind", ROWS)
def test_every_kind_is_told_by_its_rows_and_drawn_by_the_same_verb(kind, tmp_path):
    rows = ROWS[kind]()
    assert validate_table(table(rows)) == kind
    few = [row for row in rows if row["dataset"] == rows[0]["dataset"] and row["seed"] == 0]
    (tmp_path / "some.json").write_text(json.dumps(table(few)))
    files = api.plot(tmp_path / "some.json", tmp_path / "out")
    assert [file.name for file in files] == ["some.png", "some.svg"]
    assert all(file.read_bytes().startswith((b"\x89PNG", b"<?xml")) for file in files)


def test_kinds_with_the_same_keys_are_told_apart():
    few = [{**row, "epochs": 3} for row in few_labels()]
    assert table_kind(table(few)) == "few labels"
    assert table_kind(table([row for row in few if row["labels"] == "all"])) == "all labels"
    ablation = [{**row, "epochs": 3} for row in loss_ablation()]
    assert ablation[0]["system"] == "full"
    assert table_kind(table(ablation)) == "loss ablation"
    wide = [{**row, "device": "mcu", "labels": 1000, "symbols": 16, "ci95": 0.01} for row in stages()]
    assert table_kind(table(wide)) == "stages"


@pytest.mark.parametrize("kind", ROWS)
def test_a_key_forgotten_is_named_whichever_it_is(kind):
    optional = {"ci95", "teacher_accuracy", "images", "dims", "steps"}
    needed = [key for key in ROWS[kind]()[0] if key not in optional or (kind, key) == ("tailor", "steps")]
    assert len(needed) >= 5
    for key in needed:
        if (kind, key) == ("all labels", "epochs"):
            continue  # then it is a table of few labels
        with pytest.raises(InputError, match=f"which needs also: {key}$") as caught:
            validate_table(without(kind, key))
        own = "few labels" if kind == "loss ablation" else kind  # told apart by what stands under the keys
        assert f"nearest to {own}," in str(caught.value)


def test_few_labels_shows_means_bands_seeds_and_the_teacher():
    rows = few_labels()
    figure = few_labels_figure(rows)
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["fashion-mnist", "cifar10-jpeg"]
    for ax, (dataset, images) in zip(figure.axes, (("fashion-mnist", 60_000), ("cifar10-jpeg", 50_000)), strict=True):
        places = [100, 500, 1000, 5000, images]
        own = {
            (row["labels"], row["system"], row["seed"]): row["accuracy"] for row in rows if row["dataset"] == dataset
        }
        values = np.array([[own[labels, "kd", seed] for seed in range(3)] for labels in (100, 500, 1000, 5000, "all")])
        drawn = line(ax, "KD on labelled")
        assert list(drawn.get_xdata()) == places
        assert drawn.get_ydata() == pytest.approx(values.mean(1))
        bands = [item for item in ax.collections if isinstance(item, PolyCollection)]
        assert len(bands) == 5
        low = min(y for x, y in bands[1].get_paths()[0].vertices if x == 100)
        assert low == pytest.approx(values[0].mean() - values[0].std(ddof=1))
        (small,) = [item for item in ax.lines if item.get_marker() == "s" and item.get_markersize() < 3]
        assert sorted(small.get_ydata()) == pytest.approx(sorted(values.flat))
        teacher = {(row["labels"], row["seed"]): row["teacher_accuracy"] for row in rows if row["dataset"] == dataset}
        mean = np.mean([teacher[500, seed] for seed in range(3)])
        assert line(ax, "teacher").get_ydata()[1] == pytest.approx(mean)
        assert ax.get_xscale() == "log"
        assert [tick.get_text() for tick in ax.get_xticklabels()][:4] == ["100", "500", "1k", "5k"]
        assert [tick.get_text() for tick in ax.get_xticklabels()][4] == f"all\n({images // 1000}k)"


def test_few_labels_without_optional_keys():
    keys = ("dataset", "labels", "system", "seed", "accuracy")
    rows = [{key: row[key] for key in keys} for row in few_labels() if row["seed"] == 0]
    figure = few_labels_figure(rows)
    ticks = figure.axes[0].get_xticks()
    assert list(ticks) == [100, 500, 1000, 5000, 20_000]
    assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()][4] == "all"
    assert not figure.axes[0].collections
    assert not {"teacher, same labels", "± 1 std over seeds"} & set(texts(figure))


def test_all_labels_shows_pairs_differences_and_the_goal():
    figure = all_labels_figure(all_labels())
    accuracy, change, _, second = figure.axes
    assert accuracy.get_title(loc="left") == "fashion-mnist, all labels, 30.7 epochs"
    assert names(accuracy) == ["KD on labelled", "everything"]
    assert seeds_of(accuracy)[0] == pytest.approx([0.919, 0.919 + 0.0058])
    assert len(seeds_of(accuracy)) == 6
    assert seeds_of(change)[0] == pytest.approx([0.58, 0.62, 0.66])
    assert means_of(change) == pytest.approx([0.62, 0.78])
    assert spreads_of(change) == pytest.approx([0.04, 0.04])
    assert 0.5 in [item.get_xdata()[0] for item in change.lines]
    assert [text.get_text() for text in second.texts] == ["+0.34 ± 0.04", "+0.96 ± 0.04"]
    assert change.get_xlim() == second.get_xlim()


def test_all_labels_compares_each_student_with_itself():
    rows = [{**row, "architecture": "small", "params": 14_564} for row in all_labels()]
    rows += [{**row, "architecture": "large", "params": 33_040, "accuracy": row["accuracy"] + 0.01} for row in rows]
    axes = all_labels_figure(rows).axes
    assert [ax.get_title(loc="left") for ax in axes[:4:2]] == [
        "fashion-mnist, all labels, 30.7 epochs, 15k params", "cifar10-jpeg, all labels, 30.7 epochs, 15k params",
    ]  # fmt: skip
    assert len(axes) == 8 and axes[4].get_title(loc="left").endswith("33k params")
    assert means_of(axes[5]) == pytest.approx(means_of(axes[1]))


def test_all_labels_needs_a_system_to_compare_and_ce_to_compare_to():
    with pytest.raises(InputError, match=r"rows: no row of a system but ce \(fashion-mnist\)"):
        all_labels_figure([row for row in all_labels() if row["system"] == "ce"])
    with pytest.raises(InputError, match=r"rows: kd and ce have no seed in common \(fashion-mnist, all\)"):
        all_labels_figure([row for row in all_labels() if row["system"] != "ce"])


def test_pairs_are_of_the_same_seed():
    rows = [{"system": "a", "seed": seed, "accuracy": 0.5 + 0.1 * seed} for seed in (2, 0, 1)]
    rows += [{"system": "b", "seed": seed, "accuracy": 0.4} for seed in (1, 2, 7)]
    assert paired_points(rows, "a", "b") == pytest.approx([20, 30])
    assert paired_points(rows, "b", "b") == [0, 0, 0]
    assert std_of([1.0, 2.0, 4.0]) == pytest.approx(np.std([1, 2, 4], ddof=1))
    assert two_errors([1.0, 2.0, 4.0]) == pytest.approx(2 * np.std([1, 2, 4], ddof=1) / 3**0.5)
    assert std_of([1.0]) is two_errors([1.0]) is None


def test_store_shows_bytes_accuracy_and_times():
    figure = store_figure(store())
    accuracy, epoch, live, *_ = figure.axes
    assert accuracy.get_title(loc="left") == "cifar10-jpeg: accuracy; 5 % of an image: 154 B"
    assert accuracy.get_xscale() == "log"
    assert 0.05 * 3072 in [item.get_xdata()[0] for item in accuracy.lines]
    points = [(c.lines[0].get_xdata()[0], c.lines[0].get_ydata()[0]) for c in accuracy.containers]
    assert points[0] == pytest.approx((2560, 0.84))
    assert points[2] == pytest.approx((154, 0.8385))
    band = accuracy.patches[0].get_extents().transformed(accuracy.transData.inverted())
    assert (band.y0, band.y1) == pytest.approx((0.837, 0.84))
    assert line(accuracy, "none").get_ydata()[0] == pytest.approx(0.826)
    assert {"no teacher", "live teacher"} <= {text.get_text() for text in accuracy.texts}
    assert names(epoch)[0] == "fp16\n1,280 dims, 2560 B"
    assert names(epoch)[4] == "fp16, top-10 logits\n60 B"
    ratios = [(9.5 * 1.19 + 0.06 * seed) / (9.5 + 0.05 * seed) for seed in range(3)]
    assert epoch.patches[0].get_width() == pytest.approx(np.mean(ratios))
    assert [text.get_color() == "#D55E00" for text in epoch.texts] == [False] * 5 + [True]
    assert {item.get_xdata()[0] for item in epoch.lines if item.get_color() == "#D55E00"} >= {1.05, 1.25}
    lives = [(9.5 * 7.4 + seed) / (9.5 + 0.05 * seed) for seed in range(3)]
    assert [bar.get_width() for bar in live.patches] == pytest.approx([np.mean(lives)] * 6)


def test_store_needs_a_stored_form_and_one_size_of_images():
    with pytest.raises(InputError, match=r"rows: no row of cifar10-jpeg has bytes_per_view"):
        store_figure([row for row in store() if row["form"] in ("none", "live")])
    with pytest.raises(InputError, match=r"rows: image_bytes of fashion-mnist has several values"):
        store_figure([*store(), {**store()[-1], "image_bytes": 785}])


def test_tailor_shows_floors_units_energy_and_what_binds():
    rows = tailor()
    figure = tailor_figure(rows)
    accuracy, units, energy = figure.axes
    assert names(accuracy)[:3] == ["sensor-a\n(mcu)", "sensor-b\n(mcu)", "watch\n(wearable)"]
    assert names(accuracy)[6] == "gateway"
    floors = [item.get_xdata()[0] for item in accuracy.lines if item.get_linewidth() == 2.2]
    assert floors == [0.78, 0.83, 0.82, 0.845, 0.85, 0.86, 0.87, 0.88]
    assert means_of(accuracy)[:3] == pytest.approx([0.792, 0.794, 0.768])
    assert spreads_of(accuracy)[0] == pytest.approx(0.003)
    faces = [c.lines[0].get_markerfacecolor() for c in accuracy.containers]
    assert [face == "white" for face in faces[:3]] == [False, False, True]
    assert [face == "white" for face in faces[6:9]] == [False, True, True]  # the watch's static: one seed of three
    assert units.get_xscale() == "symlog"
    assert means_of(units)[:3] == pytest.approx([28_800, 768_000, 0])
    bars = [bar for bar in energy.patches if isinstance(bar, Rectangle)][:2]
    most = 4e-6 * 1.06
    assert bars[0].get_width() == pytest.approx(0.3 * 4e-6 * 0.8 * 1.03 / most)
    assert bars[1].get_x() == bars[0].get_width()
    assert bars[0].get_width() + bars[1].get_width() == pytest.approx(4e-6 * 0.8 * 1.03 / most)
    written = [text.get_text() for text in energy.texts]
    assert written[0] == "3.3 µJ"
    assert "infeasible: distillation budget (1 of 3 seeds)" in written
    assert written.count("infeasible: accuracy") == 7 + 3


def test_tailor_draws_what_found_nothing():
    rows = tailor()
    keys = ("accuracy", "latency_s", "latency_compute_s", "energy_j", "energy_compute_j", "symbols", "units")
    empty = {**dict.fromkeys(keys), "feasible": False, "binding": "deadline"}
    rows = [{**row, **empty} if row["device"] == "glasses" else row for row in rows]
    assert validate_table(table(rows)) == "tailor"
    figure = tailor_figure(rows)
    assert [text.get_text() for text in figure.axes[2].texts].count("infeasible: deadline") == 3
    assert len(means_of(figure.axes[0])) == 3 * 7


def test_stages_shows_bands_and_paired_differences():
    rows = stages()
    figure = stages_figure(rows)
    above, rayleigh, below, _ = figure.axes
    assert [ax.get_title(loc="left") for ax in (above, rayleigh)] == ["AWGN channel", "Rayleigh fading channel"]
    value = {(row["system"], row["snr_db"], row["seed"]): row["accuracy"] for row in rows if row["channel"] == "awgn"}
    drawn = line(above, "codec only")
    assert list(drawn.get_xdata()) == [-10, -5, 0, 5, 10, 15, 20]
    assert drawn.get_ydata()[3] == pytest.approx(np.mean([value["codec-only", 5.0, seed] for seed in range(5)]))
    assert len([item for item in above.collections if isinstance(item, PolyCollection)]) == 6
    assert [c.get_label() for c in below.containers] == [
        "one stage", "codec only", "rising SNR", "consistency", "noise on features",
    ]  # fmt: skip
    rising = below.containers[2]
    points = [100 * (value["rising-snr", 20.0, seed] - value["two-stage", 20.0, seed]) for seed in range(5)]
    assert rising.lines[0].get_ydata()[-1] == pytest.approx(np.mean(points))
    interval = rising.lines[2][0].get_segments()[-1][:, 1]
    assert np.ptp(interval) / 2 == pytest.approx(2 * np.std(points, ddof=1) / 5**0.5)
    places = [c.lines[0].get_xdata()[0] for c in below.containers]
    assert len(set(places)) == 5 and np.ptp(places) < 2  # beside each other, and nearer to their SNR than to another


def test_stages_of_other_names_and_channels_are_drawn_too():
    rows = [{**row, "system": row["system"].replace("one-stage", "frozen codec")} for row in stages()]
    rows = [{**row, "channel": "erasure", "dataset": name} for row in rows for name in "ab" if row["channel"] == "awgn"]
    figure = stages_figure(rows)
    assert [ax.get_title(loc="left") for ax in figure.axes[:2]] == ["a, erasure", "b, erasure"]
    own = line(figure.axes[0], "frozen codec")
    colours = [item.get_color() for item in figure.axes[0].lines]
    assert len(set(colours)) == len(colours) == 6
    assert own.get_ydata()[0] > 0


def test_stages_need_two_stages_to_compare_to():
    with pytest.raises(InputError, match=r"one-stage and two-stage have no seed in common \(fashion-mnist, awgn, -10"):
        stages_figure([row for row in stages() if row["system"] != "two-stage"])


def test_loss_ablation_shows_paired_changes():
    rows = loss_ablation()
    figure = loss_ablation_figure(rows)
    ax = figure.axes[0]
    assert ax.get_title(loc="left") == "fashion-mnist, 1,000 labels: the whole loss has 83.1 %"
    assert names(ax)[:2] == ["without cross-entropy", "without features"]
    assert names(ax)[-3:] == ["the default weights", "cross-entropy alone", "logits alone"]
    value = {(row["system"], row["seed"]): row["accuracy"] for row in rows if row["dataset"] == "fashion-mnist"}
    points = [100 * (value["no-ce", seed] - value["full", seed]) for seed in range(3)]
    assert seeds_of(ax)[0] == pytest.approx(points)
    assert means_of(ax)[0] == pytest.approx(np.mean(points))
    assert spreads_of(ax)[0] == pytest.approx(2 * np.std(points, ddof=1) / 3**0.5)
    assert ax.texts[0].get_text() == "−1.30 ± 0.20"
    with pytest.raises(InputError, match=r"rows: no-ce and full have no seed in common \(fashion-mnist, 1000\)"):
        loss_ablation_figure([row for row in rows if row["system"] != "full"])


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (without("few labels", "accuracy"), "nearest to few labels, which needs also: accuracy"),
        (without("tailor", "binding"), "nearest to tailor, which needs also: binding"),
        (without("stages", "snr_db"), "nearest to stages, which needs also: snr_db"),
        (without("store", "accuracy", 3), "rows[3].accuracy: Field required"),
        (changed("few labels", 2, system="kd_all"), "rows[2].system: Input should be 'ce', 'kd', 'kd-all', 'ib' or"),
        (changed("few labels", 2, labels=0), "rows[2].labels"),
        (changed("few labels", 0, labels=60_001), "rows[0]: 60001 labels are more than the 60000 images"),
        (changed("few labels", 3, teacher_accuracy=91), "rows[3].teacher_accuracy: Input should be less than or equal"),
        (changed("all labels", 1, epochs=0), "rows[1].epochs: Input should be greater than 0"),
        (changed("all labels", 1, system="kd", dataset="cifar10-jpeg"), "repeats an earlier row (same dataset, labels"),
        (changed("loss ablation", 4, system="ce"), "rows[4].system: String should match pattern"),
        (changed("store", 0, epoch_no_teacher_s=0), "rows[0].epoch_no_teacher_s: Input should be greater than 0"),
        (changed("store", 0, bytes_per_view=-1), "rows[0].bytes_per_view"),
        (changed("tailor", 1, energy_compute_j=1.0), "rows[1]: energy_compute_j is above energy_j, which holds it"),
        (changed("tailor", 1, latency_compute_s=None), "rows[1]: latency_s and latency_compute_s must both be null"),
        (changed("tailor", 0, accuracy=None), "rows[0]: accuracy is null though feasible is true"),
        (changed("tailor", 2, binding=None), "rows[2]: binding is null though feasible is false"),
        (changed("tailor", 2, system="adaptive"), "rows[2].system: Input should be 'dynamic', 'static' or 'none'"),
        (changed("stages", 5, snr_db="0"), "rows[5].snr_db: Input should be a valid number"),
        (changed("stages", 1, seed=0), "rows[1] repeats an earlier row (same dataset, channel, system, snr_db, seed)"),
    ],
)  # fmt: skip
def test_a_bad_table_is_refused_in_one_line(document, message, tmp_path):
    (tmp_path / "bad.json").write_text(json.dumps(document))
    with pytest.raises(InputError) as caught:
        api.plot(tmp_path / "bad.json")
    assert str(caught.value).startswith(str(tmp_path / "bad.json") + ": ") and message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [file.name for file in tmp_path.iterdir()] == ["bad.json"]


def test_importing_the_figures_does_not_import_matplotlib_or_torch():
    code = "import sys, kdnas.plot; print([m for m in ('matplotlib', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
