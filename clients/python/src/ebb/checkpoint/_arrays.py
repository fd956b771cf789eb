"""Arrays of NumPy, PyTorch and JAX as runs of bytes. None of the last two is imported before the caller has done so, or
an array of it is made anew.

I1  No address is handed out before it was checked: the memory behind it is there, and reaches as far as the elements
    do. A tensor may have none (freed, fake, on the device meta, made of other tensors), whatever its shape says.
I2  What an array is beside dtype and shape is in its `Form`, or it is refused: no type, byte order, flag, attribute or
    order of its elements in memory is lost.
I3  Arrays over the same memory have flags of their own: what is made of one changes no other.
"""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Hashable, Iterator, Sequence
from importlib.util import find_spec
from typing import Any, Callable, NamedTuple

import numpy as np

from ..errors import UnsupportedError
from ._tree import Described, Form
from ._tree_text import decode, encode
from ._values import dtype_of, is_constant, kind_name

NUMPY, TORCH, JAX = "numpy", "torch", "jax"

_TORCH_DTYPES = (
    "bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64",
    "float16", "bfloat16", "float32", "float64", "complex64", "complex128",
    "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz",
)  # fmt: skip
#: Dates and durations travel as their counts.
_COUNTED_KINDS = "mM"
#: Types of C beside another with as many bits: elements of `longlong` are of another type than those of `int64`.
_ALIASES = frozenset(char for char in "hHiIlLqQ" if np.dtype(np.dtype(char).str).char != char)


class Spec(NamedTuple):
    """What an array is. `dtype` is a key of ``ITEM_BYTES``; `shape` in elements; `nbytes` in bytes."""

    dtype: str
    shape: tuple[int, ...]
    nbytes: int


#: Of the libraries' own classes of arrays that were met. Others are asked anew: the library of what is no array may
#: come later, and programs may make any number of classes, which would be kept.
_kinds: dict[type, str] = {}
_LIBRARIES = frozenset({NUMPY, TORCH, JAX, "jaxlib"})


def kind_of(value: Any) -> str | None:
    """Whose array a value is; None: it is no array. Scalars of NumPy are values."""
    kind = _kinds.get(type(value))
    return _find_kind(value) if kind is None else kind


def _find_kind(value: Any) -> str | None:
    torch, jax = sys.modules.get("torch"), sys.modules.get("jax")
    if isinstance(value, np.ndarray):
        kind = NUMPY
    elif torch is not None and isinstance(value, torch.Tensor):
        kind = TORCH
    elif jax is not None and isinstance(value, jax.Array):
        kind = JAX
    else:
        return None
    if type(value).__module__.partition(".")[0] in _LIBRARIES:
        _kinds[type(value)] = kind
    return kind


def describe(value: Any) -> Described | None:
    """What it takes to make the same array again; None: it is no array.

    Raises:
        UnsupportedError: it could not be made again, or has no memory.
    """
    kind = kind_of(value)
    if kind is None:
        return None
    if kind == TORCH:
        _checked(value)
    else:
        spec_of(value)
    form_of, identity_of = _FORMS[kind]
    return Described(kind, form_of(value), identity_of(value))


def spec_of(value: Any) -> Spec:
    """
    Raises:
        UnsupportedError: what checkpoints do not take (objects, strings; quantized, sparse or distributed tensors), or
            what has no memory.
    """
    kind = kind_of(value)
    if kind == TORCH:
        return _torch_spec(value)
    return _numpy_spec(value) if kind == NUMPY else _jax_spec(value)


def known_spec(value: Any) -> Spec:
    """`spec_of` an array that `describe` took: it is not asked again whether it has memory."""
    if kind_of(value) == TORCH:
        return Spec(_torch_name(value.dtype), tuple(value.shape), value.numel() * value.element_size())
    return spec_of(value)


def dtype_label(value: Any) -> str:
    """The dtype as it is told to people, and compared: byte orders are alike, units of dates are not."""
    if isinstance(value, np.ndarray) and value.dtype.kind in _COUNTED_KINDS:
        return str(value.dtype.name)
    return known_spec(value).dtype


def identity(value: Any) -> Hashable:
    """The same for arrays that are the same elements of the same memory: tied weights have a tensor each in a state."""
    kind = kind_of(value)
    return id(value) if kind is None else _FORMS[kind][1](value)


