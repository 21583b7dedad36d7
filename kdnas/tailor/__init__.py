"""Dynamic distillation: one model for each device, no more knowledge than it needs.

After "Tailoring Semantic Communication at the Network Edge: A Novel Approach Using Dynamic Knowledge Distillation"
(Albaseer, Abdallah, arXiv 2401.10214, IEEE ICC 2024). From that paper: heterogeneous constrained devices and one
server; a non-convex problem recast with a *distillation budget*; an adaptive algorithm that works before deployment, in
stages of rising complexity, lowers the KL divergence between server and edge, and adjusts the *granularity* of the
distilled knowledge. All below is our own definition, where the paper's public text is silent.

**Problem**, for each device d, over what is distilled (a sequence of rungs of the ladder) and the sent length k::

    min   KL(server || edge)
    s.t.  accuracy(k) >= A_d               on average over the device's SNR distribution and its channel
          T_comp + T_tx(k) <= T_d          T_comp = c MACs / f            T_tx = k / B
          E_comp + E_tx(k) <= E_d          E_comp = kappa c MACs f^2      E_tx = P T_tx
          distilled units <= N_d

with c cycles per MAC, f Hz, kappa the effective capacitance, B complex symbols/s, and P watts. Distillation happens at
the server, before deployment: its energy is not the device's, and is not counted. What it may cost is N_d.

**Ladder**, coarse to fine: superclass posteriors, class posteriors, relations of features within a batch, features.
Superclasses are clusters of the teacher's own confusions. Rungs are cumulative: a finer one matches all that the
coarser ones match. A **distilled unit** is one stored number of the teacher that a step matches for one image: G
superclass posteriors, C class posteriors, (B - 1)/2 distances to the other images of a batch of B (angles follow from
distances, and are not counted again), F features. Labels are not knowledge of the teacher and cost nothing.

**Algorithm** (``algorithm.tailor``). The recast problem: lower the KL by training for the device's own channel until
every constraint holds, at the least granularity that does it.

1. The longest code inside deadline and energy. Where not even one symbol is, the binding constraint is told at once.
2. Train a slice at the present rung, coarsest first; measure on the architecture split, through the device's channel.
3. Where a one-sided lower bound of the accuracy meets A_d, shorten the code as far as it still does; confirm that with
   channel draws of its own, lengthening where they refute it. Confirmed: stop.
4. Where not: climb a rung when the last slice gained too little. Each further slice at this rung is expected to gain
   ``decay`` times the one before; if as many as the units and the steps left pay for would not close the gap, climb.
5. Stop at the end of the budget, or when ``patience`` slices of the finest rung brought nothing, and name what binds.

``algorithm.static`` is plain KD for comparison: the finest rung for the whole budget at the longest code.
"""

from typing import TYPE_CHECKING, Any

from kdnas.tailor.fleet import Fleet, load_fleet
from kdnas.tailor.qos import EdgeDevice

if TYPE_CHECKING:
    from kdnas.tailor.student import LinkStudent as LinkStudent

__all__ = ["EdgeDevice", "Fleet", "LinkStudent", "load_fleet"]


def __getattr__(name: str) -> Any:
    # Those who read a fleet need no torch.
    if name == "LinkStudent":
        from kdnas.tailor.student import LinkStudent

        return LinkStudent
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
