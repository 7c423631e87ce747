"""The loops that must end as they do alone; what is expected of each beyond that. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from motet.torch_versions import torch_version

STEPS = 6


@dataclass(frozen=True)
class Expected:
    """``turns``: how many synchronized turns (a tuple: at 1, 2, 3 workers); ``notice``: what the user is told."""

    turns: int | tuple[int, int, int] = STEPS
    notice: str | None = None
    alone: str | None = None  # what to run alone instead, where the loop itself cannot in a gang
    options: dict[str, str] = field(default_factory=dict)

    def turns_of(self, num_workers: int) -> int:
        return self.turns if isinstance(self.turns, int) else self.turns[num_workers - 1]


INSIDE_AUTOCAST = "inside an autocast block"
BYPASSING = "does not come through torch.autograd.backward"

LOOPS = {
    "jobs_plain:plain": Expected(),
    "jobs_plain:several_buckets": Expected(),
    "jobs_plain:longer": Expected(3 * STEPS),
    "jobs_plain:shorter": Expected(1),
    "jobs_plain:accumulation": Expected(),
    "jobs_plain:accumulation_synchronized": Expected(2 * STEPS),
    "jobs_plain:accumulation_rest": Expected(4),
    "jobs_plain:dropout": Expected(),
    "jobs_plain:clipping": Expected(),
    "jobs_plain:schedule": Expected(),
    "jobs_plain:autocast": Expected(),
    "jobs_plain:autocast_backward_inside": Expected(notice=INSIDE_AUTOCAST),
    "jobs_plain:autocast_no_cache": Expected(),
    "jobs_plain:scaler": Expected(),
    "jobs_plain:generators": Expected(),
    "jobs_plain:float64": Expected(),
    "jobs_plain:evaluation": Expected(),
    "jobs_models:frozen": Expected(),
    "jobs_models:tied": Expected(),
    "jobs_models:sparse_sgd": Expected(),
    "jobs_models:sparse_adam": Expected(),
    "jobs_models:sparse_accumulated": Expected(),
    "jobs_models:only_sparse": Expected(0),
    "jobs_models:unused_everywhere": Expected(),
    "jobs_models:unused_kept": Expected(),
    "jobs_models:unused_on_some": Expected(),
    "jobs_models:unused_on_some_kept": Expected(),
    "jobs_models:unused_bucket_view": Expected(),
    "jobs_models:unused_no_sync": Expected(),
    "jobs_models:adversaries": Expected(2 * STEPS),
    "jobs_models:adversaries_kept": Expected(2 * STEPS),
    "jobs_models:adversaries_bucket_view": Expected(2 * STEPS),
    "jobs_models:adversaries_bucket_view_kept": Expected(2 * STEPS),
    "jobs_models:adversaries_own_hook": Expected(2 * STEPS),
    "jobs_models:unused_on_all_but_one": Expected(),
    "jobs_models:static_graph_unused_buckets": Expected(),
    "jobs_models:static_graph_unused_buckets_view": Expected(),
    "jobs_models:static_graph": Expected(),
    "jobs_models:static_graph_unused": Expected(),
    "jobs_models:checkpointing": Expected(),
    "jobs_models:checkpointing_reentrant": Expected(),
    "jobs_models:checkpointing_static_graph": Expected(),
    "jobs_models:channels_last": Expected(),
    "jobs_models:channels_last_bucket_view": Expected(),
    "jobs_models:two_dtypes": Expected(),
    "jobs_models:complex_numbers": Expected(),
    "jobs_models:averaged": Expected(),
    "jobs_models:copied": Expected(2 * STEPS),
    "jobs_models:one_after_the_other": Expected(),
    "jobs_buffers:every_moment": Expected(),
    "jobs_buffers:never_looked_at": Expected(),
    "jobs_buffers:local_buffers": Expected(),
    "jobs_buffers:evaluation_through_ddp": Expected(),
    "jobs_buffers:evaluation_of_the_module": Expected(),
    "jobs_buffers:accumulation": Expected(),
    "jobs_buffers:training_without_gradients": Expected(),
    "jobs_buffers:changed_after_backward": Expected(),
    "jobs_buffers:changed_unseen": Expected(options={"buffers": "blocking"}),
    "jobs_buffers:steps_that_do_not_train": Expected(),
    "jobs_buffers:buffers_of_all_kinds": Expected(),
    "jobs_buffers:gan": Expected(2 * STEPS),
    "jobs_buffers:two_models_one_backward": Expected(),
    "jobs_buffers:two_models_two_backwards": Expected(STEPS + STEPS // 2),
    "jobs_buffers:teacher": Expected(),
    "jobs_gradients:surgery": Expected(2 * STEPS),
    "jobs_gradients:surgery_wide": Expected(2 * STEPS),
    "jobs_gradients:accumulation_wide": Expected(STEPS - STEPS // 2),
    "jobs_gradients:surgery_detached": Expected(2 * STEPS),
    "jobs_gradients:surgery_bucket_view": Expected(2 * STEPS),
    "jobs_gradients:bucket_view": Expected(STEPS + 2),
    "jobs_gradients:bucket_view_none": Expected(STEPS + 2),
    "jobs_gradients:bucket_view_mixed": Expected(STEPS + 2),
    "jobs_gradients:bucket_view_accumulation": Expected(),
    "jobs_gradients:own_hook": Expected(),
    "jobs_gradients:noop_hook": Expected(),
    "jobs_gradients:fp16_hook": Expected(),
    "jobs_gradients:fp16_hook_bucket_view": Expected(),
    "jobs_gradients:wrapped_hook": Expected(),
    "jobs_gradients:allreduce_hook": Expected(),
    "jobs_gradients:builtin_hook": Expected(),
    "jobs_gradients:builtin_fp16_hook": Expected(),
    "jobs_gradients:early_binding": Expected(),
    "jobs_gradients:closure": Expected(),
    "jobs_gradients:closure_lbfgs": Expected(3 * STEPS),
    "jobs_gradients:gradient_penalty": Expected(),
    "jobs_gradients:tensor_hooks": Expected(),
    "jobs_gradients:retained_graph": Expected(),
    "jobs_gradients:around_the_seam": Expected(0, notice=BYPASSING),
    "jobs_gradients:around_the_seam_at_times": Expected(STEPS // 2, notice=BYPASSING),
    "jobs_gradients:on_another_thread": Expected(0, notice=BYPASSING),
    "jobs_gradients:nothing_to_synchronize": Expected(),
    "jobs_collectives:mean_loss": Expected(),
    "jobs_collectives:mean_loss_before": Expected(),
    "jobs_collectives:conversation": Expected(),
    "jobs_collectives:groups": Expected(),
    "jobs_collectives:mesh": Expected(),
    "jobs_collectives:saving": Expected(),
    "jobs_collectives:group_of_its_own": Expected(alone="jobs_collectives:training"),
    "jobs_collectives:group_ended_twice": Expected(alone="jobs_collectives:training"),
    "jobs_collectives:sharded_optimizer": Expected(),
    "jobs_collectives:loader": Expected((12, 6, 4)),
    "jobs_collectives:loader_workers": Expected((12, 6, 4)),
    "jobs_collectives:loader_workers_persistent": Expected((12, 6, 4)),
    "jobs_collectives:loader_shuffled": Expected(10),
}

TORCH = torch_version() or ()
# Loops whose options DDP has since these versions of torch.
SINCE = {
    (2, 12): {
        "jobs_gradients:batched_grad_copy": Expected(),
        "jobs_gradients:batched_grad_copy_accumulation": Expected(),
    },
    (2, 15): {
        "jobs_newer:lazy_buckets": Expected(),
        "jobs_newer:lazy_buckets_batched": Expected(),
        "jobs_newer:lazy_buckets_view": Expected(),
        "jobs_newer:lazy_buckets_hook": Expected(),
        "jobs_newer:lazy_buckets_unused": Expected(),
        "jobs_newer:lazy_buckets_accumulation": Expected(),
        "jobs_newer:manual_finalization": Expected(),
        "jobs_newer:manual_finalization_view": Expected(),
        "jobs_newer:manual_finalization_lazy": Expected(),
        "jobs_newer:manual_finalization_hook": Expected(),
    },
}
for _version, _loops in SINCE.items():
    if _version <= TORCH:
        LOOPS |= _loops
