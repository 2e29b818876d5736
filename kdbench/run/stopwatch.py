"""Seconds of an image in one step of many networks and methods, measured within a time that a person waits for.

A step is the engine's own, on noise. What there is no time for is guessed: a network by its multiply-accumulates, a
method by its share of its student's step in the table of measured costs.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
from torch import nn

from kdbench import models, registry
from kdbench.distiller import Batch, Distiller
from kdbench.engine.errors import OutOfMemory, holds
from kdbench.engine.lane import Lane
from kdbench.engine.precision import Precision
from kdbench.engine.rng import rng_state, set_rng_state
from kdbench.engine.schedule import Plan, set_rate
from kdbench.run.clock import Clock
from kdbench.run.networks import network
from kdbench.run.speeds import Size, Speeds
from kdbench.utils import environment

TIMM = "timm/"  # prefix of timm's models
#: Seconds for all items together, those of a step that says what one costs, and images of a first look.
BUDGET, LONG, FEW = 2.0, 0.15, 4
#: Pixels of the side of the largest images that are tried, and images of the memory banks that methods get.
PIXELS, BANK = 1024, 50_000
#: Seconds for 10^9 multiply-accumulates until any network has been timed, and for making 10^9 parameters.
SECONDS_PER_GMAC, SECONDS_PER_GPARAM = 0.05, 40.0
#: Steps of a size that are done to time one.
TWICE = 2
#: A step is a forward pass and a backward pass of twice its work.
BOTH = 3.0


class Item(NamedTuple):
    """What is timed: a network in eval mode, one that learns, or one that learns with a method beside its labels."""

    network: str
    learns: bool = False
    method: str = ""
    teacher: str = ""  # whose outputs the method is shown

    def __str__(self) -> str:
        beside = f" with {self.method} of {self.teacher or 'no teacher'}" if self.method else ""
        return f"{self.network} {'learns' if self.learns else 'looks'}{beside}"


class Stopwatch:
    """Times items in turn; each has its share of what is left of the budget. What is kept is not timed again.

    Args:
        size: pixels of the images' side.
        classes: K.
        batch: images of the steps that are asked about.
        train_images: N; memory banks grow with it.
        device: where.
        precision: of the runs.
        speeds: what is kept of this machine; what is measured goes there.
        budget: seconds for all of them.
    """

    def __init__(
        self,
        *,
        size: int,
        classes: int,
        batch: int,
        train_images: int,
        device: torch.device,
        precision: Precision,
        speeds: Speeds,
        budget: float = BUDGET,
    ) -> None:
        self.size, self.classes, self.batch, self.device, self.precision = size, classes, batch, device, precision
        self.bank = min(train_images, BANK)
        self.speeds, self.left = speeds, budget
        self.clock = Clock.of(device.type, environment.threads())
        self.guessed: dict[Item, float] = {}
        self._nets: dict[str, models.Tapped] = {}

    def known(self, item: Item) -> float | None:
        """Seconds of one image, timed now or earlier; None: it was not."""
        return self.speeds.seconds.get(self._name(item))

    def seconds(self, item: Item) -> float:
        """Seconds of one image; ``measure`` has been told of the network before."""
        found = self.known(item)
        return self.guessed[item] if found is None else found

    def measure(self, visits: Mapping[Item, float]) -> None:
        """Time networks, those first that take the most; those that the budget does not reach are guessed.

        Args:
            visits: the networks, and how many images each is to see.

        Raises:
            ValueError: a network cannot be built for these images, or they are too large to try.
        """
        todo = [one for one in visits if self.known(one) is None]
        if todo and self.size > PIXELS:
            raise ValueError(f"images of {self.size} px are not tried in an estimate, {PIXELS} are the most")
        todo.sort(key=lambda one: -visits[one] * self._expected(one))
        for one in todo:
            self._try(one)
        # What a step costs whatever its batch is counts for up to a third in a small one: again, on whole batches.
        rough = [one for one in visits if self._name(one) in self.speeds.in_part]
        for one in sorted(rough, key=lambda one: -visits[one] * self.seconds(one)):
            if self.batch * self.seconds(one) * TWICE <= self.left:
                with suppress(ValueError):  # out of memory: the run will say so
                    self._time(one, self._whole_batch)
        for one in todo:
            if self.known(one) is None:
                self.guessed[one] = self._expected(one)
        self._nets.clear()

    def measure_methods(self, asked: Mapping[Item, float]) -> None:
        """Time steps with methods in turn, as far as the budget reaches.

        Args:
            asked: the items, and what each may take for an image beside its student, in seconds.
        """
        for one, extra in asked.items():
            # A whole batch, since some methods leave a part of one alone; a first step makes what it needs.
            takes = self.batch * (4 * self._expected(one._replace(method="", teacher="")) + 2 * extra)
            if takes <= self.left and self.known(one) is None and self.size <= PIXELS:
                with suppress(Exception):  # it does not serve the pair, say: the run will say so
                    self._try(one)
        self._nets.clear()

    def _try(self, item: Item) -> None:
        """Time an item, if the budget holds a first look at it."""
        sizes = [self._size(name) for name in (item.network, item.teacher) if name]
        makes = sum(math.inf if size is None else size.params * SECONDS_PER_GPARAM / 1e9 for size in sizes)
        if self._expected(item) * min(self.batch, FEW) * TWICE + makes <= self.left:
            self._time(item, self._method_seconds if item.method else self._network_seconds)

    def _time(self, item: Item, seconds: Callable[[Item], float]) -> None:
        """Keep what an image of an item takes."""
        started = time.perf_counter()
        try:
            with self._aside(), holds(f"a step of {item}", self.device):
                self.speeds.seconds[self._name(item)] = seconds(item)
        except OutOfMemory as error:
            raise ValueError(str(error)) from error
        finally:
            self.left -= time.perf_counter() - started

    def _expected(self, item: Item) -> float:
        """What an image may take: by the multiply-accumulates, at the speed of the timed network nearest in these."""
        size, alike, rates = self._size(item.network), [], []
        for name, seconds in self.speeds.seconds.items():
            what, _, place = name.partition(" | ")
            network, _, does = what.partition(" ")
            if does not in ("learns", "looks"):
                continue  # a method is in it
            learns = does == "learns"
            if learns == item.learns:
                alike.append(seconds)
            if size is not None and (own := self.speeds.sizes.get(f"{network} | {place}")):
                far = abs(math.log(own.macs / size.macs))
                rates.append((learns != item.learns, far, seconds / own.macs / (BOTH if learns else 1)))
        if size is None:  # nothing can be said of it but what others take
            return median(alike) if alike else 0.0
        rate = min(rates)[2] if rates else SECONDS_PER_GMAC / 1e9
        return size.macs * (BOTH if item.learns else 1) * rate

    def _size(self, name: str) -> Size | None:
        """A network's size; None where it cannot be found out in little time.

        Raises:
            ValueError: it cannot be built for these images.
        """
        place, started = name + self._place(), time.perf_counter()
        if place not in self.speeds.sizes and self.size <= PIXELS:
            # What cannot be built is told, but for networks of timm, which need not take such images on no device.
            with suppress(*([Exception] if name.startswith(TIMM) else [])), self._aside():
                self.speeds.sizes[place] = self._measured_size(name)
            self.left -= time.perf_counter() - started
        return self.speeds.sizes.get(place)

    def _measured_size(self, name: str) -> Size:
        if name.startswith(TIMM):  # may be large: no number is computed, and no memory taken
            with torch.device("meta"):
                net, image = timm_net(name, self.classes, self.size), torch.empty(1, 3, self.size, self.size)
        else:
            net, image = self._net(name).net, torch.zeros(1, 3, self.size, self.size, device=self.device)
            net.to(self.device)
        return Size(macs=count_macs(net.eval(), image), params=sum(p.numel() for p in net.parameters()))

    def _name(self, item: Item) -> str:
        banked = f" of {self.bank}" if item.method else ""
        return f"{item}{banked}{self._place()}"

    def _place(self) -> str:
        return f" | {self.size} px, {self.classes} classes, batch {self.batch}"

    @contextmanager
    def _aside(self) -> Iterator[None]:
        """Random numbers and threads are afterwards what they were."""
        rng, threads = rng_state(self.device), torch.get_num_threads()
        torch.set_num_threads(environment.threads())
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            set_rng_state(rng, self.device)

    def _network_seconds(self, item: Item) -> float:
        """Of one image in a step of as many as a batch has or as take long enough."""
        step, few = self._step(item), min(self.batch, FEW)
        self._timed(step(few))  # makes what is needed
        small = self._timed(step(few))
        many = max(few, min(self.batch, int(few * LONG / max(small, 1e-9))))
        if many > few:
            self._timed(step(many))  # the first of another size makes what it needs
        if many < self.batch:
            self.speeds.in_part.add(self._name(item))
        times = 3 if small * many / few < LONG else 1
        return median(self._timed(step(many)) for _ in range(times)) / many

    def _whole_batch(self, item: Item) -> float:
        """Of one image in a step of a whole batch."""
        step = self._step(item)(self.batch)
        self._timed(step)  # makes what is needed
        self.speeds.in_part.discard(self._name(item))
        return self._timed(step) / self.batch

    def _method_seconds(self, item: Item) -> float:
        """What a method adds for an image, in steps of whole batches.

        Some methods leave a part of a batch alone, some take as long for it.

        Steps with the method and of the student alone alternate, so that a busy machine slows both.
        """
        work, plain = (self._step(one)(self.batch) for one in (item, Item(item.network, True)))
        first = max(self._timed(work), self._timed(plain))  # makes what is needed
        times = 3 if first < LONG / 3 else 1
        return max(0.0, median(self._timed(work) - self._timed(plain) for _ in range(times))) / self.batch

    def _timed(self, work: Callable[[], object]) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        started = self.clock.now()
        work()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return self.clock.now() - started

    def _step(self, item: Item) -> Callable[[int], Callable[[], object]]:
        """Number of images -> the step that is timed."""
        net = self._net(item.network)
        if not item.learns:
            folded = models.fold(net).to(self.device)

            def look(image: torch.Tensor) -> object:
                with torch.no_grad(), self.precision.autocast(self.device):
                    return folded(image)

            return lambda images: partial(look, self._noise(images))
        teacher = self._net(item.teacher) if item.teacher else net
        pair = models.make_pair(
            net,
            teacher,
            image_shape=(3, self.size, self.size),
            num_classes=self.classes,
            train_labels=torch.arange(self.bank) % self.classes,
            batch_size=self.batch,
        )
        method = registry.get(item.method).build(pair) if item.method else Distiller(pair, kd_weight=0.0)
        lane = Lane(
            "estimate",
            net,
            method,
            Plan(240, 0.05),
            seed=0,
            path=Path(),
            settings="",
            teacher="",
            device=self.device,
            precision=self.precision,
        )
        lane.enter("train")
        set_rate(lane.optimizer, 0.0)
        shown = models.fold(teacher).to(self.device) if item.teacher else None

        def prepared(images: int) -> Callable[[], object]:
            image = self._noise(images)
            with torch.no_grad(), self.precision.autocast(self.device):
                seen = None if shown is None else shown(image)
            seen = None if seen is None else seen._replace(logits=seen.logits.float())
            idx = (torch.arange(images) % self.bank).to(self.device)
            batch = Batch(image, idx % self.classes, idx, torch.tensor(0.5, device=self.device))
            return lambda: lane.step(seen, batch)

        return prepared

    def _noise(self, images: int) -> torch.Tensor:
        image = torch.randn(images, 3, self.size, self.size, device=self.device)
        return image.to(memory_format=torch.channels_last)

    def _net(self, name: str) -> models.Tapped:
        """A network; those of the zoo are made once for all steps in a row."""
        if name not in self._nets:
            self._nets[name] = network(name, self.classes, image_size=self.size, pretrained=False)
        return self._nets[name]


def timm_net(name: str, classes: int, size: int) -> nn.Module:
    """A network of timm for images of that size, where its kind takes one."""
    import timm

    made: nn.Module
    try:
        made = timm.create_model(name.removeprefix(TIMM), pretrained=False, num_classes=classes, img_size=size)
    except TypeError:
        made = timm.create_model(name.removeprefix(TIMM), pretrained=False, num_classes=classes)
    return made


def count_macs(net: nn.Module, image: torch.Tensor) -> float:
    """Multiply-accumulates of a network's convolutions and linear layers, for one of the images (B, 3, H, W)."""
    macs: list[int] = []

    def count(layer: nn.Module, _: object, out: torch.Tensor) -> None:
        weight = layer.weight
        assert isinstance(weight, torch.Tensor)
        inputs = weight[0].numel() if isinstance(layer, nn.Conv2d) else weight.shape[1]
        macs.append(out[0].numel() * inputs)

    layers = [layer for layer in net.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    try:
        with torch.no_grad():
            net(image)
    finally:
        for hook in hooks:
            hook.remove()
    return float(sum(macs))