def _torch_identity(tensor: Any) -> Hashable:
    if tensor.numel() == 0:
        return id(tensor)
    strides = None if tensor.is_contiguous() else _strides(tensor.shape, tensor.stride())
    return (
        *(TORCH, tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, strides),
        *(tensor.is_conj(), tensor.is_neg()),
    )


def _numpy_identity(array: np.ndarray[Any, Any]) -> Hashable:
    if array.size == 0:
        return id(array)
    strides = None if array.flags.c_contiguous else _strides(array.shape, array.strides)
    return (NUMPY, address(array), array.dtype.str, array.shape, strides, array.flags.writeable)


def is_cuda(value: Any) -> bool:
    return kind_of(value) == TORCH and value.is_cuda


def address_of(value: Any) -> int | None:
    """Where the bytes of a CPU array lie in memory, row by row; None when they do not lie so, or on a device.

    Raises:
        UnsupportedError: there is no memory (I1).
    """
    if kind_of(value) == TORCH:
        _checked(value)
    return _address(value)


def known_address_of(value: Any, nbytes: int) -> int | None:
    """`address_of` an array that `describe` took, of which as many bytes are to be copied. Since then another thread
    may have changed it, or freed its memory.

    Raises:
        UnsupportedError: one has.
    """
    if kind_of(value) != TORCH:
        assert_there(value, nbytes)
        return _address(value)
    start = _torch_address(value)
    if (
        not start  # no memory, or elements that lie otherwise: what copies them would not look, either
        or value.nbytes != nbytes
        or value.untyped_storage().nbytes() < value.storage_offset() * value.element_size() + nbytes
    ):
        assert_there(value, nbytes)
    return start


def assert_there(value: Any, nbytes: int) -> None:
    """
    Raises:
        UnsupportedError: it has not that many bytes, or not the memory for them (I1).
    """
    kind = kind_of(value)
    if kind == TORCH:
        _checked(value)
    elif kind == NUMPY:
        _assert_numpy_memory(value)
    else:
        _jax_spec(value)
    if value.nbytes != nbytes:
        raise UnsupportedError(f"it had {nbytes} bytes when it was looked at, and has {value.nbytes}: it was changed")


def _address(value: Any) -> int | None:
    kind = kind_of(value)
    if kind == TORCH:
        return _torch_address(value)
    if kind == NUMPY and value.flags.c_contiguous and value.dtype.isnative:
        return address(value)
    return None


def _torch_address(tensor: Any) -> int | None:
    is_plain = tensor.is_cpu and tensor.is_contiguous() and not tensor.is_conj() and not tensor.is_neg()
    return int(tensor.data_ptr()) if is_plain else None


def address(array: np.ndarray[Any, Any]) -> int:
    """Of a host array's first byte."""
    return int(array.__array_interface__["data"][0])


def host_copy(value: Any) -> np.ndarray[Any, Any]:
    """The bytes of any array as a contiguous host array; one that lies so already is not copied."""
    kind = kind_of(value)
    if kind == TORCH:
        return _torch_bytes(resolved(value).cpu().contiguous())
    array = np.asarray(value)
    native = array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))
    return np.ascontiguousarray(native).reshape(-1).view(np.uint8)


def resolved(tensor: Any) -> Any:
    """A tensor whose bytes are its values: `conj` and the imaginary part of it only mark what is to be computed."""
    return tensor.detach().resolve_conj().resolve_neg()


def flat(tensor: Any) -> Any:
    """The elements of a contiguous tensor in one dimension, without a copy. `reshape` keeps odd strides of one element,
    which PyTorch then does not view as bytes."""
    return tensor.as_strided((tensor.numel(),), (1,))


def fill(target: Any, source: Any) -> None:
    """Overwrites an array in place with another of its shape.

    Raises:
        UnsupportedError: it cannot be written (JAX arrays, read-only ones, elements that lie on each other).
    """
    kind = kind_of(target)
    is_written = kind == TORCH or (kind == NUMPY and target.flags.writeable)
    if not is_written or _overlaps_itself(target):
        raise UnsupportedError("an array that cannot be written is not restored in place: take what `restore` returns")
    if kind == TORCH:
        torch = sys.modules["torch"]
        with torch.no_grad():
            target.copy_(source if kind_of(source) == TORCH else _torch_view(source))
        return
    np.copyto(target, source if kind_of(source) == NUMPY else source.numpy())


