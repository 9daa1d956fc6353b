"""A device that computes on the CPU and forgives nothing: what fails on a GPU fails on it, without one.

It is torch's slot for foreign devices (``privateuseone``), filled from Python. A tensor on it wraps one of the CPU, so
that results are those of the CPU to the bit. On it

* an operation on tensors of two devices raises, but for what CUDA allows: a number without axes in an elementwise
  operation, and an index on the CPU;
* a generator of another device raises;
* whatever makes the host wait for the device, or copy to it from memory it may reuse, is noted with the line of this
  package that asked for it: numbers read (``item``, ``float``, ``bool``, ``tolist``), copies in either direction,
  operations whose result has a size that only the device knows (a mask as an index, ``nonzero``).

What it cannot see: memory, kernels that CUDA lacks, their rounding, and waiting inside a kernel that is not listed.
"""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning.pytorch.accelerators import Accelerator
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

aten = torch.ops.aten
NAME = "strict"
PLAIN_GENERATOR = torch.Generator
COPIES = {aten._to_copy.default, aten.copy_.default, aten.copy.default}
INDEXED = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}
NUMBERS_ALLOWED = {*INDEXED, aten.fill_.Tensor}  # beside elementwise operations
WAITING = {  # on CUDA, for a size or a check
    aten.nonzero.default, aten.masked_select.default, aten.equal.default, aten.multinomial.default,
    aten.bincount.default, aten._unique2.default, aten.unique_dim.default, aten.unique_consecutive.default,
}  # fmt: skip


