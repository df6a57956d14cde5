"""State survives the journey to bytes and back; what would not survive is refused by name."""

from __future__ import annotations

import random
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn, optim
from torch.optim import lr_scheduler

from coterie.agents import state
from coterie.agents.state import digest, pack_state, unpack_state
from coterie.errors import CheckpointError


def alike(a: Any, b: Any) -> bool:
    """Whether two trees are of the same types, shapes and bits."""
    if isinstance(a, Tensor):
        same_kind = isinstance(b, Tensor) and (a.dtype, a.shape) == (b.dtype, b.shape)
        return same_kind and a.detach().contiguous().flatten().view(torch.uint8).tolist() == (
            b.contiguous().flatten().view(torch.uint8).tolist()
        )
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(alike(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(alike, a, b))
    return bool(a == b) or (a != a and b != b)


def there_and_back(tree: object) -> Any:
    return unpack_state(pack_state(tree))


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
keys = st.text() | st.integers()
trees = st.recursive(
    scalars | st.lists(st.integers(-9, 9), max_size=3).map(torch.tensor),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(keys, inner, max_size=3)
    ),
    max_leaves=8,
)


@given(trees)
@settings(max_examples=30, deadline=None)
def test_every_tree_comes_back_alike(tree: object) -> None:
    assert alike(tree, there_and_back(tree))


@given(trees)
@settings(max_examples=20, deadline=None)
def test_equal_trees_give_equal_bytes(tree: object) -> None:
    packed = pack_state(tree)
    assert pack_state(unpack_state(packed)) == packed


DTYPES = [
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
    *(torch.uint16, torch.uint32, torch.uint64),
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
    *(torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e8m0fnu),
    *(torch.complex32, torch.complex64, torch.complex128),
]


@pytest.mark.filterwarnings("ignore:ComplexHalf")
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 3), (2, 3)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_and_shape_keeps_its_bits(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    num_bytes = torch.empty(shape, dtype=dtype).nbytes
    bits = torch.randint(2, (num_bytes,), dtype=torch.uint8)
    tensor = bits.view(dtype).reshape(shape)
    assert alike(tensor, there_and_back(tensor))


@pytest.mark.parametrize(
    "view",
    [
        torch.arange(6.0).reshape(2, 3).T,
        torch.arange(6.0)[::2],
        torch.arange(3.0).expand(2, 3),
        torch.complex(torch.ones(2), torch.ones(2)).conj(),
        torch._neg_view(torch.ones(2)),
        nn.Parameter(torch.ones(2)),
    ],
    ids=["transposed", "strided", "expanded", "conjugate", "negative", "parameter"],
)
def test_a_view_comes_back_as_the_values_it_shows(view: Tensor) -> None:
    assert torch.equal(there_and_back(view), view)


def test_shared_storage_comes_back_as_copies() -> None:
    vector_N = torch.arange(4.0)
    back = there_and_back({"all": vector_N, "part": vector_N[1:], "again": vector_N})
    back["all"].zero_()
    assert back["part"].tolist() == [1, 2, 3]
    assert back["again"].tolist() == [0, 1, 2, 3]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")
def test_a_tensor_of_a_gpu_comes_back_on_the_cpu() -> None:
    assert alike(torch.ones(3), there_and_back(torch.ones(3, device="cuda")))


def test_keys_that_look_alike_stay_apart() -> None:
    tree = {
        "a.b": torch.tensor(1),
        "a": {"b": torch.tensor(2)},
        "a.b~": torch.tensor(3),
        0: torch.tensor(4),
        "0": torch.tensor(5),
        "": torch.tensor(6),
        "__metadata__": torch.tensor(7),
    }
    assert alike(tree, there_and_back(tree))


def test_plain_dicts_stand_for_ordered_ones_and_counters_stay() -> None:
    back = there_and_back({"ordered": OrderedDict(a=1), "counter": Counter({30: 1})})
    assert type(back["ordered"]) is dict
    assert back["ordered"] == {"a": 1}
    assert type(back["counter"]) is Counter
    assert back["counter"] == Counter({30: 1})


def test_generators_come_back() -> None:
    assert random.getstate() == there_and_back(random.getstate())
    assert torch.equal(torch.get_rng_state(), there_and_back(torch.get_rng_state()))


def test_other_tools_read_a_packed_model() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    read = safetensors.torch.load(pack_state(model.state_dict()))
    assert read.keys() == model.state_dict().keys()
    assert all(torch.equal(read[name], value) for name, value in model.state_dict().items())


OPTIMIZERS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name, kind in sorted(vars(optim).items()) if isinstance(kind, type)),
    ("SGD", {"momentum": 0.9, "nesterov": True}),
    ("AdamW", {"amsgrad": True}),
    ("RMSprop", {"momentum": 0.9, "centered": True}),
    ("LBFGS", {"line_search_fn": "strong_wolfe"}),
    ("Adam", {"lr": torch.tensor(0.01), "betas": (0.8, 0.9)}),
]


