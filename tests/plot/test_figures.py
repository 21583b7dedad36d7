import json
import subprocess
import sys

import numpy as np
import pytest
from figure_samples import curves, published, results
from matplotlib.collections import PolyCollection

from kdnas.errors import InputError
from kdnas.evaluate import validate_published, validate_results
from kdnas.plot import (
    accuracy_against_length,
    accuracy_against_snr,
    accuracy_told_wrong,
    alphas_figure,
    architecture_figure,
    cost_against_budget,
    devices_figure,
    figure_to_array,
    plot_published,
    plot_run,
    ranks_figure,
    save,
    seed_bands_figure,
    trials_figure,
)
from kdnas.plot.cost import quantity
from kdnas.plot.style import label_ends, new_figure


def texts(figure):
    from matplotlib.text import Text

    return [item.get_text() for item in figure.findobj(Text)]


def line(ax, label):
    (found,) = [item for item in ax.lines if item.get_label() == label]
    return found


def test_samples_are_valid():
    assert validate_results(results())
    assert validate_published(published())


def test_figure_of_a_wrong_snr_holds_every_offset_at_full_length(tmp_path):
    document = results()
    document["mismatch"] = [
        {**row, "snr_offset_db": offset, "accuracy": row["accuracy"] - 0.02}
        for offset in (-3.0, 3.0) for row in curves() if row["channel"]
    ]  # fmt: skip
    figure = accuracy_told_wrong(validate_results(document))
    for ax, channel in zip(figure.axes, ("awgn", "rayleigh"), strict=True):
        own = [r for r in curves() if (r["channel"], r["system"], r["symbols"]) == (channel, "kdnas", 16)]
        for label, loss in (("told right", 0), ("+3 dB", 0.02), ("−3 dB", 0.02)):
            drawn = line(ax, f"kdnas {label}")
            assert list(drawn.get_ydata()) == pytest.approx([r["accuracy"] - loss for r in own])
        assert len(ax.lines) == 7  # 2 systems x 3 and the teacher
    (tmp_path / "results.json").write_text(json.dumps(document))
    assert "accuracy-told-wrong.png" in [path.name for path in plot_run(tmp_path)]


def test_a_long_channel_has_a_title_of_two_lines():
    document = results()
    for row in document["curves"]:
        if row["channel"] == "awgn":
            row["channel"] = "rayleigh(fading=fast, csi=noisy, csi_error=0.1, equaliser=zf)"
    title = accuracy_against_snr(validate_results(document)).axes[0].get_title(loc="left")
    assert title.count("\n") == 1


def test_snr_figure_holds_every_point_band_and_the_teacher():
    figure = accuracy_against_snr(results())
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["AWGN channel", "Rayleigh fading channel"]
    for ax, channel in zip(figure.axes, ("awgn", "rayleigh"), strict=True):
        assert len(ax.lines) == 5  # 2 systems x 2 lengths and the teacher
        for system in ("kdnas", "no-kd"):
            for symbols in (4, 16):
                rows = [r for r in curves() if (r["channel"], r["system"], r["symbols"]) == (channel, system, symbols)]
                drawn = line(ax, f"{system} {symbols} symbols")
                assert list(drawn.get_xdata()) == [r["snr_db"] for r in rows]
                assert list(drawn.get_ydata()) == [r["accuracy"] for r in rows]
                assert drawn.get_linestyle() == ("-" if system == "kdnas" else "--")
        assert ax.lines[-1].get_ydata()[0] == 0.83
        bands = [item for item in ax.collections if isinstance(item, PolyCollection)]
        assert len(bands) == 4
        edges = bands[0].get_paths()[0].vertices  # of no-kd at 4 symbols, drawn first
        first = next(r for r in curves() if (r["channel"], r["system"], r["symbols"]) == (channel, "no-kd", 4))
        at_first = edges[edges[:, 0] == -10.0, 1]
        assert at_first.min() == pytest.approx(first["accuracy"] - 0.02)
        assert at_first.max() == pytest.approx(first["accuracy"] + 0.02)
        assert "dB" in ax.get_xlabel()
    assert {"4 symbols", "16 symbols"} <= set(texts(figure))
    assert any("teacher" in text for text in texts(figure))


