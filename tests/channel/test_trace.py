"""A measured trace: what is read, how it drives the channel, and faults told with their line."""

import math

import pytest
import torch

from kdnas.channel import ImageNoise, get_channel
from kdnas.channel.trace import read_trace
from kdnas.errors import InputError


@pytest.fixture
def write(tmp_path):
    def write(text, name="trace.csv"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


def test_gains_are_the_rows_over_their_mean_power(write):
    trace = read_trace(write("time,snr_db\n0,10\n1,20\n2,0\n"))
    power = torch.tensor([10.0, 100.0, 1.0])
    assert torch.allclose(trace.gains.abs().square(), power / 37)
    assert trace.mean_snr_db == pytest.approx(10 * math.log10(37))
    assert trace.mean**2 + trace.variance == pytest.approx(1)


def test_complex_gains_multiply_and_the_mean_has_phase_zero(write):
    trace = read_trace(write("h_im, h_re, snr_db\n1, 0, 0\n2, 0, 0\n"))
    assert torch.allclose(trace.gains, torch.tensor([1.0, 2.0]) / math.sqrt(2.5) + 0j, atol=1e-6)
    assert trace.mean == pytest.approx(1.5 / math.sqrt(2.5))


def test_at_its_own_mean_snr_the_link_meets_what_was_measured(write):
    path = write("snr_db\n10\n20\n0\n-7\n")
    channel = get_channel(f"trace(file={path})")
    snr = torch.full((4000,), channel.law.mean_snr_db)
    state = channel.sample(4000, 2, snr, torch.Generator().manual_seed(0))
    _, effective = channel.equalise(torch.zeros(4000, 2, dtype=torch.complex64), state, snr)
    rows, counts = effective.round().unique(return_counts=True)
    assert rows.tolist() == [-7, 0, 10, 20]
    assert ((counts / 4000 - 0.25).abs() < 5 * math.sqrt(0.25 * 0.75 / 4000)).all()  # rows are equally likely


def test_fast_fading_goes_along_the_trace_and_round(write):
    channel = get_channel(f"trace(file={write('snr_db' + ''.join(f'{chr(10)}{n}' for n in range(5)))}, fading=fast)")
    h = channel.sample(50, 12, torch.zeros(50), ImageNoise(torch.arange(50))).h
    power = 20 * h.abs().log10()
    steps = (power[:, 1:] - power[:, :-1]).round()
    assert set(steps.unique().tolist()) == {1, -4}
    assert set((power[:, 0] - power.min()).round().unique().tolist()) == {0, 1, 2, 3, 4}  # every start is drawn


def test_a_changed_file_is_read_again(write):
    path = write("snr_db\n1\n")
    assert read_trace(path).mean_snr_db == pytest.approx(1)
    write("snr_db\n11\n")
    assert read_trace(path).mean_snr_db == pytest.approx(11)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("snr\n1\n", "line 1: a trace has the column snr_db"),
        ("snr_db,h_re\n1,2\n", "line 1: a trace has the column"),
        ("", "line 1"),
        ("snr_db\n", "no rows"),
        ("snr_db\n1\nloud\n", "line 3: snr_db .* not 'loud'"),
        ("snr_db,h_re,h_im\n1,1,1\n2,1\n", "line 3: h_im .* not ''"),
        ("snr_db\n1\ninf\n", "line 3: .* not 'inf'"),
        ("snr_db,h_re,h_im\n1,0,0\n", "needs a signal"),
    ],
)
def test_faults_are_told_with_their_line(write, text, message):
    with pytest.raises(InputError, match=message):
        read_trace(write(text))


def test_a_missing_file_and_one_that_is_no_text_are_told(tmp_path):
    with pytest.raises(InputError, match="cannot read the trace"):
        get_channel(f"trace(file={tmp_path / 'none.csv'})")
    (tmp_path / "picture.csv").write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(InputError, match="no CSV file"):
        read_trace(tmp_path / "picture.csv")
