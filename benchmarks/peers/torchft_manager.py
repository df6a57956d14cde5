"""One replica of torchft by `Manager.allreduce`: the way of its that outlives a death in a meeting.

    python peers/torchft_manager.py FOLDER --rank 0 --lighthouse 127.0.0.1:29510

What a step learns follows from the step's number, so that one that is dropped is computed again.
"""

from __future__ import annotations

import torch
from steps import Log, faults_task, options, share, warm_up
from torch.nn.utils import parameters_to_vector
from torchft_parts import managed


def main() -> None:
    """Train until the steps are done."""
    args = options(__doc__.split("\n")[0])
    log = Log.of(args.folder, args.rank)
    model, data = faults_task.begin(args.seed), faults_task.train_set()
    optimizer = warm_up(model, data)
    manager = managed(model, optimizer, args.rank, args.lighthouse)
    parameters = list(model.parameters())
    while manager.current_step() < args.steps:
        # Read before the quorum, as its examples do: a death meanwhile meets nobody in a meeting.
        x_BT, y_BT = share(data, args.seed, manager.current_step(), args.rank)
        manager.start_quorum()
        optimizer.zero_grad()
        faults_task.shakespeare.loss(model(x_BT), y_BT).backward()
        mean_N = parameters_to_vector([p.grad for p in parameters])
        manager.allreduce(mean_N).wait()
        committed = manager.should_commit()
        if committed:
            for parameter, part in zip(
                parameters, mean_N.split([p.numel() for p in parameters]), strict=True
            ):
                parameter.grad = part.view_as(parameter)
            optimizer.step()
        number = manager.current_step() - 1 if committed else manager.current_step()
        log.step(number, committed, manager.num_participants())
    manager.shutdown(wait=False)


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
