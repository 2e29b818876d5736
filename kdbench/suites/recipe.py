"""A recipe: how networks are trained, a teacher's beside its student's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from kdbench.suites.kinds import BATCH, EPOCHS, Epochs, Finite, Flag, NotNegative, Positive, Said
from kdbench.utils.gradient_rules import SUM, checked, parse

#: Least parameter of a Beta distribution that fp32 can draw from: its draws lie at 0 and 1, which round to 0 / 0.
LEAST_ALPHA = 0.01
Schedule = Literal["step", "cosine", "onecycle"]
#: Settings of a recipe that came later: at their default a run is what it was before there were any.
LATER = (
    "validation",
    "schedule",
    "warmup_epochs",
    "min_lr",
    "clip_grad",
    "optimizer",
    "label_smoothing",
    "ema",
    "drop_path",
    "accumulate",
    "augment",
    "mixup",
    "cutmix",
    "random_erasing",
    "gradients",
    "fraction",
    "label_noise",
    "label_noise_map",
    "draw",
    "input_noise",
    "salt_and_pepper",
    "noise_side",
)
#: What only students are trained with, and why a teacher is not.
STUDENTS_OWN = {
    "validation": "teachers train on all training images",
    "fraction": "teachers train on all training images",
    "ema": "a teacher is kept as its training ends",
    "gradients": "a teacher's loss has one part",
    "input_noise": "teachers train on the pictures as they are",
    "salt_and_pepper": "teachers train on the pictures as they are",
    "noise_side": "teachers train on the pictures as they are",
}
#: What a teacher's recipe does not take over from the student's.
OWN = (*STUDENTS_OWN, "drop_path", "label_noise")
#: What teacher and student share, so it is said in the recipe only.
SHARED = ("mean", "std", "label_noise_map", "draw")
_TIMM = "timm/"  # prefix of timm's models


class Recipe(BaseModel):
    """How a network is trained: SGD, steps in the learning rate or another schedule, random crop and flip.

    ``milestones`` are stated for ``epochs`` and as the papers write them, "after epoch 150"
    of epochs counted from 1; where epochs count from 0, as in the engine, epoch 150 is the
    first at the lower rate.

    >>> from kdbench import suites
    >>> recipe = suites.load("semckd").recipe
    >>> recipe.lr_for("resnet8x4"), recipe.lr_for("MobileNetV2")
    (0.05, 0.01)
    >>> recipe.milestones_for(24)
    (15, 18, 21)
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    epochs: Epochs
    batch_size: Annotated[int, Field(strict=True, ge=2, le=BATCH)]
    lr: Positive
    light_lr: Positive  # of students and teachers that ``light`` matches
    light: tuple[Said, ...] = ("MobileNet*", "Shuffle*")  # glob patterns of bare names, see lr_for
    momentum: Annotated[float, Field(strict=True, ge=0, lt=1)] = 0.9
    nesterov: Flag = False
    weight_decay: NotNegative = 5e-4
    milestones: tuple[Epochs, ...] = ()
    gamma: Annotated[float, Field(strict=True, gt=0, le=1)] = 0.1
    crop_padding: Annotated[int, Field(strict=True, ge=0)] = 4  # pixels
    flip: Flag = True
    mean: tuple[Finite, Finite, Finite]
    std: tuple[Positive, Positive, Positive]
    eval_every: Epochs = 1
    validation: Annotated[float, Field(strict=True, ge=0, le=0.5)] = 0.0  # share of training images students never see
    schedule: Schedule = "step"  # see kdbench.engine.schedule; milestones and gamma belong to step
    warmup_epochs: Annotated[int, Field(strict=True, ge=0, le=EPOCHS)] = 0  # stated for ``epochs``, as the milestones
    min_lr: NotNegative = 0.0  # what the rate does not fall below
    clip_grad: NotNegative = 0.0  # largest norm of all gradients of student and method together; 0: no limit
    optimizer: Said = "sgd"  # or a name of timm.optim; others than sgd do not decay biases and norms
    label_smoothing: Annotated[float, Field(strict=True, ge=0, lt=1)] = 0.0  # of the cross-entropy of every method
    ema: Annotated[float, Field(strict=True, ge=0, lt=1)] = 0.0  # decay of averaged weights, scored beside the raw
    drop_path: Annotated[float, Field(strict=True, ge=0, lt=1)] = 0.0  # stochastic depth of timm's networks
    accumulate: Annotated[int, Field(strict=True, ge=1, le=BATCH)] = 1  # batches of one optimizer step
    gradients: Said = "sum"  # or dot, deepkd, their controls: see kdbench.engine.gradients
    augment: Said = "crop"  # see kdbench.data.augment; rrc, rrc+rand-m9-mstd0.5-inc1
    mixup: NotNegative = 0.0  # alpha; 0: none
    cutmix: NotNegative = 0.0  # alpha; 0: none
    random_erasing: Annotated[float, Field(strict=True, ge=0, le=1)] = 0.0  # probability
    fraction: Annotated[float, Field(strict=True, gt=0, le=1)] = 1.0  # of the training images, see data.protocol
    label_noise: Annotated[float, Field(strict=True, ge=0, le=1)] = 0.0  # share of training images labelled anew
    label_noise_map: tuple[Said, ...] = ()  # FROM:TO of classes, or others, or next; none: drawn from all classes
    draw: Annotated[int, Field(strict=True, ge=0, lt=2**31)] = 0  # which draw of the two above
    input_noise: Annotated[float, Field(strict=True, ge=0, le=10)] = 0.0  # deviation, of pixels in [0, 1]
    salt_and_pepper: Annotated[float, Field(strict=True, ge=0, le=1)] = 0.0  # share of the values that become 0 or 1
    noise_side: Literal["both", "student"] = "both"  # who sees the noisy pictures; student: the teacher sees clean ones

    @model_validator(mode="before")
    @classmethod
    def _one_spelling(cls, raw: Any) -> Any:
        """``gradients = "dot"`` -> with its gap, so that both are one recipe; what else is wrong is said later."""
        if not (isinstance(raw, dict) and isinstance(raw.get("gradients"), str)):
            return raw
        rule = parse(raw["gradients"])
        return raw | {"gradients": SUM if rule is None else str(rule)}

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        checked(self.gradients, self.momentum, nesterov=self.nesterov, optimizer=self.optimizer)
        # Two may fall on one epoch: that is how a short run in proportion looks.
        if list(self.milestones) != sorted(self.milestones) or any(m > self.epochs for m in self.milestones):
            raise ValueError(f"milestones must rise and lie within {self.epochs} epochs, not {list(self.milestones)}")
        for name in ("mixup", "cutmix"):
            if 0 < (alpha := getattr(self, name)) < LEAST_ALPHA:  # below it, torch draws shares of one half
                raise ValueError(f"{name} is 0, which is none, or {LEAST_ALPHA} or more, not {alpha:g}")
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs a momentum above 0")
        if self.warmup_epochs and self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs must be fewer than {self.epochs} epochs, not {self.warmup_epochs}")
        if self.min_lr and self.min_lr > min(self.lr, self.light_lr):
            raise ValueError(f"min_lr={self.min_lr:g} is above the learning rate {min(self.lr, self.light_lr):g}")
        return self

    def lr_for(self, model: str) -> float:
        """Starting learning rate of a model: ``light_lr`` for the light ones.

        A pattern of ``light`` is held against the bare name, in which neither case nor the prefix and the
        tag of a timm model count: "MobileNet*" means timm/mobilenetv2_100.ra_in1k, too. It may also be
        written with them: "timm/*" means timm's models only.
        """
        light = any(fnmatchcase(name, pattern.lower()) for pattern in self.light for name in _spellings(model))
        return self.light_lr if light else self.lr

    def milestones_for(self, epochs: int) -> tuple[int, ...]:
        """Milestones of a run of another length, in proportion: 240 -> 24 gives 15, 18, 21."""
        return _scaled(self.milestones, self.epochs, epochs)

    def warmup_for(self, epochs: int) -> int:
        """Warm-up of a run of another length, in proportion; one epoch at least is left after it."""
        return min(*_scaled((self.warmup_epochs,), self.epochs, epochs), epochs - 1) if self.warmup_epochs else 0

    def facts_for(self, model: str, epochs: int) -> dict[str, Any]:
        """What a model is trained with for so many epochs: plain values, those of ``LATER`` only where they are set.

        Milestones are left out where the schedule knows none.
        """
        neutral = {name for name in LATER if getattr(self, name) == type(self).model_fields[name].default}
        hidden = {"epochs", "light", "light_lr", "lr", "milestones", "warmup_epochs", *neutral}
        hidden |= set() if self.label_noise else {"label_noise_map"}
        hidden |= set() if self.label_noise or self.fraction < 1 else {"draw"}
        hidden |= set() if self.input_noise or self.salt_and_pepper else {"noise_side"}
        facts: dict[str, Any] = self.model_dump(exclude=hidden)
        warmup = self.warmup_for(epochs)
        return facts | {
            "lr": self.lr_for(model),
            "milestones": list(self.milestones_for(epochs)) if self.schedule == "step" else [],
            **({"warmup_epochs": warmup} if warmup else {}),
        }


