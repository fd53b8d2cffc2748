"""How to choose one of several instances. A strategy sees only candidates that may be picked; who they are is the balancer's business."""

from __future__ import annotations

import heapq
import math
from array import array
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from random import Random
from typing import Final, Literal, Protocol, get_args

from groundwork.discovery.models import Instance, Status
from groundwork.errors import InvalidRequest

StrategyName = Literal["round_robin", "weighted_round_robin", "random", "least_connections", "p2c", "consistent_hash"]
Candidates = tuple[Instance, ...]

MANY: Final = 65_535  # requests in flight on one instance, from where on more are not told apart
STRATEGIES: Final[tuple[str, ...]] = get_args(StrategyName)


class Strategy(Protocol):
    """Chooses among the candidates that it was last given, of which there is at least one."""

    def update(self, candidates: Candidates) -> None:
        """These may be picked from now on."""
        ...

    @property
    def choose(self) -> Callable[[str], Instance]:
        """What picks one of them, until the next update. Its key matters to consistent_hash alone."""
        ...

    def loaded(self, instance_id: str, count: int) -> None:
        """So many requests are in flight on an instance now."""
        ...


class _Indifferent:
    """A strategy that does not go by load."""

    def loaded(self, instance_id: str, count: int) -> None:
        del instance_id, count


class RoundRobin(_Indifferent):
    """One after another. Each process starts somewhere else, or all clients would begin with the first instance."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._candidates: Candidates = ()
        self._at = -1

    def update(self, candidates: Candidates) -> None:
        if self._at < 0:
            self._at = int(self._random.random() * len(candidates))
        self._candidates = candidates

    def choose(self, key: str) -> Instance:  # noqa: ARG002 the same shape for all
        self._at = (self._at + 1) % len(self._candidates)
        return self._candidates[self._at]


class WeightedRoundRobin(_Indifferent):
    """As often as the weights say, evenly interleaved: each instance is due again 1/weight after its last turn. O(log n)."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._now = 0.0
        self._due: dict[str, float] = {}
        self._heap: list[tuple[float, int, float, Instance]] = []

    def update(self, candidates: Candidates) -> None:
        weights = [weight_of(instance) for instance in candidates]
        if not any(weights):
            weights = [1] * len(candidates)
        due = {instance.id: (due, step) for due, _, step, instance in self._heap}
        self._heap = []
        for number, (instance, weight) in enumerate(zip(candidates, weights, strict=True)):
            if weight > 0:
                step = 1.0 / weight
                at, before = due.get(instance.id, (None, step))
                first = self._now + step * self._random.random()  # newcomers start anywhere in their turn
                self._heap.append((first if at is None or before != step else at, number, step, instance))
        heapq.heapify(self._heap)

    def choose(self, key: str) -> Instance:  # noqa: ARG002 the same shape for all
        due, number, step, instance = self._heap[0]
        self._now = due
        heapq.heapreplace(self._heap, (due + step, number, step, instance))
        return instance


class Uniform(_Indifferent):
    """Any of them."""

    def __init__(self, random: Random) -> None:
        self._random = random.random
        self._candidates: Candidates = ()

    def update(self, candidates: Candidates) -> None:
        self._candidates = candidates

    def choose(self, key: str) -> Instance:  # noqa: ARG002 the same shape for all
        return self._candidates[int(self._random() * len(self._candidates))]


class _ByLoad:
    """Requests in flight, in a list beside the candidates: a pick then touches two numbers and one instance, however many there are."""

    def __init__(self, random: Random, in_flight: Mapping[str, int]) -> None:
        self._random_source = random
        self._random = random.random
        self._in_flight = in_flight
        self._candidates: Candidates = ()
        self._loads = array("H")  # two bytes each: ten thousand of them stay in the processor's nearest cache
        self._places: dict[str, int] = {}

    def update(self, candidates: Candidates) -> None:
        self._candidates = candidates
        self._places = {instance.id: place for place, instance in enumerate(candidates)}
        self._loads = array("H", (min(self._in_flight.get(instance.id, 0), MANY) for instance in candidates))

    def loaded(self, instance_id: str, count: int) -> None:
        place = self._places.get(instance_id)
        if place is not None:
            self._loads[place] = min(count, MANY)


class LeastConnections(_ByLoad):
    """The one with the fewest requests of this process in flight, any of them where several have as few. Exact, O(n)."""

    def choose(self, key: str) -> Instance:  # noqa: ARG002 the same shape for all
        least = min(self._loads)
        idle = [place for place, load in enumerate(self._loads) if load == least]
        return self._candidates[idle[int(self._random() * len(idle))]]


