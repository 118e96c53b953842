"""SuperGLUE's metrics for `evaluate.load(<this folder>, "multirc")`, computed as dp-bench scores its runs.

Inputs, keys and values, in 0..1, are those of `evaluate`'s `super_glue` module, with two differences. `axg`
also returns `gender_parity`, with rows in the order of the release, where each two form a pair. Queries of
ReCoRD are matched by passage and query, not by the query alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import datasets
import evaluate
import numpy as np

from dp_bench.data import metrics

DESCRIPTION = "The metrics of the SuperGLUE benchmark, https://super.gluebenchmark.com/."
CITATION = """@article{wang2019superglue,
  title={SuperGLUE: A Stickier Benchmark for General-Purpose Language Understanding Systems},
  author={Wang, Alex and Pruksachatkun, Yada and Nangia, Nikita and Singh, Amanpreet and Michael, Julian and
    Hill, Felix and Levy, Omer and Bowman, Samuel R.},
  journal={arXiv preprint arXiv:1905.00537},
  year={2019}
}
"""
INPUTS = """
Args:
    predictions: labels; for `multirc` {"idx": {"paragraph", "question", "answer"}, "prediction": label}; for
        `record` {"idx": {"passage", "query"}, "prediction_text": text}.
    references: labels; for `record` {"idx": {"passage", "query"}, "answers": [text, …]}.
Returns: accuracy; for `cb` accuracy and f1, the mean over the classes that occur; for `multirc` f1_a,
    exact_match and f1_m; for `record` f1 and exact_match; for `axb` matthews_correlation; for `axg` accuracy
    and gender_parity.
"""


def _accuracy(predictions: Sequence[int], references: Sequence[int]) -> dict[str, float]:
    return {"accuracy": metrics.accuracy(references, predictions)}


def _cb(predictions: Sequence[int], references: Sequence[int]) -> dict[str, float]:
    f1 = metrics.macro_f1_of_present(references, predictions)
    return {**_accuracy(predictions, references), "f1": f1}


def _axb(predictions: Sequence[int], references: Sequence[int]) -> dict[str, float]:
    return {"matthews_correlation": metrics.matthews(references, predictions)}


def _axg(predictions: Sequence[int], references: Sequence[int]) -> dict[str, float]:
    if len(predictions) % 2:
        raise ValueError(f"the rows of axg are pairs; {len(predictions)} is an odd number")
    pairs = [str(row // 2) for row in range(len(predictions))]
    parity = metrics.gender_parity(predictions, pairs)
    return {**_accuracy(predictions, references), "gender_parity": parity}


def _multirc(predictions: Sequence[Mapping[str, Any]], references: Sequence[int]) -> dict[str, float]:
    labels = np.asarray(references)
    predicted = np.asarray([answer["prediction"] for answer in predictions])
    groups = [f"{answer['idx']['paragraph']}/{answer['idx']['question']}" for answer in predictions]
    rows_of: dict[str, list[int]] = {}
    for row, group in enumerate(groups):
        rows_of.setdefault(group, []).append(row)
    question_f1s = [metrics.macro_f1_of_present(labels[rows], predicted[rows]) for rows in rows_of.values()]
    return {
        "exact_match": metrics.exact_match(labels, predicted, groups),
        "f1_m": float(np.mean(question_f1s)),
        "f1_a": metrics.f1a(labels, predicted),
    }


def _record(
    predictions: Sequence[Mapping[str, Any]], references: Sequence[Mapping[str, Any]]
) -> dict[str, float]:
    text_of = {_query(row): row["prediction_text"] for row in predictions}
    texts = [text_of.get(_query(row), "") for row in references]  # a missing prediction is wrong
    golds = [row["answers"] for row in references]
    return {"exact_match": metrics.token_em(texts, golds), "f1": metrics.token_f1(texts, golds)}


def _query(row: Mapping[str, Any]) -> tuple[int, int]:
    return row["idx"]["passage"], row["idx"]["query"]


COMPUTE: dict[str, Callable[..., dict[str, float]]] = {
    **dict.fromkeys(("boolq", "copa", "rte", "wic", "wsc", "wsc.fixed"), _accuracy),
    "cb": _cb,
    "multirc": _multirc,
    "record": _record,
    "axb": _axb,
    "axg": _axg,
}


class EvaluateSuperGlue(evaluate.Metric):  # type: ignore[misc]
    """The metrics of one subset of SuperGLUE, named as on the hub."""

    def _info(self) -> Any:
        if self.config_name not in COMPUTE:
            known = ", ".join(COMPUTE)
            raise KeyError(
                f"SuperGLUE has no subset {self.config_name!r}: load this module with one of {known}"
            )
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS,
            features=datasets.Features(_features(self.config_name)),
        )

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        values = COMPUTE[self.config_name](predictions, references)
        return {name: value / 100 for name, value in values.items()}


def _features(subset: str) -> dict[str, Any]:
    label, text = datasets.Value("int64"), datasets.Value("string")
    if subset == "record":
        idx = dict.fromkeys(("passage", "query"), label)
        return {
            "predictions": {"idx": idx, "prediction_text": text},
            "references": {"idx": idx, "answers": datasets.Sequence(text)},
        }
    if subset == "multirc":
        idx = dict.fromkeys(("answer", "paragraph", "question"), label)
        return {"predictions": {"idx": idx, "prediction": label}, "references": label}
    return {"predictions": label, "references": label}
