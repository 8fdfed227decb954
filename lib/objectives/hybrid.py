"""The hybrid of Park et al. 2023, section 5: contrastive learning and masked image modelling on one backbone.

L = (1 - λ) L_MIM + λ L_CL. The contrastive half sees two unmasked views, the masked half a masked third one; both train the
same backbone. The two losses have scales of their own, so a λ means little without the recipe it was used with.
"""
from torch import Tensor

from lib.errors import CourseError
from lib.objectives import Objective
from lib.objectives.contrastive import MoCoV3
from lib.objectives.masked import SimMIM


class Hybrid(Objective):
    """A weighted sum of MoCo v3 and SimMIM, which must have been made on the same backbone.

    cl_weight: the λ of the paper, from 0 to 1. A half whose weight is 0 is left out (None): λ = 0 is SimMIM and λ = 1 is
    MoCo v3, to the last bit and at their cost. Raises CourseError where a half is missing or superfluous.
    """

    def __init__(self, cl_weight: float, contrastive: MoCoV3 | None, masked: SimMIM | None):
        super().__init__()
        if not 0 <= cl_weight <= 1:
            raise CourseError(f"the weight of the contrastive loss lies between 0 and 1, got {cl_weight}")
        if (contrastive is not None) != (cl_weight > 0) or (masked is not None) != (cl_weight < 1):
            raise CourseError(f"a weight of {cl_weight} needs the halves whose weight is not 0, and only those")
        if contrastive and masked and contrastive.backbone is not masked.backbone:
            raise CourseError("the two halves of a hybrid train one backbone; these have one each")
        self.cl_weight, self.contrastive, self.masked = cl_weight, contrastive, masked
        self.backbone = (contrastive or masked).backbone

    def prepare(self, images: Tensor, keys: Tensor) -> dict[str, Tensor]:
        """-> {"view1", "view2"} of the contrastive half and {"view", "mask"} of the masked one, keyed as they are alone."""
        halves = [half for half in (self.contrastive, self.masked) if half]
        return {name: x for half in halves for name, x in half.prepare(images, keys).items()}

    def begin_step(self, progress: float) -> None:
        if self.contrastive:
            self.contrastive.begin_step(progress)

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """-> the weighted sum, and logs: those of both halves, "mim" and "cl", their losses before weighting."""
        total, logs = 0, {}
        for name, weight, half in (("mim", 1 - self.cl_weight, self.masked), ("cl", self.cl_weight, self.contrastive)):
            if half:
                loss, more = half.loss(batch)
                total, logs = total + weight * loss, logs | more | {name: loss.detach()}
        return total, logs
