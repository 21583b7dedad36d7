"""Small tables about distillation, of the form that their figures are drawn from."""

import math


def few_labels():
    gains = {"ce": 0.0, "kd": 0.02, "kd-all": 0.05, "ib": 0.008, "full": 0.062}
    rows = []
    for dataset, top, images in (("fashion-mnist", 0.92, 60_000), ("cifar10-jpeg", 0.86, 50_000)):
        for labels in (100, 500, 1000, 5000, "all"):
            count = images if labels == "all" else labels
            for seed in range(3):
                for system, gain in gains.items():
                    clean = top - 0.5 * math.exp(-math.log10(count))
                    rows.append(
                        {
                            "dataset": dataset, "labels": labels, "system": system, "seed": seed,
                            "accuracy": clean - 2.2 / math.sqrt(count + 60) + gain * 60 / (60 + math.sqrt(count))
                            + 0.04 * (seed - 1) / math.log10(count),
                            "ci95": 0.006, "teacher_accuracy": clean - 1.6 / math.sqrt(count + 60) + 0.002 * seed,
                            "images": images, "steps": 1000,
                        }
                    )  # fmt: skip
    return rows


def all_labels():
    means = {"fashion-mnist": (0.921, 0.9268, 0.9284), "cifar10-jpeg": (0.842, 0.845, 0.8512)}
    return [
        {
            "dataset": dataset, "labels": "all", "system": system, "seed": seed, "epochs": 30.72,
            "accuracy": mean + 0.002 * (seed - 1) + (0.0004 * seed if system != "ce" else 0), "images": 60_000,
            "teacher_accuracy": 0.94,
        }
        for seed in range(3) for dataset, own in means.items()
        for system, mean in zip(("ce", "kd", "full"), own, strict=True)
    ]  # fmt: skip


def store():
    forms = {
        "fp16": (2560, 1280, 1.19, 0.0), "int8": (1284, 1280, 1.14, -0.0006),
        "fp16, top-10 logits": (60, None, 1.01, -0.006),
        "pca-128, int8": (154, 128, 1.03, -0.0015), "pca-64, int8": (90, 64, 1.02, -0.0035),
        "pq-32": (58, 1280, 1.28, -0.0042),
    }  # fmt: skip
    rows = []
    for dataset, image_bytes, top, live in (("cifar10-jpeg", 3072, 0.84, 7.4), ("fashion-mnist", 784, 0.905, 5.2)):
        for seed in range(3):
            base = {
                "dataset": dataset, "seed": seed, "image_bytes": image_bytes, "epoch_no_teacher_s": 9.5 + 0.05 * seed,
                "epoch_live_s": 9.5 * live + seed,
            }  # fmt: skip
            for form, (size, dims, ratio, loss) in forms.items():
                told = {} if dims is None else {"dims": dims}
                shift = 0.0011 * (seed - 1)
                rows.append(
                    {
                        **base, "form": form, "bytes_per_view": size, "epoch_s": 9.5 * ratio + 0.06 * seed,
                        "accuracy": top + loss + shift, **told,
                    }
                )  # fmt: skip
            for form, size, seconds, loss in (("none", None, 9.5, -0.014), ("live", 0, 9.5 * live, 0.0012)):
                rows.append(
                    {**base, "form": form, "bytes_per_view": size, "epoch_s": seconds, "accuracy": top + loss + shift}
                )  # fmt: skip
    return rows


def tailor():
    devices = (
        ("sensor-a", "mcu", 0.78, 4e-6), ("sensor-b", "mcu", 0.83, 5e-6), ("watch", "wearable", 0.82, 3e-5),
        ("glasses", "wearable", 0.845, 2.4e-5), ("phone-old", "phone", 0.85, 2e-4),
        ("phone-new", "phone", 0.86, 1.5e-4),
        ("gateway", "gateway", 0.87, 2.2e-3), ("gateway-far", "gateway", 0.88, 3e-3),
    )  # fmt: skip
    rows = []
    for seed in range(3):
        for index, (device, device_class, floor, joules) in enumerate(devices):
            for system, gain, units in (("dynamic", 0.012, 24_000), ("static", 0.014, 640_000), ("none", -0.012, 0)):
                accuracy = floor + gain + 0.003 * (seed - 1) - (0.03 if device == "gateway-far" else 0)
                energy = joules * {"dynamic": 0.8, "static": 1.0, "none": 0.95}[system] * (1 + 0.03 * seed)
                feasible = accuracy >= floor and not (device == "watch" and system == "static" and seed == 1)
                rows.append(
                    {
                        "dataset": "fashion-mnist", "system": system, "device": device, "device_class": device_class,
                        "seed": seed, "accuracy": accuracy, "accuracy_floor": floor, "latency_s": 0.02,
                        "latency_compute_s": 0.012, "energy_j": energy,
                        "energy_compute_j": energy * (0.3 + 0.05 * index),
                        "symbols": 16, "units": units * (1 + 0.4 * index) * (1 + 0.2 * seed), "feasible": feasible,
                        "binding": None if feasible else "accuracy" if accuracy < floor else "distillation budget",
                        "steps": 3,
                    }
                )  # fmt: skip
    return rows


def stages():
    losses = {
        "two-stage": 0.0, "one-stage": 0.012, "codec-only": 0.03, "rising-snr": 0.02, "consistency": 0.006,
        "feature-noise": 0.009,
    }  # fmt: skip
    return [
        {
            "dataset": "fashion-mnist", "channel": channel, "system": system, "snr_db": snr_db, "seed": seed,
            "accuracy": 0.15 + (0.72 - loss - fade) / (1 + math.exp(-(snr_db + 3) / 4))
            + 0.005 * (seed - 2) * (1 if seed % 2 else 0.4) + 0.002 * ((seed * 7 + len(system)) % 5 - 2),
        }
        for channel, fade in (("awgn", 0.0), ("rayleigh", 0.08)) for system, loss in losses.items()
        for snr_db in (-10.0, -5.0, 0.0, 5.0, 10.0, 15.0, 20.0) for seed in range(5)
    ]  # fmt: skip


def loss_ablation():
    changes = {
        "full": 0.0, "no-ce": -0.013, "no-feature": -0.004, "no-logit": -0.021, "no-angle": 0.0006,
        "no-bottleneck": -0.0012, "default": -0.002, "only-ce": -0.034, "only-logit": -0.009,
    }  # fmt: skip
    return [
        {
            "dataset": dataset, "labels": labels, "system": system, "seed": seed,
            "accuracy": top + change * (1.3 if labels == 500 else 1) + 0.004 * (seed - 1)
            + 0.001 * ((seed + index) % 3),
        }
        for dataset, labels, top in (("fashion-mnist", 1000, 0.83), ("cifar10-jpeg", 500, 0.61))
        for index, (system, change) in enumerate(changes.items()) for seed in range(3)
    ]  # fmt: skip


ROWS = {
    "few labels": few_labels, "all labels": all_labels, "store": store, "tailor": tailor, "stages": stages,
    "loss ablation": loss_ablation,
}  # fmt: skip