def mark_written(tensors: Sequence[Any]) -> None:
    """Tells autograd that tensors were overwritten behind its back, so that a backward pass that needs what they were
    fails, and gives no wrong gradient."""
    torch = sys.modules.get("torch")
    if torch is None:
        return
    for one in tensors:
        if isinstance(one, torch.Tensor) and not one.is_inference():
            torch.autograd.graph.increment_version(one)


def _strides(shape: Sequence[int], strides: Sequence[int]) -> tuple[int, ...]:
    """Those that say something."""
    return tuple(stride if n != 1 else 0 for n, stride in zip(shape, strides))


def order_of(shape: Sequence[int], strides: Sequence[int], item: int) -> tuple[int, ...] | None:
    """Dimensions from the outermost in memory to the innermost, where elements lie close, and not row by row.

    Args:
        strides: in the unit of `item`, the size of an element: NumPy's are bytes, and need be no multiples of it.
    """
    kept = [n for n in range(len(shape)) if shape[n] != 1]
    order = sorted(kept, key=lambda n: -strides[n])
    if order == kept:
        return None
    behind = item
    for n in reversed(order):
        if strides[n] != behind:
            return None
        behind *= shape[n]
    return (*order, *(n for n in range(len(shape)) if shape[n] == 1))


def _overlaps_itself(array: Any) -> bool:
    if kind_of(array) == TORCH:
        return overlaps_itself(tuple(array.shape), array.stride(), 1)
    return overlaps_itself(array.shape, array.strides, array.itemsize)


def overlaps_itself(shape: Sequence[int], strides: Sequence[int], item: int) -> bool:
    """Whether elements may lie on each other. `strides` and `item`: as in `order_of`."""
    if 0 in shape:
        return False
    end = item
    for stride, n in sorted((abs(stride), n) for stride, n in zip(strides, shape) if n > 1):
        if stride < end:
            return True
        end += stride * (n - 1)
    return False


# -- from bytes to arrays --------------------------------------------------------------------------------------------


def is_here(kind: str) -> bool:
    """Whether arrays of this kind can be made: their library is installed."""
    return kind == NUMPY or kind in sys.modules or find_spec(kind) is not None


def wrap(kind: str, source: np.ndarray[Any, Any], dtype: str, shape: tuple[int, ...]) -> Any:
    """An array over these bytes (``uint8``, one dimension), without a copy. Of JAX: one of NumPy, for `dressed`."""
    if kind == TORCH and is_here(TORCH):
        return _torch_wrap(source, dtype, shape)
    return source.view(dtype_of(dtype)).reshape(shape)


def wrapper(kind: str, source: np.ndarray[Any, Any]) -> Callable[[int, int, str, tuple[int, ...]], Any]:
    """As `wrap`, for many arrays over the same bytes: takes offset and length in bytes, dtype and shape."""
    if kind != TORCH or not is_here(TORCH):
        return lambda offset, length, dtype, shape: wrap(kind, source[offset : offset + length], dtype, shape)
    import torch

    whole = _torch_wrap(source, "uint8", (source.size,))
    dtypes = {name: getattr(torch, name) for name in _TORCH_DTYPES if hasattr(torch, name)}
    return lambda offset, length, dtype, shape: (
        whole[offset : offset + length].view(dtypes[dtype]).reshape(shape)
        if length > 0
        else torch.empty(shape, dtype=dtypes[dtype])
    )


def empty(kind: str, dtype: str, shape: tuple[int, ...]) -> Any:
    """A fresh array whose bytes are to be written, row by row."""
    if kind == TORCH and is_here(TORCH):
        import torch

        return torch.empty(shape, dtype=getattr(torch, dtype))
    return np.empty(shape, dtype_of(dtype))


def dressed(array: Any, kind: str, form: Form, *, in_place: bool = False) -> Any:
    """What `describe` saw, as an array of its own over the same elements (I3). A library that is not installed leaves
    it NumPy's.

    Args:
        in_place: share its memory, if need be without the order that the elements had there.
    """
    wanted = dict(form)
    if kind == TORCH:
        return _torch_dressed(array, wanted, in_place=in_place) if is_here(TORCH) else array
    if kind == JAX:
        return _jax_made(array, weak=bool(wanted.get("weak"))) if is_here(JAX) else array
    if "dtype" in wanted:
        dtype = np.dtype(wanted["dtype"])
        array = array.view(dtype.newbyteorder("=")) if dtype.kind in _COUNTED_KINDS else array
        array = array.astype(dtype, copy=False)
        if dtype.char in _ALIASES:  # `astype` takes them for equal
            array = array.view(dtype)
    if "order" in wanted and not in_place:
        array = _ordered(array, wanted["order"])
    if "frozen" in wanted:
        array = array.view()
        array.flags.writeable = False
    return array


