"""An accelerator that any machine has: tensors on it are CPU tensors behind a wrapper.

PyTorch takes them for tensors of another device ("lazy", of which no machine has one). What mixes
them with the CPU's, or reads them without bringing them back, fails as on a GPU; numbers are the
CPU's, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

HERE = torch.device("lazy:0")
_MAY_MIX = {"copy_", "_to_copy", "index", "index_put_", "_index_put_impl_", "index_put"}


class Far(torch.Tensor):
    """A tensor on the accelerator."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> Far:
        made = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(),
            dtype=inner.dtype, device=HERE,
        )  # fmt: skip
        made.inner = inner
        return made  # type: ignore[no-any-return]

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    name = func.__name__.partition(".")[0]
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    far = [x for x in tensors if isinstance(x, Far)]
    near = [x for x in tensors if not isinstance(x, Far) and x.dim()]
    if far and near and name not in _MAY_MIX:
        raise RuntimeError(f"Expected all tensors to be on the same device: {func}")
    wanted = kwargs.get("device")
    if wanted is not None:
        kwargs = kwargs | {"device": torch.device("cpu")}
    goes = bool(far) if wanted is None else torch.device(wanted).type == HERE.type
    args, kwargs = tree_map(lambda x: x.inner if isinstance(x, Far) else x, (args, kwargs))
    out = func(*args, **kwargs)
    return tree_map(lambda x: Far(x) if isinstance(x, torch.Tensor) else x, out) if goes else out


class _Dispatch(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Calls(TorchFunctionMode):
    """What dispatch does not see: ``torch.tensor``, assignments to ``data``, ``numpy``."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.tensor and str(kwargs.get("device", "")).startswith(HERE.type):
            return func(*args, **kwargs | {"device": "cpu"}).to(HERE)
        if func is torch.Tensor.numpy and isinstance(args[0], Far):
            if not kwargs.get("force"):
                raise TypeError(f"can't convert {HERE} device type tensor to numpy")
            return args[0].inner.numpy(force=True)
        if func is torch.Tensor.tolist and isinstance(args[0], Far):
            return args[0].inner.tolist()
        if func == torch.Tensor.data.__set__ and isinstance(args[0], Far):  # type: ignore[attr-defined]
            args[0].inner = args[1].inner
        return func(*args, **kwargs)


@contextmanager
def fake_accelerator() -> Iterator[torch.device]:
    """Inside, there is one."""
    with _Calls(), _Dispatch():
        yield HERE
