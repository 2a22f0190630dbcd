"""Trains the demo's two models. Runs inside the bundle's own environment, where scikit-learn is.

Called as `python -I -S train.py SITE OUT`: puts SITE on the path and writes OUT/1/model.pkl, OUT/2/model.pkl
and OUT/held-out.json (rows, labels, and what each model answers for them). The seed is fixed, so the same
environment trains the same models. Imports nothing of mldeploy.
"""

import json
import pickle
import sys
from pathlib import Path

SEED = 20261


def main(site: str, out: Path) -> None:
    """Train on two thirds of the digits, keep the rest."""
    sys.path.append(site)
    from sklearn.datasets import load_digits  # type: ignore[import-not-found, unused-ignore]
    from sklearn.linear_model import LogisticRegression  # type: ignore[import-not-found, unused-ignore]
    from sklearn.model_selection import train_test_split  # type: ignore[import-not-found, unused-ignore]
    from sklearn.pipeline import make_pipeline  # type: ignore[import-not-found, unused-ignore]
    from sklearn.preprocessing import StandardScaler  # type: ignore[import-not-found, unused-ignore]
    from sklearn.svm import SVC  # type: ignore[import-not-found, unused-ignore]

    rows, labels = load_digits(return_X_y=True)
    train_x, held_x, train_y, held_y = train_test_split(
        rows, labels, test_size=1 / 3, random_state=SEED, stratify=labels
    )
    answers = {}
    models = {
        "1": make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=500)),
        "2": make_pipeline(StandardScaler(), SVC(C=4.0)),
    }
    for version, model in models.items():
        model.fit(train_x, train_y)
        folder = out / version
        folder.mkdir(parents=True)
        with (folder / "model.pkl").open("wb") as file:
            pickle.dump(model, file, protocol=5)
        answers[version] = [int(answer) for answer in model.predict(held_x)]
    held_out = {"rows": held_x.tolist(), "labels": [int(label) for label in held_y], "answers": answers}
    (out / "held-out.json").write_text(json.dumps(held_out))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
