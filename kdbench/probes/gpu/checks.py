"""The sixteen checks, in the order in which they are made."""

from __future__ import annotations

from kdbench.probes.gpu import failures, primitives, steps
from kdbench.probes.gpu.table import Check

CHECKS = (
    Check(1, "versions, memory, environment", "nothing that changes numbers or memory is set", primitives.versions),
    Check(2, "waiting for the device is heard", "an error inside, mode 0 after it", primitives.sync_mode, cuda=True),
    Check(3, "two graphs in one memory", "counts 1000 and 1, results 2000, 3", primitives.toy_graph, cuda=True),
    Check(4, "random numbers in graphs", "equal numbers and states", primitives.random_numbers, cuda=True),
    Check(5, "branches on streams", "equal to one stream", primitives.branches, cuda=True),
    Check(6, "the fused optimizer", "1e-6 of the largest weight; no gradient, no step", primitives.fused),
    Check(7, "the loss scale", "scale 256, clock 2; two steps skipped", primitives.loss_scale),
    Check(8, "batches and scores", "equal pixels; scores within 1e-5", primitives.batches),
    Check(9, "each method's step, repeated and called", "within noise and a share of its change", steps.methods),
    Check(10, "each method's terms, here and on the CPU", "1e-4; nst, ft, rkd, pkt 1e-3", steps.on_the_cpu),
    Check(11, "epochs, evaluation between, resumed", "1e-6 deterministic, else 5e-2, of the terms", steps.epochs),
    Check(12, "the evaluation's graph", "no image judged otherwise; nll within 1e-4", steps.evaluation),
    Check(13, "the teacher's table", "within 1e-4 of the live teacher", steps.table),
    Check(14, "captures that fail", "the next ones work", failures.captures_that_fail, cuda=True),
    Check(
        15,
        "a memory that is too small",
        "fewer lanes at once, all finish, memory is free",
        failures.small_memory,
        cuda=True,
    ),
    Check(16, "time of a step", "repeated at most half of called; the host under 30%", steps.timing),
)