class _Module(_DummyBackendModule):
    """``torch.strict``: what torch asks of a device's module."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]

    def synchronize(self, device: Any = None) -> None:
        """Nothing runs by itself here."""

    def get_rng_state(self, device: Any = None) -> Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: Tensor, device: Any = None) -> None:
        torch.set_rng_state(state)


_setup_privateuseone_for_python_backend(NAME, backend_module=_Module())
DEVICE = torch.device(f"{NAME}:0")


@dataclass
class Notes:
    """What made the host wait, a line each: what it was and who asked for it."""

    waits: list[str] = field(default_factory=list)


_notes: list[Notes] = []


@contextmanager
def waits() -> Iterator[list[str]]:
    """Collects what makes the host wait inside."""
    notes = Notes()
    _notes.append(notes)
    try:
        yield notes.waits
    finally:
        _notes.remove(notes)


def _wait(what: str) -> None:
    if _notes:
        frames = [
            f
            for f in traceback.extract_stack()
            if any(p in f.filename for p in ("/pgd_lightning/", "/lightning/", "/tests/test_"))
        ]
        where = " < ".join(f"{f.filename.rpartition('/')[2]}:{f.lineno}" for f in reversed(frames[-3:]))
        for notes in _notes:
            notes.waits.append(f"{what}: {where}")


class OnDevice(Tensor):
    """A tensor of the device around ``inner``, a tensor of the CPU."""

    inner: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner: Tensor) -> "OnDevice":
        made: OnDevice = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
            device=DEVICE,
        )  # fmt: skip
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(function, args, kwargs or {})

    def __reduce_ex__(self, protocol: Any) -> Any:
        # Into a file, and back to the CPU: how this package, and Lightning for it, load every checkpoint.
        return _loaded, (self.inner.detach(), self.requires_grad)

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def __repr__(self, **_: Any) -> str:
        return f"{NAME}({self.inner})"


def _loaded(tensor: Tensor, requires_grad: bool) -> Tensor:
    return tensor.requires_grad_(requires_grad)


torch.serialization.add_safe_globals([_loaded])


_generators: dict[int, torch.Generator] = {}  # of the device, by address; kept, so that no address comes again


class Generator(PLAIN_GENERATOR):
    """``torch.Generator`` that may be one of the device."""

    def __new__(cls, device: Any = "cpu") -> "Generator":
        made: Generator = super().__new__(cls, "cpu")
        if torch.device(device).type == NAME:
            _generators[made._cdata] = made  # type: ignore[attr-defined]
        return made


def _run(function: Any, args: Any, kwargs: Any) -> Any:
    flat, _ = tree_flatten((args, kwargs))
    here = [t for t in flat if isinstance(t, OnDevice)]
    there = [t for t in flat if isinstance(t, Tensor) and not isinstance(t, OnDevice)]
    target = kwargs.get("device")
    target = target.type if target is not None else NAME if here else "cpu"
    _check_generators(function, flat, target)
    if function in COPIES:
        return _copied(function, args, kwargs, target)
    _check_devices(function, args, here, there)
    if function is aten._local_scalar_dense.default:
        _wait("a number read")
    if function in WAITING or (function in INDEXED and _masks(args[1])):
        _wait(f"{function} waits for a size or a check")
    if function in INDEXED and any(isinstance(i, Tensor) and not isinstance(i, OnDevice) for i in args[1]):
        _wait("an index copied to the device")
    inside_args, inside_kwargs = _inside(args), _inside(kwargs)
    if function in REPLACED:
        return tree_map(_outside, REPLACED[function](*inside_args, **inside_kwargs))
    out = tree_map(_outside, function(*inside_args, **inside_kwargs))
    return return_and_correct_aliasing(function, args, kwargs, out) if here else out


def _gru_cell(of_input: Tensor, of_hidden: Tensor, hx: Tensor, *biases: Tensor) -> tuple[Tensor, Tensor]:
    """The fused cell that torch calls on every device but the CPU, which lacks it; the last is for its gradient."""
    if biases[0] is not None:
        of_input, of_hidden = of_input + biases[0], of_hidden + biases[1]
    (ri, zi, ni), (rh, zh, nh) = of_input.chunk(3, 1), of_hidden.chunk(3, 1)
    r, z = (ri + rh).sigmoid(), (zi + zh).sigmoid()
    n = (ni + r * nh).tanh()
    return n + z * (hx - n), torch.cat([r, z, n, hx, nh], 1)


def _gru_cell_backward(grad: Tensor, workspace: Tensor, has_bias: bool) -> tuple[Tensor, ...]:
    r, z, n, hx, nh = workspace.chunk(5, 1)
    to_n = grad * (1 - z) * (1 - n**2)
    shared = to_n * nh * (1 - r) * r, grad * (hx - n) * (1 - z) * z
    inputs, hidden = torch.cat([*shared, to_n], 1), torch.cat([*shared, to_n * r], 1)
    return inputs, hidden, grad * z, inputs.sum(0), hidden.sum(0)


REPLACED = {
    aten._thnn_fused_gru_cell.default: _gru_cell,
    aten._thnn_fused_gru_cell_backward.default: _gru_cell_backward,
}


def _copied(function: Any, args: Any, kwargs: Any, target: str) -> Any:
    """A copy, perhaps from one device to the other."""
    if function is aten._to_copy.default:
        source = NAME if isinstance(args[0], OnDevice) else "cpu"
        blocking = not kwargs.get("non_blocking", False)
        out = function(_inside(args[0]), **_inside(kwargs))
        _note_copy(source, target, blocking)
        return OnDevice(out) if target == NAME else out
    destination, source = args[0], args[1]
    blocking = not (args[2] if len(args) > 2 else kwargs.get("non_blocking", False))
    _note_copy(*(NAME if isinstance(t, OnDevice) else "cpu" for t in (source, destination)), blocking)
    function(_inside(destination), _inside(source))
    return destination


def _note_copy(source: str, target: str, blocking: bool) -> None:
    if source == NAME and target != NAME:
        _wait("a copy to the host")
    if source != NAME and target == NAME and blocking:
        _wait("a copy to the device that is waited for")


def _masks(indices: Any) -> bool:
    return any(isinstance(i, OnDevice) and i.dtype in (torch.bool, torch.uint8) for i in indices)


def _check_devices(function: Any, args: Any, here: list[Any], there: list[Tensor]) -> None:
    if not here or not there:
        return
    numbers = function in NUMBERS_ALLOWED or torch.Tag.pointwise in function.tags
    if function in INDEXED:
        there = [t for t in there if not any(t is i for i in args[1])]
    if args and isinstance(args[0], Tensor) and not isinstance(args[0], OnDevice) and function._schema.is_mutable:
        raise RuntimeError(f"{function} writes results of {NAME} into a tensor on the CPU")
    if any(t.dim() > 0 or not numbers for t in there):
        raise RuntimeError(
            f"Expected all tensors to be on the same device: {function} got {[tuple(t.shape) for t in here]} on {NAME} "
            f"and {[tuple(t.shape) for t in there]} on the CPU"
        )


def _check_generators(function: Any, flat: list[Any], target: str) -> None:
    for generator in flat:
        if isinstance(generator, PLAIN_GENERATOR) and (generator._cdata in _generators) != (target == NAME):
            raise RuntimeError(f"{function}: expected a {target} generator")


def _inside(value: Any) -> Any:
    def one(item: Any) -> Any:
        if isinstance(item, OnDevice):
            return item.inner
        return torch.device("cpu") if isinstance(item, torch.device) and item.type == NAME else item

    return tree_map(one, value)


def _outside(value: Any) -> Any:
    return OnDevice(value) if isinstance(value, Tensor) and not isinstance(value, OnDevice) else value


class Factories(TorchDispatchMode):
    """Makes tensors on the device where ``device=`` says so."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        device = kwargs.get("device")
        flat, _ = tree_flatten((args, kwargs))
        if any(isinstance(item, OnDevice) for item in flat) or (device is not None and device.type == NAME):
            return _run(function, args, kwargs)
        _check_generators(function, flat, "cpu")
        return function(*args, **kwargs)