def test_order_of_rows_does_not_matter():
    shuffled = results()
    shuffled["curves"].reverse()
    first = accuracy_against_snr(results()).axes[0]
    second = next(ax for ax in accuracy_against_snr(shuffled).axes if ax.get_title(loc="left") == "AWGN channel")
    label = "kdnas 16 symbols"
    assert list(line(first, label).get_ydata()) == list(line(second, label).get_ydata())


def test_length_figure_is_against_symbols():
    figure = accuracy_against_length(results())
    ax = figure.axes[0]
    assert len(ax.lines) == 2 * 3 + 1
    drawn = line(ax, "kdnas −10 dB")
    assert list(drawn.get_xdata()) == [4, 16]
    assert "symbols" in ax.get_xlabel()
    assert ax.get_xscale() == "log"
    assert {"−10 dB", "0 dB", "10 dB"} <= set(texts(figure))


def test_a_point_without_interval_has_no_band():
    document = results()
    for row in document["curves"]:
        row["ci95"] = None
    assert not accuracy_against_snr(document).axes[0].collections


def test_curves_without_a_channel_are_refused():
    document = results()
    document["curves"] = document["curves"][-1:]
    with pytest.raises(InputError, match="curves"):
        accuracy_against_snr(document)


def test_end_labels_do_not_touch_and_keep_their_order():
    ax = new_figure(4, 4).subplots()
    ax.set_ylim(0, 1)
    label_ends(ax, 1.0, [(0.99, "a", "k"), (0.985, "b", "k"), (0.98, "c", "k"), (0.2, "d", "k")], gap=0.05)
    places = {item.get_text(): item.xyann[1] for item in ax.texts}
    assert places["a"] <= 1.0
    assert places["d"] == 0.2
    assert places["a"] - places["b"] >= 0.0499
    assert places["b"] - places["c"] >= 0.0499


def test_cost_bars_are_shares_of_the_budgets():
    figure = cost_against_budget(results())
    ax = figure.axes[0]
    encoder, channel_encoder = ax.containers
    assert [bar.get_width() for bar in encoder] == pytest.approx([50, 50, 93.75, 80])
    assert [bar.get_width() for bar in channel_encoder] == pytest.approx([25, 25, 0, 40])
    assert [bar.get_x() for bar in channel_encoder] == pytest.approx([50, 50, 93.75, 80])
    assert list(ax.lines[0].get_xdata()) == [100, 100]
    labels = [tick.get_text() for tick in ax.get_yticklabels()]
    assert labels == ["parameters", "MACs per image", "peak SRAM", "latency"]  # flash has no budget
    assert any("120 %" in text and text.endswith("over") for text in texts(figure))
    assert ax.get_xlim()[1] > 120


def test_cost_without_budgets_is_refused():
    with pytest.raises(InputError, match="budgets"):
        cost_against_budget({**results(), "budgets": {}})


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("params", 999, "999"),
        ("params", 35_440, "35.4 k"),
        ("params", 999_960, "1.0 M"),
        ("macs", 2_903_040, "2.9 M"),
        ("sram_bytes", 61_440, "60.0 KiB"),
        ("flash_bytes", 900, "900 B"),
        ("latency_s", 0.0081, "8.1 ms"),
        ("latency_s", 2.5e-5, "25 µs"),
        ("latency_s", 0.0009996, "1 ms"),
        ("latency_s", 0.0, "0 µs"),
    ],
)
def test_quantity(key, value, text):
    assert quantity(key, value) == text


