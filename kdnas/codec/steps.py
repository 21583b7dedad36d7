"""What CAT's channel encoder costs the device, step by step."""

from collections.abc import Mapping
from typing import Any

from kdnas.ops import Op, Step, linear_step


def channel_encoder_steps(config: Mapping[str, Any]) -> list[Step]:
    """The steps of ``ChannelEncoder(**config)`` for one image (``config`` is the module's attribute of that name).

    Layer norm without scale and shift, softmax and GELU have no parameters and no multiply-accumulates of a matrix;
    attention's two products are counted by hand: 2 T² W. While a block works, its input tokens and the condition are
    held beside it. The last step is the radio's: it sends all symbols, and computes nothing.
    """
    tokens, width, condition = config["tokens"], config["width"], config["condition"]
    features, symbols, classes = config["feature_dim"], config["symbols"], config.get("classes") or 0
    per_token = -(-config["symbols"] // tokens)
    steps = [
        linear_step("channel.condition.0", 4, condition, held_bytes=features),
        linear_step("channel.condition.1", condition, condition, held_bytes=features),
    ]
    decided = 0
    if classes:
        decided = classes + 1  # the posterior and the class's share of the power, held until the features' code is made
        steps += [
            linear_step("channel.classifier", features, classes, held_bytes=condition),
            linear_step("channel.share", condition, 1, held_bytes=features + classes),
        ]
    steps.append(linear_step("channel.embed", features, tokens * width, held_bytes=condition + decided))
    kept = tokens * width + condition + decided
    for index in range(config["depth"]):
        name = f"channel.block{index}"
        modulation = 6 * width
        attention = 2 * tokens * tokens * width
        scores = config["heads"] * tokens * tokens
        hidden = config["expansion"] * width
        held = kept + modulation
        steps += [
            linear_step(f"{name}.modulation", condition, modulation, held_bytes=tokens * width + decided),
            linear_step(f"{name}.qkv", width, 3 * width, rows=tokens, held_bytes=held),
            Step(
                f"{name}.attention", macs=attention, held_bytes=4 * tokens * width + scores + held,
                moved_bytes=4 * tokens * width + 2 * scores,
                op=Op("attention", width, width, groups=config["heads"], size=tokens),
            ),
            linear_step(f"{name}.out", width, width, rows=tokens, held_bytes=held),
            linear_step(f"{name}.up", width, hidden, rows=tokens, held_bytes=held),
            linear_step(f"{name}.down", hidden, width, rows=tokens, held_bytes=held),
        ]  # fmt: skip
    return [
        *steps,
        linear_step("channel.head", width, 2 * per_token, rows=tokens, held_bytes=condition + decided),
        linear_step("channel.gain", condition, symbols, held_bytes=2 * per_token * tokens + decided),
        *(
            [linear_step("channel.words", classes, 2 * symbols, bias=False, held_bytes=2 * symbols + 1)]
            if classes
            else []
        ),
        Step("channel.send", symbols=symbols, ops=0),
    ]
