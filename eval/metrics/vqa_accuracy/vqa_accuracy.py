"""VQA soft accuracy as an `evaluate.Metric`: ``evaluate.load("eval/metrics/vqa_accuracy")``, no network needed."""

import datasets
import evaluate

from arr_coc.learning.rewards import vqa_accuracy

_DESCRIPTION = """Soft accuracy of VQA v2 and TextVQA, exactly as the official evaluator computes it: the mean over the
leave-one-out subsets of ten human answers of min(1, matches / 3), after its normalisation."""

_INPUTS = """
Args:
    predictions: list of str, the model's answers.
    references: list of lists of str, the human answers of each question (ten in VQA v2).
Returns:
    vqa_accuracy: mean over the questions, in [0, 1].
    scores: list of float, one per question.
"""

_CITATION = """@inproceedings{goyal2017vqa2,
  title={Making the {V} in {VQA} Matter: Elevating the Role of Image Understanding in Visual Question Answering},
  author={Goyal, Yash and Khot, Tejas and Summers-Stay, Douglas and Batra, Dhruv and Parikh, Devi},
  booktitle={CVPR}, year={2017}
}"""


class VqaAccuracy(evaluate.Metric):
    """See the module's text; the arithmetic is `arr_coc.learning.rewards.vqa_accuracy`."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.List(datasets.Value("string"))}
            ),
            reference_urls=["https://visualqa.org/evaluation.html"],
        )

    def _compute(self, predictions: list[str], references: list[list[str]]) -> dict[str, object]:
        scores = [
            vqa_accuracy(prediction, answers) for prediction, answers in zip(predictions, references, strict=True)
        ]
        return {"vqa_accuracy": sum(scores) / len(scores), "scores": scores}