class Learner:
    """A parameter and its optimizer, a few steps of which can be taken."""

    def __init__(self, name: str, options: dict[str, Any]) -> None:
        self.weight = nn.Parameter(torch.linspace(-1, 1, 6).reshape(3, 2))
        self.optimizer = getattr(optim, name)([self.weight], **options)

    def loss(self) -> Tensor:
        self.optimizer.zero_grad()
        loss = (self.weight**2 + self.weight).sum()
        torch.autograd.backward(loss)
        if isinstance(self.optimizer, optim.SparseAdam):
            assert self.weight.grad is not None
            self.weight.grad = self.weight.grad.to_sparse()
        return loss

    def walk(self, num_steps: int) -> Tensor:
        for _ in range(num_steps):
            self.optimizer.step(self.loss)
        return self.weight.detach().clone()


@pytest.mark.parametrize(
    ("name", "options"),
    [option for option in OPTIMIZERS if option[0] != "Optimizer"],
    ids=lambda value: value if isinstance(value, str) else "-".join(value) or "plain",
)
def test_an_optimizer_goes_on_as_if_undisturbed(name: str, options: dict[str, Any]) -> None:
    first, second = Learner(name, options), Learner(name, options)
    first.walk(2)
    tree = {"weight": first.weight, "optimizer": first.optimizer.state_dict()}
    back = there_and_back(tree)
    assert alike(first.optimizer.state_dict(), back["optimizer"])
    second.weight.data.copy_(back["weight"])
    second.optimizer.load_state_dict(back["optimizer"])
    assert torch.equal(first.walk(2), second.walk(2))


SCHEDULERS: dict[str, Any] = {
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda num: 0.9**num),
    "StepLR": lambda o: lr_scheduler.StepLR(o, step_size=2),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, milestones=[2, 4]),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, gamma=0.9),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=5),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, max_lr=0.1, total_steps=9),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, base_lr=0.1, max_lr=1.0),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.ConstantLR(o), lr_scheduler.ExponentialLR(o, 0.9)], [2]
    ),
}


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.filterwarnings("ignore::UserWarning")  # torch wants optimizer.step() in between
def test_a_scheduler_goes_on_as_if_undisturbed(name: str) -> None:
    def rates(learner: Learner, scheduler: Any) -> list[float]:
        return [scheduler.step() or learner.optimizer.param_groups[0]["lr"] for _ in range(3)]

    options = {"lr": 0.1, "momentum": 0.9}
    first, second = Learner("SGD", options), Learner("SGD", options)
    old, new = SCHEDULERS[name](first.optimizer), SCHEDULERS[name](second.optimizer)
    rates(first, old)
    second.optimizer.load_state_dict(there_and_back(first.optimizer.state_dict()))
    new.load_state_dict(there_and_back(old.state_dict()))
    assert rates(first, old) == rates(second, new)


