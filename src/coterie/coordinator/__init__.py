"""Who decides: arithmetic on a `World`, in milliseconds, without a cluster, torch or ray.

`shares` cuts a batch, `model` predicts what an option brings, `decide` chooses one and says why,
`adapt` folds what was measured back into the world.
"""
