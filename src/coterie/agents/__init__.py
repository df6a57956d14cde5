"""Who learns: workers, the state they carry, and the checkpoints that outlive them.

Nothing is imported here, so that the coordinator's host can write checkpoints without torch.
"""