class PowerOfTwoChoices(_ByLoad):
    """The less busy of two random ones: nearly as even as least_connections at a constant price.

    Where weights differ, both are drawn by weight, and less busy is who has fewer requests for its weight.
    """

    def __init__(self, random: Random, in_flight: Mapping[str, int]) -> None:
        super().__init__(random, in_flight)
        self._weights: tuple[int, ...] = ()
        self._draw = Weighted((), random)
        self.choose: Callable[[str], Instance] = self._of_equals

    def update(self, candidates: Candidates) -> None:
        super().update(candidates)
        weights = tuple(map(weight_of, candidates))
        equal = len(set(weights)) <= 1
        self.choose = self._of_equals if equal else self._by_weight
        if not equal and weights != self._weights:
            self._draw = Weighted(weights, self._random_source)
        self._weights = weights

    def _of_equals(self, key: str) -> Instance:  # noqa: ARG002 the same shape for all
        loads = self._loads
        size = len(loads)
        if size == 1:
            return self._candidates[0]
        one = int(self._random() * size)
        other = int(self._random() * (size - 1))
        if other >= one:
            other += 1  # two different ones, each pair as likely
        return self._candidates[one if loads[one] <= loads[other] else other]

    def _by_weight(self, key: str) -> Instance:  # noqa: ARG002 the same shape for all
        loads, weights = self._loads, self._weights
        one, other = self._draw.place(), self._draw.place()
        return self._candidates[one if loads[one] * weights[other] <= loads[other] * weights[one] else other]


class Weighted:
    """Places drawn as often as their weights say, at a constant price (Vose's alias method). One weight at least is above 0."""

    def __init__(self, weights: Sequence[int], random: Random) -> None:
        self._random = random.random
        self._size = len(weights)
        self._keep = [1.0] * self._size
        self._alias = list(range(self._size))
        total = sum(weights)
        share = [weight * self._size / total for weight in weights]
        small = [place for place, one in enumerate(share) if one < 1.0]
        large = [place for place, one in enumerate(share) if one >= 1.0]
        while small and large:
            low, high = small.pop(), large[-1]
            self._keep[low], self._alias[low] = share[low], high
            share[high] -= 1.0 - share[low]
            if share[high] < 1.0:
                small.append(large.pop())

    def place(self) -> int:
        """One of them."""
        at = self._random() * self._size
        place = int(at)
        return place if at - place < self._keep[place] else self._alias[place]


_MASK: Final = (1 << 64) - 1


class ConsistentHash(_Indifferent):
    """The same key goes to the same instance, in every process; when one leaves, only its keys move. Rendezvous hashing with weights, O(n)."""

    def __init__(self) -> None:
        self._seeds: dict[str, int] = {}
        self._rows: list[tuple[int, int, Instance]] = []

    def update(self, candidates: Candidates) -> None:
        known = self._seeds
        self._seeds = {instance.id: known.get(instance.id) or _hash64(instance.id) for instance in candidates}
        weights = [weight_of(instance) for instance in candidates]
        if not any(weights):
            weights = [1] * len(candidates)
        self._rows = [(self._seeds[i.id], weight, i) for i, weight in zip(candidates, weights, strict=True) if weight > 0]

    def choose(self, key: str) -> Instance:
        hashed = _hash64(key)
        best, chosen = -1.0, self._rows[0][2]
        for seed, weight, instance in self._rows:
            mixed = ((seed ^ hashed) * 0x9E3779B97F4A7C15) & _MASK
            mixed = ((mixed ^ (mixed >> 29)) * 0xBF58476D1CE4E5B9) & _MASK
            score = weight / -math.log((mixed + 1) / (_MASK + 2))
            if score > best:
                best, chosen = score, instance
        return chosen


def weight_of(instance: Instance) -> int:
    """The weight that counts in its present state."""
    return instance.weight_warning if instance.status is Status.WARNING else instance.weight


def _hash64(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")


def strategy(name: str, random: Random, in_flight: Mapping[str, int]) -> Strategy:
    """A new strategy of that name.

    Raises InvalidRequest where there is none.
    """
    match name:
        case "round_robin":
            return RoundRobin(random)
        case "weighted_round_robin":
            return WeightedRoundRobin(random)
        case "random":
            return Uniform(random)
        case "least_connections":
            return LeastConnections(random, in_flight)
        case "p2c":
            return PowerOfTwoChoices(random, in_flight)
        case "consistent_hash":
            return ConsistentHash()
        case _:
            raise InvalidRequest(f"strategy {name!r} does not exist: use one of {', '.join(STRATEGIES)}")
