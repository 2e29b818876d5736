"""IRG: the graph of distances between the images of a batch is the knowledge.

Liu, Cao, Li, Yuan, Hu, Li, Duan. Knowledge Distillation via Instance Relationship Graph.
CVPR 2019. https://openaccess.thecvf.com/content_CVPR_2019/html/Liu_Knowledge_Distillation_via_Instance_Relationship_Graph_CVPR_2019_paper.html
"""

import re

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench import Batch, Distiller, Outputs, Pair, register
from kdbench.methods._layers import full_precision, gram


def square_distances(x: Tensor) -> Tensor:
    """(B, D) -> (B, B), by inner products: never (B, B, D) in memory. The diagonal is exactly 0."""
    x = x - x.mean(dim=0)  # shorter vectors round less
    product = gram(x)
    norm = product.diagonal()
    square = (norm[:, None] + norm - 2 * product).clamp_min(0)
    return square.masked_fill(torch.eye(len(x), dtype=torch.bool, device=x.device), 0)


@full_precision
def edges(x: Tensor) -> Tensor:
    """(B, ...) -> (B, B), squared distances between the images over the largest of them."""
    square = square_distances(x.flatten(1))
    return square / (square.amax() + 1e-12)


@full_precision
def change(shallow: Tensor, deep: Tensor, of_edges: bool, of_vertices: bool) -> Tensor:
    """(B, ...) each -> (1,) or (2,): how the edges, the vertices or both change between two layers."""
    changes = [F.mse_loss(edges(deep), edges(shallow))] if of_edges else []
    if of_vertices:
        changes.append(F.mse_loss(deep, shallow))
    return torch.stack(changes)


@register
class IRG(Distiller):
    """loss = CE + KD + beta * (mean (E_S - E_T)^2 + mean (f_S - f_T)^2 + transformation).

    E are the edges of the pooled vectors f; the vertex term is there when both f have the same
    size. ``transform`` names pairs of taps, "2-3" or "0-1/2-3"; each adds the squared difference
    between student and teacher in how much the edges (and, where the taps of both nets agree in
    shape, the vertices) change between the two taps; with ``transform_edges=False`` the vertices alone do.

    Raises:
        ValueError: ``transform`` cannot be read or names a tap that the pair does not share.
    """

    reference = (
        "Liu et al. Knowledge Distillation via Instance Relationship Graph. CVPR 2019."
        " https://openaccess.thecvf.com/content_CVPR_2019/html/"
        "Liu_Knowledge_Distillation_via_Instance_Relationship_Graph_CVPR_2019_paper.html"
    )
    provenance = "port"
    deviations = (
        "After the SemCKD repository's version, which its published table uses; the authors' release is in Caffe.",
        "The graph is built on the pooled vector alone and the transformation is off by default, as in that table;"
        " the paper uses several layers and the transformation.",
        "The transformation compares two scalars per pair of taps, as in that repository, not two graphs.",
    )
    family = "relation"
    reads = "pooled"

    def __init__(
        self,
        pair: Pair,
        *,
        beta: float = 0.005,
        transform: str = "",
        transform_edges: bool = True,
        **common: float,
    ) -> None:
        super().__init__(pair, **common)
        self.beta = beta
        self.same_width = pair.student.pooled == pair.teacher.pooled
        self.edges = transform_edges
        asked = steps(transform, min(len(pair.student.feats), len(pair.teacher.feats)))
        sides = pair.student, pair.teacher
        same = [all(side.feats[a] == side.feats[b] for side in sides) for a, b in asked]  # so vertices can be compared
        self.steps = [(a, b, of) for (a, b), of in zip(asked, same, strict=True) if of or transform_edges]
        if self.steps:
            self.reads = "maps"

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        found = {"edge": self.beta * F.mse_loss(edges(student.pooled), edges(teacher.pooled))}
        if self.same_width:
            found["vertex"] = self.beta * F.mse_loss(student.pooled.to(found["edge"]), teacher.pooled.to(found["edge"]))
        differences = [
            change(student.feats[a], student.feats[b], self.edges, vertices)
            - change(teacher.feats[a], teacher.feats[b], self.edges, vertices)
            for a, b, vertices in self.steps
        ]
        if differences:
            found["transform"] = self.beta * torch.cat(differences).square().sum()
        return found


def steps(text: str, taps: int) -> list[tuple[int, int]]:
    """ "0-1/2-3" -> [(0, 1), (2, 3)]; a tap is 0 to ``taps`` - 1.

    Raises:
        ValueError: it does not read so, a tap is not there, or two are one.
    """
    found = [re.fullmatch(r"(\d+)-(\d+)", part.strip()) for part in text.split("/")] if text.strip() else []
    pairs = [(int(match[1]), int(match[2])) for match in found if match is not None]
    if len(pairs) < len(found):
        raise ValueError(f"irg: cannot read transform={text!r}; write pairs of taps such as 2-3 or 0-1/2-3")
    if any(a == b for a, b in pairs):
        raise ValueError(f"irg: transform={text!r} compares a tap with itself, which changes nothing; name two")
    for tap in (tap for step in pairs for tap in step):
        if tap >= taps:
            raise ValueError(f"irg: transform={text!r} names tap {tap}; this pair shares taps 0 to {taps - 1}")
    return pairs