def test_trials_figure_parts_the_feasible():
    figure = trials_figure(results()["search"]["trials"])
    ax = figure.axes[0]
    inside, outside, ring = ax.collections
    assert inside.get_offsets().tolist() == [[0.8, 0.7], [0.9, 0.75]]
    assert outside.get_offsets().tolist() == [[1.2, 0.8]]
    assert ring.get_offsets().tolist() == [[0.9, 0.75]]
    assert list(ax.lines[0].get_xdata()) == [1.0, 1.0]
    assert any("1 stopped early" in text for text in texts(figure))
    assert not any("stopped" in text for text in texts(trials_figure(results()["search"]["trials"][:3])))


def test_ranks_figure_tells_the_correlation():
    figure = ranks_figure(results()["search"]["ranks"])
    assert figure.axes[0].collections[0].get_offsets().tolist() == [[0.6, 0.8], [0.7, 0.82], [0.65, 0.83]]
    assert any("0.50" in text for text in texts(figure))
    assert any("not defined" in text for text in texts(ranks_figure(results()["search"]["ranks"][:1])))


def test_alphas_figure_is_the_table():
    history = results()["search"]["alphas"]
    figure = alphas_figure(history[::-1], {"kernel": [3, 5, 7]})
    ax = figure.axes[0]
    table = np.asarray(ax.images[0].get_array())
    assert table.shape == (5, 4)
    assert table[3].tolist() == [0.0, 0.25, 0.5, 0.75]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["3", "5", "7", "0", "1"]
    assert {"kernel", "skip"} <= {item.get_text() for item in ax.texts}


def test_alphas_labels_stand_left_of_the_choices():
    search = results()["search"]
    figure = alphas_figure(search["alphas"], search["choices"])
    figure_to_array(figure)
    ax, renderer = figure.axes[0], figure.canvas.get_renderer()
    left = min(tick.get_window_extent(renderer).x0 for tick in ax.get_yticklabels())
    assert max(item.get_window_extent(renderer).x1 for item in ax.texts) < left
    with pytest.raises(InputError, match="skip has 1 names for 2"):
        alphas_figure(search["alphas"], {"skip": ["only"]})


def test_many_choices_fill_several_panels_and_none_is_lost():
    labels = {f"choice{index}": [0.5, 0.3, 0.2] for index in range(40)}
    figure = alphas_figure([{"epoch": 0, "probs": labels}])
    panels = [ax for ax in figure.axes if ax.images]
    assert len(panels) == 3
    assert sum(len(ax.images[0].get_array()) for ax in panels) == 120
    assert {item.get_text() for ax in panels for item in ax.texts} == set(labels)


def test_alphas_that_change_their_form_are_refused():
    history = results()["search"]["alphas"]
    history[2]["probs"]["kernel"] = [0.5, 0.5]
    with pytest.raises(InputError, match="epoch 2"):
        alphas_figure(history)


def test_architecture_figure_shows_every_layer_inside_the_picture():
    layers = results()["search"]["layers"]
    layers[1] = {
        **layers[1],
        "name": "a long name of a block",
        "detail": "kernel 7, expansion 6, width 48, stride 2",
    }
    figure = architecture_figure(layers, "Found")
    figure_to_array(figure)
    assert len(figure.axes[0].patches) == 3 + 3  # a box and a bar each
    shown = texts(figure)
    for layer in layers:
        assert layer["name"] in shown
        assert layer["detail"] in shown
    assert "16 × 7 × 7" in shown
    renderer = figure.canvas.get_renderer()
    boxes = {item.get_text(): item.get_window_extent(renderer) for item in figure.axes[0].texts if item.get_text()}
    block = figure.axes[0].patches[2].get_window_extent(renderer)  # the second block's box
    assert boxes[layers[1]["name"]].x1 < boxes["mbconv"].x0
    assert boxes["mbconv"].x1 < boxes[layers[1]["detail"]].x0
    assert boxes[layers[1]["detail"]].x1 < block.x1
    assert max(box.x1 for box in boxes.values()) <= figure.bbox.x1