def _ordered(array: np.ndarray[Any, Any], order: tuple[int, ...]) -> np.ndarray[Any, Any]:
    return np.ascontiguousarray(array.transpose(order)).transpose(np.argsort(order))


# -- NumPy -----------------------------------------------------------------------------------------------------------


def _numpy_spec(array: np.ndarray[Any, Any]) -> Spec:
    if type(array) is not np.ndarray:
        raise UnsupportedError(
            f"a {kind_name(array)} is more than its elements: save np.asarray(…) of it, and a mask or file name beside"
        )
    dtype = array.dtype
    if dtype.kind in _COUNTED_KINDS and not dtype.metadata:
        if np.datetime_data(dtype)[0] == "generic":
            raise UnsupportedError(f"arrays of dtype {dtype} are not checkpointed: give them a unit")
        name = "int64"
    else:
        name = _numpy_dtype_name(dtype)
    _assert_numpy_memory(array)
    return Spec(name, array.shape, array.size * array.itemsize)


def _numpy_form(array: np.ndarray[Any, Any]) -> Form:
    form: dict[str, Any] = {}
    dtype = array.dtype
    if dtype.kind in _COUNTED_KINDS or not dtype.isnative or dtype.char in _ALIASES:
        form["dtype"] = dtype_text(dtype)
    if not array.flags.writeable:
        form["frozen"] = True
    if not array.flags.c_contiguous:
        order = order_of(array.shape, array.strides, array.itemsize)
        if order is not None:
            form["order"] = order
    return tuple(form.items())


def dtype_text(dtype: np.dtype[Any]) -> str:
    return f"{dtype.str[0]}{dtype.char}" if dtype.char in _ALIASES else dtype.str


def _numpy_dtype_name(dtype: Any) -> str:
    name = str(dtype.newbyteorder("=").name) if dtype.kind in "biufc" else str(dtype)
    if name not in _TORCH_DTYPES or dtype.metadata:
        raise UnsupportedError(
            f"arrays of dtype {dtype}{' with metadata' if dtype.metadata else ''} are not checkpointed: "
            "use numbers, bool or dates"
        )
    return name


class LookedUpMemory:
    """Owner of an array that the checkpoint itself made over memory whose addresses it had looked up."""

    def assert_there(self) -> None:
        """
        Raises:
            UnsupportedError: the memory is another one by now.
        """
        raise NotImplementedError


def _assert_numpy_memory(array: np.ndarray[Any, Any]) -> None:
    """Strides can be set to anything: what owns the memory says how far it reaches."""
    if array.flags.c_contiguous and (array.base is None or array.size == 0):
        return
    owner: Any = array
    while getattr(owner, "base", None) is not None:
        owner = owner.base
    if isinstance(owner, LookedUpMemory):
        owner.assert_there()
        return
    if isinstance(owner, np.ndarray):
        low, high = address(owner), address(owner) + owner.nbytes
    else:
        try:
            whole = np.frombuffer(owner, np.uint8)
        except (TypeError, ValueError, BufferError):
            return  # it is known to whoever made the array alone
        low, high = address(whole), address(whole) + whole.size
    first, behind = extent(address(array), array.shape, array.strides, array.itemsize)
    if first < low or behind > high:
        raise UnsupportedError(
            f"its strides {list(array.strides)} reach {max(low - first, behind - high)} bytes beyond its memory"
        )


def extent(start: int, shape: Sequence[int], strides: Sequence[int], item_bytes: int) -> tuple[int, int]:
    """First byte, and the byte behind the last, of an array with elements. Strides in bytes."""
    steps = [stride * (n - 1) for stride, n in zip(strides, shape)]
    return start + sum(one for one in steps if one < 0), start + sum(one for one in steps if one > 0) + item_bytes


# -- JAX -------------------------------------------------------------------------------------------------------------


