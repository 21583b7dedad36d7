"""Small documents of every form that figures are drawn from."""

import math


def curves():
    rows = []
    for channel in ("awgn", "rayleigh"):
        for system, loss in (("kdnas", 0.0), ("no-kd", 0.03)):
            for symbols in (4, 16):
                for snr_db in (-10.0, 0.0, 10.0):
                    gain = 1 / (1 + math.exp(-(snr_db + symbols / 4) / 4))
                    accuracy = 0.2 + (0.65 - loss) * gain
                    rows.append(
                        {
                            "system": system,
                            "channel": channel,
                            "snr_db": snr_db,
                            "symbols": symbols,
                            "accuracy": accuracy,
                            "ci95": 0.02,
                            "n": 2000,
                        }
                    )
    free = {"channel": None, "snr_db": None, "symbols": None}
    rows.append({"system": "teacher", **free, "accuracy": 0.83, "ci95": 0.016, "n": 2000})
    return rows


def results():
    keys = ("params", "macs", "sram_bytes", "flash_bytes", "latency_s")
    return {
        "schema": 1,
        "device": "wearable",
        "dataset": "fashion-mini",
        "seed": 0,
        "labels": 1000,
        "transmitter": dict(zip(keys, (45_000, 3_000_000, 61_440, 50_000, 0.009), strict=True)),
        "encoder": dict(zip(keys, (30_000, 2_000_000, 61_440, 35_000, 0.006), strict=True)),
        "budgets": {"params": 60_000, "macs": 4_000_000, "sram_bytes": 65_536, "latency_s": 0.0075},
        "teacher": {"name": "efficientnet-lite0", "params": 3_384_000, "accuracy": 0.83},
        "curves": curves(),
        "search": {
            "layers": [
                {
                    "name": "stem",
                    "kind": "conv",
                    "detail": "3×3, stride 2",
                    "shape": [8, 14, 14],
                    "params": 100,
                },
                {
                    "name": "block 1",
                    "kind": "mbconv",
                    "detail": "kernel 5",
                    "shape": [16, 7, 7],
                    "params": 900,
                },
                {"name": "block 2", "kind": "skip", "detail": "", "shape": [16, 7, 7], "params": 0},
            ],
            "alphas": [
                {"epoch": epoch, "probs": {"kernel": [0.2, 0.3, 0.5], "skip": [epoch / 4, 1 - epoch / 4]}}
                for epoch in range(4)
            ],
            "choices": {"kernel": [3, 5, "sep_conv_7x7"]},
            "trials": [
                {"number": 0, "accuracy": 0.7, "ratio": 0.8, "feasible": True},
                {"number": 1, "accuracy": 0.75, "ratio": 0.9, "feasible": True},
                {"number": 2, "accuracy": 0.8, "ratio": 1.2, "feasible": False},
                {"number": 3, "accuracy": None, "ratio": None, "feasible": False},
            ],
            "ranks": [
                {"trial_accuracy": 0.6, "trained_accuracy": 0.8},
                {"trial_accuracy": 0.7, "trained_accuracy": 0.82},
                {"trial_accuracy": 0.65, "trained_accuracy": 0.83},
            ],
        },
    }


def published():
    rows = []
    for device, lift in (("mcu", 0.0), ("phone", 0.04)):
        costs = {"params": 20_000, "macs": 1_000_000, "sram_bytes": 32_768, "flash_bytes": 20_000}
        table = {"device": device, "dataset": "fashion-mini", "labels": 1000, **costs}
        for seed in range(3):
            for row in curves():
                row.pop("n")
                row["accuracy"] += lift + 0.01 * seed
                rows.append({**table, **row, "seed": seed})
        for index in range(4):
            point = {"channel": "awgn", "snr_db": 10.0, "symbols": 16}
            random = {"system": f"random-{index}", "seed": 0, "accuracy": 0.7 + 0.01 * index, "ci95": None}
            rows.append({**table, **point, **random})
    return {"command": "python scripts/benchmark.py", "rows": rows}
