"""SuperGLUE's metrics for `evaluate.load(<this folder>, "multirc")`, computed as dp-bench scores its runs.

Inputs, keys and values, in 0..1, are those of `evaluate`'s `super_glue` module, with two differences. `axg`
also returns `gender_parity`, with rows in the order of the release, where each two form a pair. Queries of
ReCoRD are matched by passage and query, not by the query alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import evaluate
import numpy as np

from dp_bench.data import metrics
from dp_bench.data.metrics import Answers

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


def _answers(subset: str, predictions: Sequence[Any], references: Sequence[Any]) -> Answers:
    if subset == "record":
        text_of = {_query(row): row["prediction_text"] for row in predictions}
        # Choice 0 is the predicted text, the others are right; a missing prediction is wrong.
        choices = [[text_of.get(_query(row), ""), *row["answers"]] for row in references]
        golds = [range(1, len(texts)) for texts in choices]
        chosen = np.zeros(len(choices), dtype=np.int64)
        return Answers(chosen, chosen, choices=choices, golds=golds)
    groups: list[str] = []
    if subset == "multirc":
        groups = [f"{answer['idx']['paragraph']}/{answer['idx']['question']}" for answer in predictions]
        predictions = [answer["prediction"] for answer in predictions]
    if subset == "axg":
        if len(predictions) % 2:
            raise ValueError(f"the rows of axg are pairs; {len(predictions)} is an odd number")
        groups = [str(row // 2) for row in range(len(predictions))]
    return Answers(np.asarray(references), np.asarray(predictions), groups)


def _query(row: Mapping[str, Any]) -> tuple[int, int]:
    return row["idx"]["passage"], row["idx"]["query"]


def _f1_m(answers: Answers) -> float:
    """Return the mean over questions of the F1 over the classes that occur."""
    rows_of_questions = answers.rows_of_groups
    of_questions = (Answers(answers.labels[rows], answers.predictions[rows]) for rows in rows_of_questions)
    return float(np.mean([metrics.macro_f1(question) for question in of_questions]))


METRICS: dict[str, dict[str, metrics.Metric]] = {  # by subset and key
    **{key: {"accuracy": metrics.accuracy} for key in ("boolq", "copa", "rte", "wic", "wsc", "wsc.fixed")},
    "cb": {"accuracy": metrics.accuracy, "f1": metrics.macro_f1},
    "multirc": {"exact_match": metrics.exact_match, "f1_m": _f1_m, "f1_a": metrics.f1a},
    "record": {"exact_match": metrics.token_em, "f1": metrics.token_f1},
    "axb": {"matthews_correlation": metrics.matthews},
    "axg": {"accuracy": metrics.accuracy, "gender_parity": metrics.gender_parity},
}


class EvaluateSuperGlue(evaluate.Metric):  # type: ignore[misc]
    """The metrics of one subset of SuperGLUE, named as on the hub."""

    def _info(self) -> Any:
        if self.config_name not in METRICS:
            known = ", ".join(METRICS)
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
        answers = _answers(self.config_name, predictions, references)
        return {name: metric(answers) / 100 for name, metric in METRICS[self.config_name].items()}


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
