"""skorch: a network as a scikit-learn classifier, whose grid search looks through the knobs of an optimizer."""

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV, train_test_split
from skorch import NeuralNetClassifier
from torch import nn

from thalweg import optim

pixels, labels = load_digits(return_X_y=True)
x, test_x, y, test_y = train_test_split((pixels / 16).astype("float32"), labels, random_state=0)

classifier = NeuralNetClassifier(
    nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10)),
    criterion=nn.CrossEntropyLoss,
    optimizer=optim.Lion,
    optimizer__weight_decay=0.01,
    max_epochs=10,
    batch_size=64,
    train_split=None,
    verbose=0,
)

torch.manual_seed(0)
search = GridSearchCV(classifier, {"lr": [3e-4, 3e-3], "optimizer__betas": [(0.9, 0.99), (0.95, 0.98)]}, cv=3)
search.fit(x, y)
print(f"{search.best_params_}: {search.score(test_x, test_y):.1%} right")
