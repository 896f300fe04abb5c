"""Judge a policy: same questions, strong baselines, intervals, and a verdict that may be a loss."""

# %% Questions that no policy has learned from. Yours: `split="eval"` is whatever you kept apart.
import arr_coc

model, processor = arr_coc.reference.load()
samples = list(arr_coc.reference.generate(20, seed=11, split="eval", grid=(2, 2)))

# %% The policy that ships with the reference model.
arr = arr_coc.ArrCoc.from_pretrained(arr_coc.reference.policy_path(), model, processor)

# %% Full detail says what there is to lose. Budgets that look at nothing, uniform at about the same tokens, random at
# more of them, say what choosing earns.
found = arr_coc.evaluate(arr, samples, baselines=("full", "uniform-128", "random"), progress=False)
print(found)

# %% Twenty questions leave a wide interval: read it before the mean. Every answer is there to be looked at.
for record in [r for r in found.records if r["method"] == "wrapped" and r["score"] < 1][:3]:
    print(record["question"], "->", record["answer"], f"({record['tokens']} of {record['full_tokens']} tokens)")
arr.detach()