def _empty_strided(size: Any, stride: Any, dtype: Any = None, **_: Any) -> Tensor:
    return OnDevice(torch.empty_strided(size, stride, dtype=dtype))


def _copy_from(source: Tensor, destination: Tensor, non_blocking: bool = False) -> Tensor:
    return _copied(aten.copy_.default, (destination, source, non_blocking), {}, NAME)


_library = torch.library.Library("aten", "IMPL")
_library.impl("empty_strided", _empty_strided, "PrivateUse1")  # these two for torch.tensor and torch.as_tensor
_library.impl("_copy_from", _copy_from, "PrivateUse1")
_fallback = torch.library.Library("_", "IMPL")
_fallback.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")


@contextmanager
def strict_device() -> Iterator[torch.device]:
    """The device, which exists inside."""
    swaps = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)  # parameters stay the same objects, as on a GPU
    torch.Generator = Generator  # type: ignore[misc]
    try:
        with Factories():
            yield DEVICE
    finally:
        torch.Generator = PLAIN_GENERATOR  # type: ignore[misc]
        torch.__future__.set_swap_module_params_on_conversion(swaps)


class StrictAccelerator(Accelerator):
    """The device as Lightning's Trainer takes it, with :func:`strategy`."""

    @staticmethod
    def parse_devices(devices: Any) -> Any:
        return devices

    @staticmethod
    def get_parallel_devices(devices: Any) -> list[torch.device]:
        return [DEVICE]

    @staticmethod
    def auto_device_count() -> int:
        return 1

    @staticmethod
    def is_available() -> bool:
        return True

    @staticmethod
    def name() -> str:
        return NAME

    def setup_device(self, device: torch.device) -> None:
        """Nothing."""

    def teardown(self) -> None:
        """Nothing."""

    def get_device_stats(self, device: Any) -> dict[str, Any]:
        return {}


def strategy() -> SingleDeviceStrategy:
    """For ``Trainer(strategy=strategy())``."""
    return SingleDeviceStrategy(device=DEVICE, accelerator=StrictAccelerator())