def of_teacher(recipe: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """The student's recipe with the teacher's differences, both as TOML tables; the milestones follow its epochs.

    >>> recipe = {"epochs": 240, "milestones": [150, 180, 210], "ema": 0.99}
    >>> of_teacher(recipe, {"epochs": 24})
    {'epochs': 24, 'milestones': (15, 18, 21)}
    """
    merged = {key: value for key, value in recipe.items() if key not in OWN} | own
    lengths, milestones = [recipe.get("epochs"), own.get("epochs")], recipe.get("milestones", ())
    # What is no number, or out of bounds, is told when the recipes are looked at.
    numbers = [*lengths, *(milestones if isinstance(milestones, list | tuple) else [None])]
    if all(type(one) is int and 0 < one <= EPOCHS for one in numbers):
        if "milestones" not in own:
            merged["milestones"] = _scaled(milestones, recipe["epochs"], own["epochs"])
        warmup = recipe.get("warmup_epochs")
        if "warmup_epochs" not in own and type(warmup) is int and 0 < warmup <= EPOCHS:
            merged["warmup_epochs"] = min(*_scaled((warmup,), recipe["epochs"], own["epochs"]), own["epochs"] - 1)
    return merged


def _spellings(model: str) -> set[str]:
    """ "timm/ResNet18.a1_in1k" -> itself, timm/resnet18 and resnet18, all in small letters.

    A dot in a name that is not timm's, as in ShuffleV2_1.5, begins no tag.
    """
    whole = model.lower()
    untagged = whole.split(".")[0] if whole.startswith(_TIMM) else whole
    return {whole, untagged, untagged.removeprefix(_TIMM).removeprefix("cifar_")}


def _scaled(milestones: Sequence[int], stated_for: int, epochs: int) -> tuple[int, ...]:
    """Rounded to whole epochs; the first epoch of a run is never lowered."""
    return tuple(max(1, math.floor(m * epochs / stated_for + 0.5)) for m in milestones)
