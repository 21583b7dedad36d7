"""Every channel of the registry, with every option that matters, passes the suite that users run on theirs."""

import pytest
from channel_samples import NAMES, TRACE_OPTIONS, VARIANTS

from kdnas.channel import list_channels
from kdnas.testing import check_channel

TRACE = "snr_db,h_re,h_im\n12,0.5,-0.5\n9,1,0.25\n7,-0.25,0.75\n-3,0.1,0\n15,0.6,0.6\n"


def test_no_channel_is_left_out():
    assert {*NAMES, "trace"} == set(list_channels())


@pytest.mark.parametrize("name", VARIANTS)
def test_channel_is_what_it_says(name):
    assert check_channel(name) is None


@pytest.mark.parametrize("options", TRACE_OPTIONS)
def test_trace_is_what_it_says(tmp_path, options):
    path = tmp_path / "trace.csv"
    path.write_text(TRACE)
    assert check_channel(f"trace(file={path}, {options})" if options else f"trace(file={path})") is None


def test_interference_of_a_short_prefix_is_in_the_effective_snr():
    # The first OFDM symbol loses what leaks out of it, and has nothing before it: its mean gain is a little lower.
    name = "multipath(taps=6, spread=3, cp=1, carriers=8)"
    assert check_channel(name, samples=5000, snrs_db=(15.0,), gain_tolerance_db=0.3) is None
