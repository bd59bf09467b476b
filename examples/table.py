"""A table from its file to predictions: load, compare, predict. (The houses and their prices are made up.)"""

from pathlib import Path

import thalweg as tw

here = Path(__file__).parent
problem = tw.load(str(here / "houses.csv"), target="price")
print(*problem.about["notes"], sep="\n")

study = tw.compare(problem, trials=2, algorithms=["momentum", "adam"], out="runs/houses")
print(study.verdict.sentence)
print("RMSE on the test part:", round(study.facts["final"]["test_metric"]))
print(tw.predict(study.folder, here / "new_houses.csv"))