def _jax_spec(array: Any) -> Spec:
    jax = sys.modules["jax"]
    if isinstance(array, jax.core.Tracer):
        raise UnsupportedError("an array that is being traced has no values: save outside of jit, grad and vmap")
    if array.is_deleted():
        raise UnsupportedError("an array that was deleted or donated has no values")
    if jax.dtypes.issubdtype(array.dtype, jax.dtypes.extended):
        raise UnsupportedError(
            f"arrays of dtype {array.dtype} are not checkpointed: use ebb.jax, or jax.random.key_data(…)"
        )
    if not (array.is_fully_addressable or array.is_fully_replicated):
        raise UnsupportedError("it has shards on devices of other hosts: gather it first, or use ebb.jax")
    return Spec(_numpy_dtype_name(np.dtype(array.dtype)), tuple(array.shape), int(array.nbytes))


def _jax_form(array: Any) -> Form:
    if not array.weak_type:
        return ()
    if not _can_weaken():
        raise UnsupportedError("an array of a weak type cannot be made again by this version of JAX: give it a dtype")
    return (("weak", True),)


def _jax_made(array: Any, *, weak: bool) -> Any:
    import jax.numpy as jnp

    # Pages of the node are read-only, and not JAX's to keep.
    made = jnp.asarray(array) if array.flags.writeable else jnp.array(array)
    if made.dtype != array.dtype:
        raise UnsupportedError(
            f"JAX makes {made.dtype} of {array.dtype} here: set jax_enable_x64, as where the snapshot was saved"
        )
    return _weakened(made) if weak and not made.weak_type else made


def _weakened(array: Any) -> Any:
    from jax._src.lax.lax import _convert_element_type

    return _convert_element_type(array, array.dtype, weak_type=True)


def _can_weaken() -> bool:
    with contextlib.suppress(ImportError):
        from jax._src.lax.lax import _convert_element_type

        return callable(_convert_element_type)
    return False


# -- PyTorch ---------------------------------------------------------------------------------------------------------


#: Of the dtypes that checkpoints take.
_names: dict[Any, str] = {}


def _torch_name(dtype: Any) -> str:
    """'' for one that checkpoints do not take."""
    name = _names.get(dtype)
    if name is None:
        name = str(dtype).removeprefix("torch.")
        if name not in _TORCH_DTYPES:
            return ""
        _names[dtype] = name
    return name


def _torch_spec(tensor: Any) -> Spec:
    name = _checked(tensor)
    return Spec(name, tuple(tensor.shape), tensor.numel() * tensor.element_size())


def _checked(tensor: Any) -> str:
    """Does what `_assert_memory` does, also for tensors whose class answers questions with errors of its own."""
    try:
        return _assert_memory(tensor)
    except UnsupportedError:
        raise
    except Exception as error:
        raise UnsupportedError(f"a {kind_name(tensor)} cannot be checkpointed: {error}") from error


def _assert_memory(tensor: Any) -> str:
    """The name of its dtype (I1).

    Raises:
        UnsupportedError
    """
    torch = sys.modules["torch"]
    name = _torch_name(tensor.dtype)
    if not name or tensor.layout is not torch.strided or tensor.is_nested or tensor.is_quantized:
        kind = "nested" if tensor.is_nested else tensor.layout
        raise UnsupportedError(f"tensors of {tensor.dtype}, {kind} are not checkpointed: make them dense and strided")
    is_plain = type(tensor) is torch.Tensor or type(tensor) is torch.nn.Parameter
    if not is_plain and hasattr(tensor, "__tensor_flatten__"):
        raise UnsupportedError(f"a {type(tensor).__qualname__} consists of other tensors: save {_parts_of(tensor)}")
    if tensor.is_meta:
        raise UnsupportedError("tensors on the device meta have no values that could be checkpointed")
    reach = tensor.numel()
    if reach == 0:
        return name
    try:
        storage = tensor.untyped_storage()
        start, has_bytes = tensor.data_ptr(), storage.nbytes()
        is_fake = not is_plain and storage.device.type == "meta"  # which says that it lies elsewhere
    except (RuntimeError, NotImplementedError) as error:
        raise UnsupportedError(f"a {type(tensor).__qualname__} has no memory of its own here: {error}") from error
    if not tensor.is_contiguous():
        reach = sum(stride * (n - 1) for stride, n in zip(tensor.stride(), tensor.shape)) + 1
    takes_bytes = (tensor.storage_offset() + reach) * tensor.element_size()
    if is_fake or start == 0 or has_bytes < takes_bytes:
        there = f"a storage of {has_bytes}" if has_bytes < takes_bytes else "memory that is not there"
        raise UnsupportedError(
            f"a {type(tensor).__qualname__} whose elements take {takes_bytes} bytes of {there}: it was freed (as FSDP "
            "does between uses), or is fake, or consists of others"
        )
    return name


