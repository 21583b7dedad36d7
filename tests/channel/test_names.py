"""One small grammar for channels with options; what is wrong in it is told in one line."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdnas.channel import CHANNELS, describe_channel, get_channel, list_channels, parse_channel
from kdnas.channel.awgn import Awgn
from kdnas.errors import InputError

words = st.from_regex(r"[A-Za-z0-9_]+", fullmatch=True)
values = st.text(st.characters(codec="ascii", exclude_characters="=,()", exclude_categories=("C",)), min_size=1).map(
    str.strip
)
blanks = st.sampled_from(["", " ", "  "])


@settings(max_examples=50)
@given(words, st.dictionaries(words, values.filter(bool), max_size=4), blanks)
def test_what_is_written_is_read(name, options, blank):
    inside = f"{blank},{blank}".join(f"{key}{blank}={blank}{value}" for key, value in options.items())
    text = f"{blank}{name}{blank}({blank}{inside}{blank}){blank}" if options or blank else name
    assert parse_channel(text) == (name, options)


@given(st.text(max_size=30))
def test_any_text_is_a_channel_or_one_line(text):
    try:
        assert get_channel(text) is not None
    except InputError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ether", "unknown channel 'ether'; choose one of awgn, erasure"),
        ("ricean", "did you mean 'rician'"),
        ("raileigh(fading=fast)", "did you mean 'rayleigh'"),
        ("awgn(k=1)", "unknown option 'k'; it has none"),
        ("rician(kdb=1)", "unknown option 'kdb'; did you mean 'k_db'"),
        ("rician(x=1)", "its options are k_db, fading"),
        ("rician(k_db=high)", "k_db is a number, not 'high'"),
        ("rician(k_db=nan)", "k_db is a number, not 'nan'"),
        ("multipath(taps=2.5)", "taps is a whole number, not '2.5'"),
        ("rayleigh(fading=slow)", "fading is one of block, fast, not 'slow'"),
        ("rayleigh(csi=noisy, csi=none)", "gives 'csi' twice"),
        ("rayleigh(fast)", "'fast' should read OPTION=VALUE"),
        ("rayleigh(fading=fast", "write NAME or NAME"),
        ("rayleigh fast", "write NAME or NAME"),
        ("", "write NAME or NAME"),
        ("trace", "needs its option 'file'"),
    ],
)
def test_faults_are_named(text, message):
    with pytest.raises(InputError, match=message):
        get_channel(text)


def test_a_channel_is_described_with_its_options():
    assert describe_channel("awgn") == "awgn"
    assert describe_channel("trace") == "trace(file=TEXT, fading=block|fast, csi=perfect|none, equaliser=mmse|zf)"
    assert describe_channel("erasure") == "erasure(p=0.1, burst=NUMBER, csi=perfect|none)"
    assert describe_channel("rician").startswith("rician(k_db=6.0, fading=block|fast, csi=perfect|noisy|none, csi_e")
    for name in set(list_channels()) - {"trace"}:  # words come with the default first
        _, options = parse_channel(describe_channel(name).replace("NUMBER", "1"))
        words = {key: value.split("|")[0] for key, value in options.items() if "|" in value}
        text = f"{name}({', '.join(f'{key}={value}' for key, value in words.items())})"
        made, plain = (vars(get_channel(one)) for one in (text, name))
        assert all(made[key] == plain[key] for key in plain if key != "profile")


def test_a_users_own_channel_is_found_with_its_options(monkeypatch):
    class Own(Awgn):
        def __init__(self, level: "int | None" = None):
            self.level = level

    monkeypatch.setitem(CHANNELS, "own", Own)
    assert get_channel("own(level=3)").level == 3 and get_channel("own").level is None
    assert "own" in list_channels()
