"""Finds modules of Python's standard library by what a text says: tf-idf and the cosine, from scratch.

A version of kind ``python`` brings its own code: this file travels with the model and changes with it. Only the class
``Wrapper`` is needed, and of its methods only ``predict``.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Any

from words import words_of  # a module beside this one


class Wrapper:
    """Answers each text with the modules that match it best: ``[{"module": name, "score": 0…1}, …]``."""

    def load(self, context: Any) -> None:
        """Read the index. ``context`` has ``path``, ``model``, ``version``, and ``options`` from ``model.yaml``.

        Called once. Whatever is raised here keeps the version from becoming active.
        """
        self.shown = int(context.options.get("shown", 1))
        counts = json.loads((context.path / "index.json").read_text())
        documents_with = Counter(word for words in counts.values() for word in words)
        self.idf = {word: math.log(len(counts) / number) for word, number in documents_with.items()}
        self.vectors = {module: self.vector(words) for module, words in counts.items()}

    def predict(self, inputs: list[str]) -> list[list[dict[str, Any]]]:
        """Return one output for each input, in the same order. Never called concurrently."""
        return [self.best_for(self.vector(Counter(words_of(text)))) for text in inputs]

    def best_for(self, query: dict[str, float]) -> list[dict[str, Any]]:
        """Return the modules whose vectors lie closest to ``query``, the best first; none when no word is known."""
        scores = {
            module: sum(weight * vector.get(word, 0.0) for word, weight in query.items())
            for module, vector in self.vectors.items()
        }
        best = sorted(scores, key=lambda module: (-scores[module], module))[: self.shown]
        return [{"module": module, "score": round(scores[module], 4)} for module in best if scores[module] > 0]

    def vector(self, counts: dict[str, int]) -> dict[str, float]:
        """Return the unit vector of a text: the logarithm of how often a word occurs, times how rare it is."""
        weights = {word: (1 + math.log(n)) * self.idf[word] for word, n in counts.items() if word in self.idf}
        length = math.sqrt(sum(weight * weight for weight in weights.values()))
        return {word: weight / length for word, weight in weights.items()} if length else {}
