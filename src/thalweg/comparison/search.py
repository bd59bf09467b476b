"""Where an algorithm is tried: at its defaults, at quasi-random points, near the best of them, beyond the edge."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from thalweg.comparison.spaces import DEFAULTS, Space, near, point_of, quasi_random, recipe_at
from thalweg.comparison.study import Trial
from thalweg.training.recipe import Recipe

EDGE = 0.05  # of a space's width: a best lr this near its end has not been bracketed
WIDTHS = (0.4, 0.2)  # of the boxes around the best and the second best, as fractions of the space
MARGIN = 0.01  # kept from an lr that diverged


@dataclass(frozen=True)
class Search:
    """An algorithm's search: `base` holds what is not searched, `space` what is, lr first.

    >>> from thalweg.comparison.spaces import space
    >>> search = Search(Recipe("adam", steps=100), space("adam", trials=4))
    >>> [recipe.rule().name for recipe in search.screening(2, seed=0)]
    ['adam', 'adam']
    """

    base: Recipe
    space: Space

    def point(self, trial: Trial) -> list[float]:
        """Where a trial lies in the space, `(d,)` from 0 to 1; beyond where it was widened."""
        return point_of(trial.recipe, self.space)

    def screening(self, n: int, seed: int) -> list[Recipe]:
        """The defaults, and n - 1 quasi-random points of the whole space."""
        default = self.base.with_(knobs={**self.base.knobs, **DEFAULTS.get(self.base.algorithm, {})})
        return [default, *(recipe_at(self.base, self.space, u) for u in quasi_random(n - 1, len(self.space), seed))]

    def refinement(self, best_first: Sequence[Trial], upper: float, n: int, seed: int) -> list[Recipe]:
        """The best point of screening, then n - 1 around the best two; no lr from `upper` on, where it diverges.

        Where nothing came through, points of the lower half of the lr's range.
        """
        if not best_first:
            u = quasi_random(n, len(self.space), seed)
            u[:, 0] /= 2
            return [recipe_at(self.base, self.space, x) for x in u]
        u = quasi_random(n - 1, len(self.space), seed)
        recipes = [best_first[0].recipe.with_(steps=self.base.steps)]
        for trial, share, width in zip(best_first, np.array_split(u, min(2, len(best_first))), WIDTHS, strict=False):
            centre = self.point(trial)
            around = near(centre, share, self.space, width)
            around[:, 0] = np.minimum(around[:, 0], max(upper - MARGIN, centre[0]))
            recipes += [recipe_at(self.base, self.space, x) for x in around]
        return recipes

    def beyond(self, best_first: Sequence[Trial], upper: float, n: int) -> list[Recipe]:
        """n points up to a decade of lr further, where the best lr is at the edge of what was tried; else none."""
        if not best_first or (side := self.edge(best_first)) == 0:
            return []
        lr, *rest = self.point(best_first[0])
        decade = 1 / math.log10(self.space[0].high / self.space[0].low)
        further = [lr + side * decade * (i + 1) / n for i in range(n)]
        return [recipe_at(self.base, self.space, [x, *rest]) for x in further if x < upper]

    def edge(self, best_first: Sequence[Trial]) -> int:
        """Whether the best lr is at the upper (1) or lower (-1) edge of what was tried, or inside (0)."""
        if self.space[0].knob != "lr":
            return 0
        best, *others = [self.point(trial)[0] for trial in best_first]
        if best > 1 - EDGE and best >= max(others, default=best) - EDGE:
            return 1
        return -1 if best < EDGE and best <= min(others, default=best) + EDGE else 0

    def upper(self, best_first: Sequence[Trial], diverged: Sequence[Trial]) -> float:
        """The smallest lr (a point's first coordinate) above the best one's that diverged, or inf."""
        floor = self.point(best_first[0])[0] if best_first else -math.inf
        return min((lr for lr in (self.point(t)[0] for t in diverged) if lr > floor), default=math.inf)
