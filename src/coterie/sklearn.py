"""scikit-learn's estimators of any torch module: each `fit` is a run, on one agent or on many.

Legend of shape suffixes: S samples, F features, C classes, O outputs.
"""

from __future__ import annotations

import functools
import inspect
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from coterie.engines.train import train
from coterie.errors import CoterieError, JobError, TrainingError
from coterie.tasks import arrays
from coterie.tasks.samples import built
from coterie.tasks.supervised import Criterion, Supervised

try:
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted, check_random_state, validate_data
except ImportError as error:
    raise CoterieError(
        "expected scikit-learn for coterie.sklearn, found it missing; install coterie[demo]"
    ) from error

PREDICTED = 4096  # samples that are looked at together


class _Fitted(BaseEstimator):  # type: ignore[misc]
    """What both kinds have in common: parameters are kept as they are given, and read by `fit`."""

    _loss: Criterion

    def __init__(
        self,
        module: nn.Module | Callable[..., nn.Module] = arrays.Perceptron,
        *,
        optimizer: Callable[..., Optimizer] = torch.optim.AdamW,
        lr: float = 0.01,
        epochs: int = 30,
        batch: int = 32,
        agents: int | Mapping[str, Any] = 1,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.module = module
        self.optimizer = optimizer
        self.lr = lr
        self.epochs = epochs
        self.batch = batch
        self.agents = agents
        self.random_state = random_state

    def _learn(
        self, inputs_SF: NDArray[np.float32], answers_S: NDArray[Any], num_outputs: int
    ) -> Self:
        made = _sized(self.module, inputs_SF.shape[1], num_outputs)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        with (
            tempfile.TemporaryDirectory() as folder,
            torch.random.fork_rng(devices=[]),  # whoever fits draws what it would have drawn
        ):
            arrays.write(Path(folder), inputs_SF, answers_S)
            data = functools.partial(arrays.samples, folder=folder)
            result = train(
                Supervised(type(self).__name__, made, data, data, loss=type(self)._loss),
                optimizer=functools.partial(self.optimizer, lr=self.lr),
                batch=min(self.batch, len(inputs_SF)),
                until={"epochs": self.epochs},
                agents=self.agents,
                seed=seed,
                runs=Path(folder, "runs"),
                show=lambda event: None,
            )
            if result.exit_code:
                why = result.summary.get("error") or "it was interrupted"
                raise TrainingError(f"expected a fit that ends, found that {why}; fit again")
            self.module_ = built("module", made)
            self.module_.load_state_dict(result.weights())
        self.module_.eval()
        self.loss_ = float(result.summary["metrics"]["test_loss"])  # on what was learned
        self.n_iter_ = int(result.summary["steps"])
        return self

    def _outputs(self, X: ArrayLike) -> Tensor:
        check_is_fitted(self, "module_")
        inputs_SF = torch.from_numpy(validate_data(self, X, reset=False, dtype=np.float32))
        with torch.no_grad():
            parts = torch.split(inputs_SF, PREDICTED)
            return torch.cat([self.module_(part) for part in parts])


class Classifier(ClassifierMixin, _Fitted):  # type: ignore[misc]
    """A module whose outputs are one score for each class, as a classifier of scikit-learn.

    `module` makes one of `num_inputs` and `num_outputs`, or is one. With several `agents` it and
    `optimizer` are functions or classes at the top of a module.

    >>> points = [[0.0, 1.0], [1.0, 0.0]] * 8
    >>> Classifier(epochs=40, random_state=0).fit(points, ["a", "b"] * 8).predict(points[:2])
    array(['a', 'b'], dtype='<U1')
    """

    _loss = staticmethod(F.cross_entropy)

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Learn which of the classes in y samples are of."""
        inputs_SF, y = validate_data(self, X, y, dtype=np.float32)
        check_classification_targets(y)
        self.classes_, codes_S = np.unique(y, return_inverse=True)
        return self._learn(inputs_SF, codes_S.astype(np.int64), len(self.classes_))

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float32]:
        """(S, C), in the order of `classes_`."""
        found: NDArray[np.float32] = self._outputs(X).softmax(dim=1).numpy()
        return found

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """The likeliest class of each sample."""
        scores_SC = self._outputs(X)
        found: NDArray[Any] = self.classes_[scores_SC.argmax(dim=1).numpy()]
        return found


class Regressor(RegressorMixin, _Fitted):  # type: ignore[misc]
    """A module whose outputs are the values asked for, as a regressor of scikit-learn.

    Its parameters are a `Classifier`'s. Values of several outputs may be asked for.

    >>> inputs = np.linspace(-1, 1, 32, dtype=np.float32).reshape(-1, 1)
    >>> model = Regressor(epochs=100, random_state=0).fit(inputs, 3 * inputs[:, 0])
    >>> bool(model.score(inputs, 3 * inputs[:, 0]) > 0.9)
    True
    """

    _loss = staticmethod(F.mse_loss)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Learn the values of samples."""
        asked = {"dtype": np.float32, "multi_output": True, "y_numeric": True}
        inputs_SF, y = validate_data(self, X, y, **asked)
        answers_SO = np.asarray(y, dtype=np.float32)
        self._is_flat = answers_SO.ndim == 1
        answers_SO = answers_SO.reshape(len(answers_SO), -1)
        return self._learn(inputs_SF, answers_SO, answers_SO.shape[1])

    def predict(self, X: ArrayLike) -> NDArray[np.float64]:
        """(S,) or (S, O), as the values that were learned."""
        outputs_SO = self._outputs(X)
        found = arrays.flat(outputs_SO) if self._is_flat else outputs_SO
        return found.double().numpy()


def _sized(
    module: nn.Module | Callable[..., nn.Module], num_inputs: int, num_outputs: int
) -> nn.Module | Callable[[], nn.Module]:
    """A module that fits the data, or what makes it; agents can name that."""
    if isinstance(module, nn.Module):
        return module
    takes = inspect.signature(module).parameters
    if not {"num_inputs", "num_outputs"} <= takes.keys():
        raise JobError(
            f"expected a module, or a function of num_inputs and num_outputs that makes one, "
            f"found one of ({', '.join(takes)}); name its arguments so"
        )
    return functools.partial(module, num_inputs=num_inputs, num_outputs=num_outputs)
