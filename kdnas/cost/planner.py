"""The least memory in which a network's tensors can be computed, over every order of execution.

A tensor is held from the operation that makes it to the last one that reads it. The best order is found exactly, by a
best-first search over sets of finished operations.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Node:
    """One operation and the tensor that it makes.

    Attributes:
        name: Of both.
        inputs: The nodes whose tensors it reads; a network's input is a node without any.
        bytes: Of its tensor.
        in_place: Groups of inputs; it may write over a group whose tensors nothing needs any more: over one of two
            terms for a sum, over all its parts together for a concatenation.
    """

    name: str
    inputs: tuple[str, ...]
    bytes: int
    in_place: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True)
class Plan:
    """An order of execution, and what it holds.

    Attributes:
        order: Names of all nodes.
        held_bytes: Bytes alive while each of them runs, in that order.
    """

    order: tuple[str, ...]
    held_bytes: tuple[int, ...]

    @property
    def peak_bytes(self) -> int:
        """The most bytes held at once."""
        return max(self.held_bytes)


def plan(nodes: Sequence[Node]) -> Plan:
    """The order of execution that holds the fewest bytes at its worst moment.

    Args:
        nodes: Of an acyclic graph, in any order; what nothing reads is an output, held to the end.
    """
    graph = _Graph(nodes)
    # Entries: the peak so far, how many nodes are left, the set of finished ones, what it holds, and their order. The
    # first complete one that is popped is the best.
    heap: list[tuple[int, int, int, int, tuple[int, ...]]] = [(graph.least(), len(nodes), 0, 0, ())]
    seen: set[int] = set()
    while True:
        peak, _, state, alive, order = heapq.heappop(heap)
        state, alive, order, ready = graph.settled(state, alive, order, peak)
        if len(order) == len(nodes):
            return graph.replayed(order)
        if state in seen:
            continue
        seen.add(state)
        for node in ready:
            after = state | 1 << node
            if after not in seen:
                held, left = graph.run(state, alive, node)
                heapq.heappush(heap, (max(peak, held), len(nodes) - len(order) - 1, after, left, (*order, node)))


class _Graph:
    """Nodes by index, sets of them as bits."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        index = {node.name: i for i, node in enumerate(nodes)}
        self.names = [node.name for node in nodes]
        self.bytes = [node.bytes for node in nodes]
        self.inputs = [sorted({index[name] for name in node.inputs}) for node in nodes]
        self.groups = [[[index[name] for name in group] for group in node.in_place] for node in nodes]
        self.needs = [sum(1 << i for i in inputs) for inputs in self.inputs]
        self.readers = [0] * len(nodes)
        for i, inputs in enumerate(self.inputs):
            for source in inputs:
                self.readers[source] |= 1 << i

    def least(self) -> int:
        """Bytes that any order holds at some moment: no node runs without its inputs."""
        every = (1 << len(self.names)) - 1
        return max(
            self.run(every, sum(self.bytes[i] for i in inputs), node)[0] for node, inputs in enumerate(self.inputs)
        )

    def run(self, state: int, alive: int, node: int) -> tuple[int, int]:
        """Bytes held while ``node`` runs after ``state``, which keeps ``alive`` bytes; and the bytes kept after it."""
        rest = ~(state | 1 << node)
        dead = {i for i in self.inputs[node] if not self.readers[i] & rest}
        reused = 0
        for group in self.groups[node]:
            if dead.issuperset(group):
                reused = max(reused, min(self.bytes[node], sum(self.bytes[i] for i in group)))
        held = alive + self.bytes[node]
        return held - reused, held - sum(self.bytes[i] for i in dead)

    def settled(
        self, state: int, alive: int, order: tuple[int, ...], peak: int
    ) -> tuple[int, int, tuple[int, ...], list[int]]:
        """Run what costs nothing: it needs no more than ``peak``, and leaves no more alive than before.

        No order is better for it to wait: run earlier, it lowers what is alive in every later moment, and its inputs
        die no later.

        Returns:
            The set of finished nodes, the bytes that it keeps, the order, and the nodes that can run now.
        """
        ready = [i for i, needs in enumerate(self.needs) if not state >> i & 1 and not needs & ~state]
        while True:
            for node in ready:
                held, left = self.run(state, alive, node)
                if held <= peak and left <= alive:
                    break
            else:
                return state, alive, order, ready
            state, alive, order = state | 1 << node, left, (*order, node)
            ready.remove(node)
            readers = self.readers[node]
            while readers:
                reader = (readers & -readers).bit_length() - 1
                readers &= readers - 1
                if not self.needs[reader] & ~state:
                    ready.append(reader)

    def replayed(self, order: tuple[int, ...]) -> Plan:
        state, alive, held = 0, 0, []
        for node in order:
            now, alive = self.run(state, alive, node)
            held.append(now)
            state |= 1 << node
        return Plan(tuple(self.names[i] for i in order), tuple(held))
