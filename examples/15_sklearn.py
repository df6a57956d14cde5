"""A torch module as a classifier of scikit-learn: in a pipeline, searched, and on two agents.

python examples/15_sklearn.py
python examples/15_sklearn.py --agents 2
"""

from __future__ import annotations

import argparse

from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from coterie.sklearn import Classifier


def net(num_inputs: int, num_outputs: int) -> nn.Module:
    """One hidden layer; scikit-learn's data says how many there are on either side."""
    return nn.Sequential(nn.Linear(num_inputs, 32), nn.ReLU(), nn.Linear(32, num_outputs))


def main(num_agents: int, num_epochs: int) -> None:
    """Choose a learning rate on one device, and learn with it on as many agents as asked."""
    images, labels = load_digits(return_X_y=True)
    known, held_out, answers, wanted = train_test_split(images, labels, random_state=0)
    model = make_pipeline(StandardScaler(), Classifier(net, epochs=num_epochs, random_state=0))
    search = GridSearchCV(model, {"classifier__lr": [0.001, 0.01]}, cv=2, refit=False)
    search.fit(known, answers)
    print("chosen:", search.best_params_)
    model.set_params(**search.best_params_, classifier__agents=num_agents)
    model.fit(known, answers)
    print(f"accuracy: {model.score(held_out, wanted):.3f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--agents", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=5)
    given = parser.parse_args()
    main(given.agents, given.epochs)
