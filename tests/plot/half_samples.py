"""Small tables about a link's halves, of the form that their figures are drawn from."""

SPEEDS = {
    ("encoder", "torch", "fp32"): 1284.0, ("encoder", "onnxruntime", "fp32"): 19585.0,
    ("channel encoder", "torch", "fp32"): 2569.0, ("channel encoder", "onnxruntime", "fp32"): 11591.0,
    ("transmitter", "torch", "fp32"): 706.0, ("transmitter", "onnxruntime", "fp32"): 9367.0,
    ("transmitter", "onnxruntime", "int8"): 4035.0,
    ("receiver", "torch", "fp32"): 1273.0, ("receiver", "onnxruntime", "fp32"): 6197.0,
}  # fmt: skip


def link_speed():
    rows = []
    for device, factor in (("mcu", 1.0), ("gateway", 0.35)):
        for batch in (1, 256):
            rows += [
                {
                    "device": device, "part": part, "runtime": runtime, "dtype": dtype, "batch": batch,
                    "images_per_s": factor * speed * (batch if runtime == "torch" else 2) ** 0.4, "share": None,
                    "channels": None, "threads": 1,
                }
                for (part, runtime, dtype), speed in SPEEDS.items()
            ]  # fmt: skip
        for channels, share in (("awgn+rayleigh", 0.009), ("awgn+rayleigh+rician+multipath", 0.072)):
            shared = {"device": device, "runtime": "torch", "dtype": "fp32", "batch": 128, "channels": channels}
            rows.append({**shared, "part": "training step", "images_per_s": 770 * factor, "share": None, "threads": 1})
            rows.append(
                {
                    **shared, "part": "channel in training", "images_per_s": 770 / share, "share": share * factor,
                    "threads": 1,
                }
            )  # fmt: skip
    return rows


def int8():
    return [
        {
            "device": device, "dataset": "fashion-mini", "seed": seed, "channel": channel, "snr_db": snr_db,
            "symbols": symbols, "accuracy_fp32": top - 0.002 * (20 - snr_db) + 0.003 * seed,
            "accuracy_int8": top - 0.002 * (20 - snr_db) + 0.003 * seed + change, "difference": change,
            "difference_ci95": 0.002, "bytes_fp32": size, "bytes_int8": size // 2, "operations_int8": 57,
            "operations_float": 49, "binding": "params", "binding_use": 0.96, "flash_bytes": 43_180,
            "flash_bytes_file": 42_938, "flash_budget": 47_185.9,
        }
        for device, top, size in (("mcu", 0.82, 134_412), ("gateway", 0.86, 299_867))
        for seed in range(3)
        for channel in ("awgn", "rayleigh")
        for snr_db in (0.0, 10.0)
        for symbols in (16, 64)
        for change in [0.001 * (seed - 1) - 0.0005 * (symbols == 16)]
    ]  # fmt: skip


ROWS = {"link speed": link_speed, "int8": int8}
