"""One replica of torchft by its DistributedDataParallel and OptimizerWrapper, as its README does.

python peers/torchft_ddp.py FOLDER --rank 0 --lighthouse 127.0.0.1:29510
"""

from __future__ import annotations

from steps import Log, faults_task, options, share, warm_up
from torchft import DistributedDataParallel
from torchft import Optimizer as Managed
from torchft_parts import managed


def main() -> None:
    """Train until the steps are done."""
    args = options(__doc__.split("\n")[0])
    log = Log.of(args.folder, args.rank)
    model, data = faults_task.begin(args.seed), faults_task.train_set()
    bare = warm_up(model, data)
    manager = managed(model, bare, args.rank, args.lighthouse)
    replica, optimizer = DistributedDataParallel(manager, model), Managed(manager, bare)
    while manager.current_step() < args.steps:
        # Read before the quorum, as its examples do: a death meanwhile meets nobody in a meeting.
        x_BT, y_BT = share(data, args.seed, manager.current_step(), args.rank)
        optimizer.zero_grad()  # asks for a quorum
        faults_task.shakespeare.loss(replica(x_BT), y_BT).backward()
        # A replica that heals takes a step's number over meanwhile: whether this one counts is
        # told by what the optimizer does.
        steps = num_steps(bare)
        optimizer.step()
        committed = num_steps(bare) != steps
        number = manager.current_step() - 1 if committed else manager.current_step()
        log.step(number, committed, manager.num_participants())
    manager.shutdown(wait=False)


def num_steps(optimizer: object) -> float:
    """How many steps an Adam has taken."""
    states = optimizer.state.values()  # type: ignore[attr-defined]
    return float(next((state["step"] for state in states), 0.0))


if __name__ == "__main__":
    main()
