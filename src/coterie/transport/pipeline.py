"""A team's road: one batch goes through stages that live on different members.

Micro-batches follow one another (one forward, one backward: 1F1B), and may differ in size and
shape: a head of integers tells what comes. Only waiting is done in other threads; what computes
stays with the caller, so that nothing goes on writing gradients once a batch is given up.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from coterie.errors import JobError, Torn
from coterie.transport.control import Inbox

TIMEOUT_S = 60.0
NO_ANSWER = "a new membership broke off the batch, or a neighbour does not answer"
NUM_HEAD = 128  # integers that announce what crosses from one stage to the next
DTYPES = (
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.uint8,
    torch.bool,
)
c10d: Any = dist  # torch ships no types for the stores and groups used here

Loss = Callable[[Any, Any], Tensor]


class PipelineTransport:
    """The stages of one team, interruptible by an urgent message.

    `address` is the interface that this agent shows to the others. The store may be that of the
    term's group: each team meets under a name of its own.

    >>> from coterie.transport.control import Inbox
    >>> road = PipelineTransport("127.0.0.1", Inbox())
    >>> road.gradient(nn.Linear(1, 1), torch.ones(2, 1), torch.ones(2, 1), nn.MSELoss(), 2)
    Traceback (most recent call last):
    coterie.errors.Torn: there is no pipeline
    """

    def __init__(self, address: str, inbox: Inbox) -> None:
        self._inbox = inbox
        self._device = c10d.ProcessGroupGloo.create_device(hostname=address)
        self._stores: dict[str, Any] = {}
        self._group: Any = None
        self.waited_s = 0.0  # for the other stages, in the last batch

    def form(self, number: int, team: tuple[str, ...], me: str, store: str) -> None:
        """Build the pipeline of a term, stage by stage in the team's order.

        `store` is the host:port of a store of addresses. Raises Torn if a member does not come.
        """
        self.leave()
        # An abandoned call keeps its connection locked: the next term dials another.
        dialled = self._stores.pop(store, None)
        group, self._stores[store] = _waited(
            lambda: self._build(number, team, me, dialled or _dial(store)),
            self._inbox,
            f"the pipeline of term {number} was not formed",
        )
        self._group = group

    def _build(self, number: int, team: tuple[str, ...], me: str, store: Any) -> tuple[Any, Any]:
        options = c10d.ProcessGroupGloo._Options()
        options._timeout = timedelta(seconds=TIMEOUT_S)
        options._threads = 1
        options._devices = [self._device]
        prefixed = c10d.PrefixStore(f"pipeline-{number}-{team[0]}", store)
        return c10d.ProcessGroupGloo(prefixed, team.index(me), len(team), options), store

    def gradient(
        self, stage: nn.Module, inputs: Any, targets: Any, loss: Loss, micro_batches: int
    ) -> float | None:
        """Leave the gradient of the mean loss over one batch in the stage's own parameters.

        The first member gives `inputs`, the last `targets` (nests of tensors, samples first) and
        is returned the loss; the others give and get None. `loss` is a mean over samples. A batch
        smaller than `micro_batches` goes sample by sample. Raises Torn, after which the pipeline
        must be formed anew. 1F1B: Narayanan et al. 2019, flushed after each batch as in 2021.
        """
        if self._group is None:
            raise Torn("there is no pipeline")
        link = _Link(self._group, self._inbox)
        try:
            return _Passage(link, stage, loss, inputs, targets).run(micro_batches)
        except BaseException:
            self.leave()  # what is half sent must not meet the next batch
            raise
        finally:
            self.waited_s = link.waited_s
            link.close()

    def leave(self) -> None:
        """Let go of the pipeline; peers that wait on this member are torn."""
        group, self._group = self._group, None
        if group is not None:
            # Its destructor joins threads that may hang on a silent peer: never here.
            holder = [group]
            del group
            threading.Thread(target=holder.clear, daemon=True).start()


def order(index: int, num_stages: int, num_micro: int) -> list[tuple[bool, int]]:
    """The forward (True) and backward passes of a stage, each with its micro-batch, in 1F1B.

    >>> order(0, 2, 2)
    [(True, 0), (True, 1), (False, 0), (False, 1)]
    >>> order(1, 2, 2)
    [(True, 0), (False, 0), (True, 1), (False, 1)]
    """
    ahead = min(num_stages - 1 - index, num_micro)
    passes = [(True, number) for number in range(ahead)]
    for number in range(num_micro):
        if ahead + number < num_micro:
            passes.append((True, ahead + number))
        passes.append((False, number))
    return passes


class _Passage:
    """One batch on its way through one stage."""

    def __init__(
        self, link: _Link, stage: nn.Module, loss: Loss, inputs: Any, targets: Any
    ) -> None:
        self._link, self._stage, self._loss = link, stage, loss
        self._inputs, self._targets = inputs, targets
        self._num_micro = 0
        self._kept: dict[int, tuple[list[Tensor], list[Tensor]]] = {}
        self._shares: list[float] = []

    def run(self, micro_batches: int) -> float | None:
        self._stage.zero_grad(set_to_none=True)
        if self._link.is_first:
            self._num_micro = min(micro_batches, _size(self._inputs))
        self._forward(0)  # its head tells the later stages how many micro-batches there are
        for is_forward, number in order(self._link.index, self._link.size, self._num_micro)[1:]:
            (self._forward if is_forward else self._backward)(number)
        self._link.flush()
        return math.fsum(self._shares) if self._link.is_last else None

    def _forward(self, number: int) -> None:
        arrived: list[Tensor] = []
        if self._link.is_first:
            given = [_part(self._inputs, number, self._num_micro)]
        else:
            self._num_micro, arrived = self._link.take(_device(self._stage))
            # A leaf may not be changed in place, which is how many a stage begins.
            given = [value.clone() if value.requires_grad else value for value in arrived]
        made = self._stage(*given)
        if self._link.is_last:
            left = [self._share(made, number)]
        else:
            left = list(made) if isinstance(made, tuple | list) else [made]
            self._link.give(self._num_micro, left)
        self._kept[number] = arrived, left

    def _share(self, predictions: Any, number: int) -> Tensor:
        """What a micro-batch adds to the mean over the batch."""
        targets = _part(self._targets, number, self._num_micro)
        share = self._loss(predictions, targets) * (_size(targets) / _size(self._targets))
        self._shares.append(float(share.detach()))
        return share

    def _backward(self, number: int) -> None:
        arrived, left = self._kept.pop(number)
        learned = [value for value in left if value.requires_grad]
        if self._link.is_last:
            gradients = [torch.ones_like(value) for value in learned]
        else:
            gradients = self._link.take_back(learned)
        torch.autograd.backward(learned, gradients)
        for value in arrived:
            if value.requires_grad:
                grad = torch.zeros_like(value) if value.grad is None else value.grad
                self._link.send(self._link.index - 1, grad)


class _Link:
    """What crosses to the neighbours; sending never waits, so that no two wait for each other."""

    def __init__(self, group: Any, inbox: Inbox) -> None:
        self._group, self._inbox = group, inbox
        self.index, self.size = group.rank(), group.size()
        self.is_first, self.is_last = self.index == 0, self.index == self.size - 1
        self._sent: list[tuple[Any, Tensor]] = []  # a buffer lives until it is delivered
        self.waited_s = 0.0

    def give(self, num_micro: int, values: Sequence[Tensor]) -> None:
        """Hand values on to the next stage."""
        head = [num_micro, len(values)]
        for value in values:
            if not isinstance(value, Tensor) or value.dtype not in DTYPES:
                kind = getattr(value, "dtype", type(value).__name__)
                raise JobError(
                    f"expected plain tensors between stages, found {kind}; cut elsewhere"
                )
            head += [DTYPES.index(value.dtype), value.requires_grad, value.dim(), *value.shape]
        if len(head) > NUM_HEAD:
            raise JobError(
                f"expected few values between stages, found {len(values)}, whose shapes take "
                f"{len(head)} numbers of {NUM_HEAD}; cut where less crosses"
            )
        self.send(self.index + 1, torch.tensor(head + [0] * (NUM_HEAD - len(head))))
        for value in values:
            self.send(self.index + 1, value)

    def take(self, device: torch.device) -> tuple[int, list[Tensor]]:
        """The number of micro-batches, and what the stage before hands on."""
        num_micro, values, learned = self._wait(self._announced)
        moved = [value.to(device) for value in values]
        return num_micro, [v.requires_grad_(is_) for v, is_ in zip(moved, learned, strict=True)]

    def take_back(self, likes: Sequence[Tensor]) -> list[Tensor]:
        """The gradients of what was handed on, each on the device of its value."""
        peer = self.index + 1
        buffers = self._wait(
            lambda: [self._arriving(peer, like.shape, like.dtype) for like in likes]
        )
        return [buffer.to(like.device) for buffer, like in zip(buffers, likes, strict=True)]

    def _announced(self) -> tuple[int, list[Tensor], list[bool]]:
        peer = self.index - 1
        num_micro, num_values, *head = self._arriving(peer, [NUM_HEAD], torch.int64).tolist()
        values, learned = [], []
        for _ in range(num_values):
            (kind, is_learned, num_dims), head = head[:3], head[3:]
            shape, head = head[:num_dims], head[num_dims:]
            values.append(self._arriving(peer, shape, DTYPES[kind]))
            learned.append(bool(is_learned))
        return num_micro, values, learned

    def _arriving(self, peer: int, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        buffer = torch.empty(shape, dtype=dtype)
        self._group.recv([buffer], peer, 0).wait()
        return buffer

    def send(self, peer: int, value: Tensor) -> None:
        """Begin to send; the buffer is kept until `flush`."""
        buffer = value.detach().cpu().contiguous()
        try:  # Gloo may fail where a sending begins
            self._sent.append((self._group.send([buffer], peer, 0), buffer))
        except RuntimeError as error:
            raise _torn(error) from error

    def close(self) -> None:
        """Forget the group and what it sends: either, kept by a traceback, keeps it connected."""
        self._group = None
        self._sent = []

    def flush(self) -> None:
        """Wait until everything sent is delivered."""
        sent, self._sent = self._sent, []
        if sent:
            self._wait(lambda: [work.wait() for work, _ in sent])

    def _wait(self, call: Callable[[], Any]) -> Any:
        began_s = time.perf_counter()
        try:
            return _waited(call, self._inbox, NO_ANSWER)
        finally:
            self.waited_s += time.perf_counter() - began_s


def _size(data: Any) -> int:
    """The number of samples in a nest of tensors."""
    match data:
        case Tensor() if data.dim() and len(data):
            return len(data)
        case Mapping() if data:
            return _size(next(iter(data.values())))
        case tuple() | list() if data:
            return _size(data[0])
    raise JobError(
        f"expected tensors with samples along their first axis, found a {type(data).__name__} "
        "without; give the first stage inputs and the last one targets"
    )


def _part(data: Any, number: int, num_parts: int) -> Any:
    """One of nearly equal parts of a nest, the larger ones first."""
    match data:
        case Tensor():
            return data.tensor_split(num_parts)[number]
        case Mapping():
            return {key: _part(value, number, num_parts) for key, value in data.items()}
        case tuple() if hasattr(data, "_fields"):
            return type(data)(*(_part(value, number, num_parts) for value in data))
        case tuple() | list():
            return type(data)(_part(value, number, num_parts) for value in data)
    raise JobError(
        f"expected a batch of tensors alone, found a {type(data).__name__} in it; "
        "have collate make tensors"
    )


def _device(stage: nn.Module) -> torch.device:
    return next((p.device for p in stage.parameters()), torch.device("cpu"))


def _dial(store: str) -> Any:
    """A connection to the store of addresses that listens at host:port."""
    host, _, port = store.rpartition(":")
    return c10d.TCPStore(
        host_name=host,
        port=int(port),
        is_master=False,
        wait_for_workers=False,
        timeout=timedelta(seconds=TIMEOUT_S),
    )


def _torn(error: RuntimeError) -> Torn:
    return Torn(f"a member left the pipeline: {str(error).splitlines()[0]:.120}")


def _waited(call: Callable[[], Any], inbox: Inbox, given_up: str) -> Any:
    """The result of a blocking call made in a thread, which an urgent message abandons."""
    ended: list[tuple[Any, Exception | None]] = []

    def run() -> None:
        try:
            ended.append((call(), None))
        except Exception as error:  # raised where the result is asked for
            ended.append((None, error))
        inbox.ring()

    threading.Thread(target=run, daemon=True).start()
    if not inbox.wait(lambda: bool(ended), TIMEOUT_S):
        raise Torn(given_up)
    value, error = ended[0]
    if isinstance(error, RuntimeError):  # as torch reports whatever happens to a connection
        raise _torn(error) from error
    if error is not None:
        raise error
    return value
