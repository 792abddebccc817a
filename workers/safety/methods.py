"""From a plan to the methods that act on a row. A new method is one more match arm here."""

from contract.plan import Action, SafetyPlan
from workers.safety.classifier_free import ClassifierFreeGuidance
from workers.safety.protocol import Conditioning, RowSafety

SERVED_METHODS = ("none", "filter")
SERVED_ACTIONS = (Action.ANNOTATE, Action.BLOCK)


class UnservedMethod(ValueError):
    """The plan names a method that this worker does not have; the gateway refuses it earlier."""


def build_row_safety(plan: SafetyPlan, conditioning: Conditioning) -> RowSafety:
    """The methods of one row, each a fresh instance.

    Raises:
        UnservedMethod: for a method that is not in `SERVED_METHODS`.
    """
    if unserved := [method for method in plan.methods if method not in SERVED_METHODS]:
        raise UnservedMethod(f"{', '.join(unserved)} is not served; served: {', '.join(SERVED_METHODS)}")
    match plan.guidance:
        case None:
            guidance = ClassifierFreeGuidance(conditioning)
        case other:  # pragma: no cover - refused above
            raise UnservedMethod(other.method)
    return RowSafety(guidance=guidance)
