"""What ``motet plan`` says, worked out from measured costs: pure. What measures them is `motet.profiling`.

::

    plan                      the profile, the plan that follows from it, and the file in which both are kept
    alternatives              the same costs on other links, with other workers, trained in other ways; what to do
    offload                   what ``--offload idle`` would cost
"""

from __future__ import annotations

from motet.plan.plan import Buckets, Plan, Profile, make_plan, plan_text, saved_order, saved_prediction, saved_profile

__all__ = [
    "Buckets",
    "Plan",
    "Profile",
    "make_plan",
    "plan_text",
    "saved_order",
    "saved_prediction",
    "saved_profile",
]
