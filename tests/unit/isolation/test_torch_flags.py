"""torch's modes, flags and defaults are each job's own."""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from greenlet import greenlet
from tests.unit.isolation.test_isolation import Job, alternate, check_apart
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from motet import isolation
from motet.isolation import torch_flags
from motet.torch_versions import CONFIG_PER_CONTEXT

_C: Any = torch._C


@pytest.fixture(autouse=True)
def _everything_as_before() -> Iterator[None]:
    before = isolation.take_all()
    yield
    isolation.put_all(before)


def _enter(context: Any) -> Callable[[], object]:
    """Enter a context and never leave it: the worst that a job can do."""
    return context.__enter__  # type: ignore[no-any-return]


CASES: dict[str, tuple[Callable[[], object], Callable[[], object], Callable[[], object]]] = {
    "grad mode": (torch.is_grad_enabled, lambda: torch.set_grad_enabled(False), _enter(torch.no_grad())),
    "default dtype": (
        torch.get_default_dtype,
        lambda: torch.set_default_dtype(torch.float64),
        lambda: torch.set_default_dtype(torch.bfloat16),
    ),
    "default device": (
        lambda: torch.empty(0).device.type,
        lambda: torch.set_default_device("meta"),
        _enter(torch.device("meta")),
    ),
    "number of threads": (
        torch.get_num_threads,
        lambda: torch.set_num_threads(torch.get_num_threads() + 1),
        lambda: torch.set_num_threads(torch.get_num_threads() + 2),
    ),
    "deterministic algorithms": (
        lambda: (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()),
        lambda: torch.use_deterministic_algorithms(True),
        lambda: torch.use_deterministic_algorithms(True, warn_only=True),
    ),
    "filling": (
        lambda: torch.utils.deterministic.fill_uninitialized_memory,
        lambda: setattr(torch.utils.deterministic, "fill_uninitialized_memory", False),
        lambda: setattr(torch.utils.deterministic, "fill_uninitialized_memory", False),
    ),
    "cudnn": (
        lambda: (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic, torch.backends.cudnn.enabled),
        lambda: setattr(torch.backends.cudnn, "benchmark", True),
        lambda: setattr(torch.backends.cudnn, "deterministic", True),
    ),
    "anomaly mode": (
        lambda: (torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()),
        lambda: torch.autograd.set_detect_anomaly(True),
        lambda: torch.autograd.set_detect_anomaly(True, check_nan=False),
    ),
    "attention": (
        lambda: (
            torch.backends.cuda.flash_sdp_enabled(),
            torch.backends.cuda.mem_efficient_sdp_enabled(),
            torch.backends.cuda.math_sdp_enabled(),
            torch.backends.cuda.cudnn_sdp_enabled(),
            _C._get_sdp_priority_order(),
        ),
        lambda: torch.backends.cuda.enable_flash_sdp(False),
        _enter(torch.nn.attention.sdpa_kernel([torch.nn.attention.SDPBackend.MATH], set_priority=True)),
    ),
    "float32 precision": (
        torch_flags.take_precision,
        lambda: torch.set_float32_matmul_precision("high"),
        lambda: setattr(torch.backends.cuda.matmul, "fp32_precision", "tf32"),
    ),
    "convolution precision": (
        torch_flags.take_precision,
        lambda: setattr(torch.backends.cudnn, "allow_tf32", False),
        lambda: setattr(torch.backends, "fp32_precision", "ieee"),
    ),
    "reduced precision": (
        _C._get_cublas_allow_fp16_reduced_precision_reduction,
        lambda: setattr(torch.backends.cuda.matmul, "allow_fp16_reduced_precision_reduction", False),
        lambda: setattr(torch.backends.cuda.matmul, "allow_fp16_reduced_precision_reduction", (False, False)),
    ),
    "oneDNN": (
        lambda: torch.backends.mkldnn.enabled,  # type: ignore[attr-defined]
        lambda: torch.backends.mkldnn.set_flags(False),
        lambda: torch.backends.mkldnn.set_flags(False),
    ),
    "print options": (
        lambda: repr(torch.tensor(1 / 3)),
        lambda: torch.set_printoptions(precision=2),
        lambda: torch.set_printoptions(sci_mode=True),
    ),
    "inference mode": (
        torch.is_inference_mode_enabled,
        _enter(torch.inference_mode()),
        _enter(torch.inference_mode()),
    ),
    "warnings of torch": (
        torch.is_warn_always_enabled,
        lambda: torch.set_warn_always(True),
        lambda: torch.set_warn_always(True),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_each_job_finds_its_own(name: str) -> None:
    check_apart(*CASES[name])


def test_inductors_flag_goes_with_deterministic_algorithms() -> None:
    """Torch keeps it in a context variable, and every greenlet has a context of its own: no entry is needed."""
    config = pytest.importorskip("torch._inductor.config")
    config.deterministic = False
    job = greenlet(lambda: torch.use_deterministic_algorithms(True))
    job.gr_context = context = contextvars.copy_context()
    outside = isolation.take_all()
    job.switch()
    assert torch.are_deterministic_algorithms_enabled()
    isolation.put_all(outside)
    assert not torch.are_deterministic_algorithms_enabled()
    assert not config.deterministic
    if CONFIG_PER_CONTEXT.there:  # otherwise an entry brings it back
        assert context.run(lambda: config.deterministic), "the job finds it again"


def test_precision_that_follows_a_general_setting_goes_on_following_it() -> None:
    def job() -> Job:
        torch.backends.fp32_precision = "ieee"
        yield
        yield
        torch.backends.fp32_precision = "tf32"
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"

    def other() -> Job:
        for _ in range(3):
            assert torch.get_float32_matmul_precision() == "highest"
            assert torch.backends.cuda.matmul.fp32_precision == "none"
            yield

    alternate(job(), other())


def test_blocks_that_are_open_while_others_compute() -> None:
    """Contexts restore what they found; a switch in the middle must not make them restore another job's."""

    def job(block: Any, read: Callable[[], object]) -> Job:
        outer = read()
        with block:
            inner = read()
            for _ in range(3):
                yield
                assert read() == inner
        assert read() == outer
        yield
        assert read() == outer

    def grad() -> object:
        return (torch.ones((), requires_grad=True) * 2).requires_grad

    def matmul_dtype() -> object:
        return (torch.ones(1, 1) @ torch.ones(1, 1)).dtype

    def idle() -> Job:
        for _ in range(8):
            assert grad()
            assert matmul_dtype() == torch.float32
            assert torch.empty(0).device.type == "cpu"
            assert not torch.ones(1).is_inference()
            yield

    alternate(
        idle(),
        job(torch.no_grad(), grad),
        job(torch.autocast("cpu", torch.bfloat16, cache_enabled=False), matmul_dtype),
        job(torch.autocast("cpu", torch.float16, cache_enabled=False), matmul_dtype),
        job(torch.inference_mode(), lambda: torch.ones(1).is_inference()),
        job(torch.device("meta"), lambda: torch.empty(0).device.type),
        job(torch.inference_mode(), lambda: (torch.ones(1).is_inference(), matmul_dtype())),
    )
    assert grad()
    assert matmul_dtype() == torch.float32


def test_grad_mode_inside_inference_mode_and_the_other_way_round() -> None:
    def job(*blocks: Any) -> Job:
        with blocks[0], blocks[1]:
            mine = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
            for _ in range(3):
                yield
                assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled()) == mine

    alternate(
        job(torch.inference_mode(), torch.enable_grad()),
        job(torch.no_grad(), torch.inference_mode(False)),
        job(torch.inference_mode(), torch.inference_mode(False)),
        job(torch.inference_mode(False), torch.no_grad()),
    )
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()


def test_guards_do_not_pile_up() -> None:
    before = len(torch_flags._inference_guards)

    def job() -> Job:
        with torch.inference_mode():
            for _ in range(20):
                yield

    def other() -> Job:
        for _ in range(20):
            yield

    alternate(job(), other())
    assert len(torch_flags._inference_guards) <= before + 1


def test_autocast_counts_its_depth_for_each_job() -> None:
    """Otherwise the block of another job would count as an inner one, and keep its casts of stale weights."""
    weight = torch.ones(1, 1, requires_grad=True)

    def open_block() -> Job:
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
            yield
            yield

    def cast() -> float:
        with torch.autocast("cpu", torch.bfloat16):
            return (torch.ones(1, 1) @ weight).item()

    def stepping() -> Job:
        assert cast() == 1
        with torch.no_grad():
            weight.fill_(2)
        assert cast() == 2
        yield

    alternate(open_block(), stepping())


def test_modes_see_only_their_own_jobs_calls() -> None:
    class Counting(TorchFunctionMode):
        num_calls = 0

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.num_calls += func is torch.add
            return func(*args, **(kwargs or {}))

    class CountingBelow(TorchDispatchMode):
        num_calls = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.num_calls += func is torch.ops.aten.add.Tensor
            return func(*args, **(kwargs or {}))

    above, below = Counting(), CountingBelow()

    def counted() -> Job:
        with above, below, torch.device("meta"):
            for _ in range(3):
                assert torch.add(torch.ones(1), 1).device.type == "meta"
                yield

    def other() -> Job:
        for _ in range(3):
            assert torch.add(torch.ones(1), 1).device.type == "cpu"
            yield

    alternate(other(), counted(), other())
    assert (above.num_calls, below.num_calls) == (3, 3)
    torch.add(torch.ones(1), 1)
    assert (above.num_calls, below.num_calls) == (3, 3)


def test_saved_tensor_hooks_stay_with_their_job() -> None:
    packed: list[str] = []

    def hooks(name: str) -> Any:
        return torch.autograd.graph.saved_tensors_hooks(lambda t: (packed.append(name), t)[1], lambda t: t)

    def job() -> Job:
        with hooks("outer"):
            with hooks("inner"):
                yield
                torch.ones(1, requires_grad=True).exp()
            torch.ones(1, requires_grad=True).exp()
            yield

    def other() -> Job:
        for _ in range(3):
            torch.ones(1, requires_grad=True).exp()
            yield

    alternate(job(), other())
    assert packed == ["inner", "outer"]


def test_what_is_equal_is_not_set_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(value: object) -> None:
        raise AssertionError("set without need")

    monkeypatch.setattr(torch_flags, "_FLAGS", tuple((get, forbidden) for get in torch_flags._GETTERS))
    isolation.put_all(isolation.take_all())


def test_every_flag_of_this_torch_is_known() -> None:
    known = {name for pair in torch_flags._NAMES for name in pair}
    missing = {name for name in known if not hasattr(_C, name)}
    assert missing <= {"_cuda_get_cudnn_benchmark_limit", "_cuda_set_cudnn_benchmark_limit"}  # CUDA builds only


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_the_stream_of_an_open_block_is_its_jobs() -> None:
    torch.cuda.init()
    usual = torch.cuda.current_stream()

    def job() -> Job:
        mine = torch.cuda.Stream()
        with torch.cuda.stream(mine):
            for _ in range(3):
                yield
                assert torch.cuda.current_stream() == mine

    def other() -> Job:
        for _ in range(4):
            assert torch.cuda.current_stream() == usual
            yield

    alternate(job(), other())
    assert torch.cuda.current_stream() == usual
