"""Small tables about the codec, of the form that their figures are drawn from."""

import math

SNRS, LENGTHS, CHANNELS = (-10.0, -5.0, 0.0, 5.0, 10.0, 15.0, 20.0), (4, 8, 16, 32, 64), ("awgn", "rayleigh")


def _accuracy(dataset, channel, snr_db, symbols, seed):
    top = {"fashion-mini": 0.84, "cifar10-jpeg": 0.71}[dataset]
    spread = 1.0 if channel == "awgn" else 2.0
    arrived = 1 / (1 + math.exp(-(snr_db + 3 * math.log2(symbols / 4) + 4) / (3 * spread)))
    return 0.1 + (top - 0.1) * arrived + 0.004 * (seed - 1)


def _points(datasets=("fashion-mini", "cifar10-jpeg")):
    return [
        {"dataset": d, "channel": c, "symbols": n, "snr_db": s, "seed": seed, "ci95": 0.01,
         "accuracy": _accuracy(d, c, s, n, seed)}
        for d in datasets for seed in range(3) for c in CHANNELS for n in LENGTHS for s in SNRS
    ]  # fmt: skip


def one_model():
    return [
        {**row, "system": system, "accuracy": row["accuracy"] - worse * (1 + row["seed"]) / row["symbols"]}
        for row in _points() for system, worse in (("one-model", 0.03), ("dedicated", 0.0))
    ]  # fmt: skip


def constellation():
    costs = {"none": 0.0, "qpsk": 0.02, "16qam": 0.008, "64qam": 0.003, "256qam": 0.001}
    return [
        {**row, "constellation": name, "accuracy": row["accuracy"] - cost * (1 + 0.2 * row["seed"])}
        for row in _points() for name, cost in costs.items()
    ]  # fmt: skip


def told_wrong():
    return [
        {**row, "system": system, "snr_offset_db": offset, "accuracy": row["accuracy"] - cost * abs(offset)}
        for row in _points() for offset in (-3.0, 0.0, 3.0)
        for system, cost in (("one-model", 0.001 * (1 + row["seed"])), ("told-wrong", 0.0002))
    ]  # fmt: skip


def trained_on():
    costs = {"all": 0.0, "awgn": 0.04, "rayleigh": 0.01}
    return [
        {**row, "trained_on": name, "accuracy": row["accuracy"] - cost * (1 + 0.2 * row["seed"])}
        for row in _points() for name, own in costs.items() for cost in [own * (row["channel"] != name)]
    ]  # fmt: skip


def adaptation():
    rows = []
    for dataset in ("fashion-mini", "cifar10-jpeg"):
        for seed in range(3):
            for channel in CHANNELS:
                base = {"dataset": dataset, "channel": channel, "seed": seed}
                fixed = [_accuracy(dataset, channel, 0.0, n, seed) for n in LENGTHS]
                rows += [
                    {**base, "system": "fixed", "target": None, "mean_symbols": n, "accuracy": accuracy,
                     "promised": None, "met": None}
                    for n, accuracy in zip(LENGTHS, fixed, strict=True)
                ]  # fmt: skip
                rows += [
                    {**base, "system": "adaptive", "target": target, "mean_symbols": 0.6 * n, "promised": 0.8,
                     "accuracy": accuracy + 0.01, "met": 0.7}
                    for target, n, accuracy in zip((0.4, 0.5, 0.6, 0.7, 0.8), LENGTHS, fixed, strict=True)
                ]  # fmt: skip
    return rows


ROWS = {
    "adaptation": adaptation, "one model": one_model, "constellation": constellation, "told wrong": told_wrong,
    "trained on": trained_on,
}  # fmt: skip