Pair = namedtuple("Pair", "left right")


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (object(), "builtins.object"),
        (deque([1]), "collections.deque"),
        (Pair(1, 2), "Pair"),
        (defaultdict(int), "collections.defaultdict"),
        (1j, "builtins.complex"),
        (b"raw", "builtins.bytes"),
        (torch.float32, "torch.dtype"),
        (torch.ones(2).to_sparse(), "torch.sparse_coo"),
        (torch.empty(2, device="meta"), "without values"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_anything_else_is_refused_by_path_and_type(value: object, kind: str) -> None:
    with pytest.raises(CheckpointError, match=rf"{kind}.* at state\.0\.history"):
        pack_state({"state": {0: {"history": value}}})


def test_an_optimizer_that_keeps_an_object_is_refused() -> None:
    learner = Learner("SGD", {"lr": 0.1})
    learner.optimizer.param_groups[0]["schedule"] = lambda step: 0.1
    with pytest.raises(CheckpointError, match=r"builtins\.function at param_groups\.0\.schedule"):
        pack_state(learner.optimizer.state_dict())


@pytest.mark.parametrize("key", [1.5, True, None, (1, 2)])
def test_a_key_that_json_would_change_is_refused(key: object) -> None:
    with pytest.raises(CheckpointError, match="key"):
        pack_state({"outer": {key: 1}})


def test_a_tree_that_holds_itself_is_refused() -> None:
    tree: list[object] = []
    tree.append(tree)
    with pytest.raises(CheckpointError, match="cannot"):
        pack_state(tree)


def test_a_lazy_parameter_is_refused() -> None:
    with pytest.raises(CheckpointError):
        pack_state(nn.LazyLinear(2).state_dict())


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_a_nested_tensor_is_refused() -> None:
    with pytest.raises(CheckpointError, match="dense tensors"):
        pack_state(torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]))


def test_more_structure_than_safetensors_reads_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "_MAX_HEADER_BYTES", 1000)
    assert there_and_back(list(range(100)))
    with pytest.raises(CheckpointError, match="store long lists of numbers as tensors"):
        pack_state(list(range(1000)))


PACKED = pack_state(
    {"weight": torch.arange(3.0), "step": 4, "odd": torch.ones(2, dtype=torch.complex128)}
)


@pytest.mark.parametrize("num_bytes", range(0, len(PACKED), 7))
def test_truncated_bytes_are_refused(num_bytes: int) -> None:
    with pytest.raises(CheckpointError, match="expected a packed state"):
        unpack_state(PACKED[:num_bytes])


@given(st.binary(max_size=64))
@settings(max_examples=50, deadline=None)
def test_garbage_is_refused(garbage: bytes) -> None:
    with pytest.raises(CheckpointError, match="expected a packed state"):
        unpack_state(garbage)


@pytest.mark.parametrize(
    ("found", "written"),
    [
        (b'{\\"tensor\\": \\"weight\\"', b'{\\"tensor\\": \\"weighs\\"'),
        (b'{\\"tensor\\": \\"weight\\"', b'{\\"pickle\\": \\"weight\\"'),
        (b'\\"complex128\\"', b'\\"load_state\\"'),
        (b'\\"complex128\\"', b'\\"complex999\\"'),
        (b'\\"shape\\": [2]', b'\\"shape\\": [3]'),
        (b'\\"step\\"', b'[\\"te\\"]'),
    ],
)
def test_a_structure_that_describes_nothing_is_refused(found: bytes, written: bytes) -> None:
    assert found in PACKED
    with pytest.raises(CheckpointError, match="expected a packed state"):
        unpack_state(PACKED.replace(found, written.ljust(len(found))))


def test_a_safetensors_file_of_another_program_is_named() -> None:
    with pytest.raises(CheckpointError, match="of another program"):
        unpack_state(safetensors.torch.save({"x": torch.ones(2)}))


def test_digest_tells_one_flipped_bit() -> None:
    assert len(digest(PACKED)) == 64
    assert digest(PACKED) != digest(PACKED[:-1] + bytes([PACKED[-1] ^ 1]))
