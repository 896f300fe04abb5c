"""Wrap a model, and find the token limit at which its answers are still right."""

# %% A model and its processor.
# Yours: AutoModelForImageTextToText.from_pretrained(NAME), AutoProcessor.from_pretrained(NAME)
import arr_coc
from arr_coc.asking.ask import answers, prepare

model, processor = arr_coc.reference.load()

# %% Some questions with known answers. Yours: your own pictures; thirty tell more than three.
samples = list(arr_coc.reference.generate(12, seed=5, kinds=["number", "word", "color"], grid=(2, 2)))

# %% One line attaches the wrapper. "heuristic" is the prior that every policy starts from; it has learned nothing.
for limit in (0.2, 0.4, 0.7, None):
    with arr_coc.wrap(model, processor, arr_coc.ArrCocConfig(policy="heuristic", limit=limit)) as arr:
        right, spent, full = 0, 0, 0
        for sample in samples:
            inputs = prepare(processor, [sample["image"]], [sample["question"]])
            (said,) = answers(processor, inputs["input_ids"], model.generate(**inputs, max_new_tokens=4))
            right += said == sample["answers"][0]
            spent, full = spent + arr.last[0].tokens, full + arr.last[0].full_tokens
    share = 100 * spent / full
    print(f"limit {limit or 'none':>4}: {right} of {len(samples)} right with {share:.0f} % of the visual tokens")

# %% The limit is never exceeded, and without one the price of a token decides. What was done, question by question:
print(samples[-1]["question"], "->", arr.last[0].budgets, f"= {arr.last[0].tokens} of {arr.last[0].full_tokens}")