def test_devices_figure_shows_mean_and_spread_at_full_length():
    rows = published()["rows"]
    figure = devices_figure(rows)
    accuracy = figure.axes[0]
    assert [tick.get_text() for tick in accuracy.get_yticklabels()] == ["mcu", "phone"]
    for device in ("mcu", "phone"):
        for system in ("kdnas", "no-kd"):
            here = (device, system, "awgn", 10.0, 16)
            values = [
                row["accuracy"]
                for row in rows
                if (row["device"], row["system"], row["channel"], row["snr_db"], row["symbols"]) == here
            ]
            assert len(values) == 3
            expected = f"{100 * np.mean(values):.1f} ± {100 * np.std(values, ddof=1):.1f} %"
            assert expected in texts(figure)
    assert texts(figure).count("median 71.5 %") == 2
    assert len(figure.axes) == 5
    assert "20.0 k" in texts(figure)


def test_devices_figure_without_the_point_names_the_device():
    with pytest.raises(InputError, match="mcu at 7 dB"):
        devices_figure(published()["rows"], snr_db=7.0)


def test_seed_bands_are_one_standard_deviation():
    figure = seed_bands_figure(published()["rows"])
    assert len(figure.axes) == 4
    ax = figure.axes[0]  # mcu, awgn
    assert len(ax.lines) == 3
    band = ax.collections[1].get_paths()[0].vertices  # kdnas is drawn after no-kd
    at_first = band[band[:, 0] == -10.0, 1]
    mean = next(row["accuracy"] for row in curves() if row["symbols"] == 16) + 0.01
    assert (at_first.min(), at_first.max()) == pytest.approx((mean - 0.01, mean + 0.01))


def test_figure_to_array():
    array = figure_to_array(ranks_figure(results()["search"]["ranks"]))
    assert array.dtype == np.uint8
    assert array.shape == (690, 810, 3)
    assert array.flags["C_CONTIGUOUS"]
    assert 0 < (array < 128).mean() < 0.2  # ink on white


def test_plot_run_writes_pictures(tmp_path):
    (tmp_path / "results.json").write_text(json.dumps(results()))
    files = plot_run(tmp_path)
    names = {
        "accuracy-snr", "accuracy-length", "cost-budget", "architecture", "choices", "trials", "ranks",
    }  # fmt: skip
    assert {file.name for file in files} == {name + suffix for name in names for suffix in (".png", ".svg")}
    assert all(file.read_bytes().startswith((b"\x89PNG", b"<?xml")) for file in files)


def test_the_same_data_give_the_same_bytes(tmp_path):
    first, second = (
        [file.read_bytes() for file in save(cost_against_budget(results()), tmp_path / name)] for name in "ab"
    )
    assert first == second


def test_plot_run_draws_what_there_is(tmp_path):
    document = results()
    del document["search"]
    document["budgets"] = {}
    (tmp_path / "results.json").write_text(json.dumps(document))
    assert {file.stem for file in plot_run(tmp_path)} == {"accuracy-snr", "accuracy-length"}


def test_plot_run_names_the_bad_key_and_the_file(tmp_path):
    document = results()
    document["curves"][2]["snr_db"] = "ten"
    (tmp_path / "results.json").write_text(json.dumps(document))
    with pytest.raises(InputError, match=r"results\.json: curves\[2\]\.snr_db"):
        plot_run(tmp_path)
    with pytest.raises(InputError, match="cannot read"):
        plot_run(tmp_path / "nowhere")


def test_plot_published(tmp_path):
    table = published()
    (tmp_path / "quick.json").write_text(json.dumps(table))
    files = plot_published(tmp_path / "quick.json", tmp_path / "out")
    assert sorted(file.name for file in files) == [
        "quick-devices.png", "quick-devices.svg", "quick-snr.png", "quick-snr.svg",
    ]  # fmt: skip
    table["rows"][5]["device"] = 3
    (tmp_path / "quick.json").write_text(json.dumps(table))
    with pytest.raises(InputError, match=r"rows\[5\]\.device"):
        plot_published(tmp_path / "quick.json", tmp_path / "out")


def test_importing_the_room_does_not_import_matplotlib_or_torch():
    code = "import sys, kdnas.plot; print([m for m in ('matplotlib', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