def _parts_of(tensor: Any) -> str:
    if hasattr(tensor, "to_local"):
        return "it by ebb.torch.dcp, or its to_local()"
    try:
        names = tensor.__tensor_flatten__()[0]
    except Exception:
        names = []
    shown = " and ".join(f"its {name}" for name in names) or "what it consists of"
    return f"{shown} under names of their own, or a plain copy; one that is sharded, by ebb.torch.dcp"


def _torch_form(tensor: Any) -> Form:
    torch = sys.modules["torch"]
    if type(tensor) not in (torch.Tensor, torch.nn.Parameter):
        raise UnsupportedError(
            f"a {kind_name(tensor)} would come back as a plain tensor: save its as_subclass(torch.Tensor), "
            "and what else it is beside"
        )
    form: dict[str, Any] = {}
    has_own = len(vars(tensor)) > 0
    attributes = _attributes(tensor) if has_own else {}
    if attributes:
        form["attributes"] = encode(attributes, {}).decode()
    if type(tensor) is torch.nn.Parameter:
        form["as"] = "parameter"
    elif has_own and getattr(tensor, "_is_buffer", False):
        form["as"] = "buffer" if getattr(tensor, "persistent", True) else "transient-buffer"
    if tensor.requires_grad:
        form["grad"] = True
    if not tensor.is_contiguous():
        order = order_of(tuple(tensor.shape), tensor.stride(), 1)
        if order is not None:
            form["order"] = order
    return tuple(form.items())


def _attributes(tensor: Any) -> dict[str, Any]:
    """What a program has put on a tensor."""
    own = ("_is_buffer", "persistent") if getattr(tensor, "_is_buffer", False) else ()
    found = {
        name: value
        for name, value in vars(tensor).items()
        # Those of torch.compile say how this process compiles, and are made anew by the next.
        if name not in own and not name.startswith(("_dynamo_", "_has_dynamo_")) and name != "_specialize_on"
    }
    for name, value in found.items():
        if not is_constant(value):
            raise UnsupportedError(
                f"the attribute {name} of this tensor is a {kind_name(value)}, and a checkpoint keeps plain values and "
                "tuples of them there: save its detach(), and what else it is beside"
            )
    return found


def _torch_dressed(tensor: Any, wanted: dict[str, Any], *, in_place: bool) -> Any:
    import torch

    if "order" in wanted and not in_place:
        order = wanted["order"]
        tensor = tensor.permute(order).contiguous().permute(tuple(np.argsort(order).tolist()))
    has_grad = "grad" in wanted
    kind = wanted.get("as")
    made = tensor.detach()
    if kind == "parameter":
        made = torch.nn.Parameter(made, requires_grad=has_grad)
    elif kind is not None:
        made = torch.nn.Buffer(made.requires_grad_(has_grad), persistent=kind == "buffer")
    elif has_grad:
        made.requires_grad_()
    if "attributes" in wanted:
        vars(made).update(decode(wanted["attributes"].encode()).root)
    return made


def _torch_bytes(tensor: Any) -> np.ndarray[Any, Any]:
    import torch

    if tensor.numel() == 0:
        return np.empty(0, np.uint8)
    array: np.ndarray[Any, Any] = flat(tensor).view(torch.uint8).numpy()
    return array


def _torch_wrap(source: np.ndarray[Any, Any], dtype: str, shape: tuple[int, ...]) -> Any:
    import torch

    kind = getattr(torch, dtype)
    if source.size == 0:
        return torch.empty(shape, dtype=kind)
    with _no_warnings():
        return torch.frombuffer(source.data, dtype=kind).reshape(shape)


def _torch_view(array: np.ndarray[Any, Any]) -> Any:
    import torch

    with _no_warnings():
        return torch.from_numpy(array)


@contextlib.contextmanager
def _no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        # The bytes of an open snapshot are read-only, which PyTorch has no notion of.
        warnings.filterwarnings("ignore", message="The given buffer is not writable")
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        yield


#: The form and the identity of each kind of array.
_FORMS: dict[str, tuple[Callable[[Any], Form], Callable[[Any], Hashable]]] = {
    NUMPY: (_numpy_form, _numpy_identity),
    TORCH: (_torch_form, _torch_identity),
    JAX: (_jax_form, id),
}
