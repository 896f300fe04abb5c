"""Learn a policy from questions and answers of your own, save it, and use it again."""

# %% Questions are mappings with an image, a question and answers. Yours: a list of such, or a JSON Lines file.
import tempfile
from pathlib import Path

import arr_coc

model, processor = arr_coc.reference.load()
samples = list(arr_coc.reference.generate(48, seed=3, split="learn", grid=(2, 2)))
print({key: samples[0][key] for key in ("question", "answers")})

# %% Each answer is generated with the budgets that the policy chose; its VQA accuracy is the reward.
# Without the price, detail would be free and full detail always best.
arr = arr_coc.wrap(model, processor, arr_coc.ArrCocConfig(price=0.05))
log = arr_coc.learn(arr, samples, reward="vqa_accuracy", episodes=48, progress=False)
for first in range(0, 48, 16):
    part = log[first : first + 16]
    reward, tokens = (sum(r[key] for r in part) / 16 for key in ("reward", "tokens"))
    print(f"answers {first + 1} to {first + 16}: reward {reward:.2f}, {tokens:.0f} tokens")

# %% What was learned is a small folder beside the model, as with PEFT.
folder = Path(tempfile.mkdtemp()) / "policy"
arr.save_pretrained(folder)
arr.detach()
print(sorted(path.name for path in folder.iterdir()))

# %% Later, or elsewhere. From the command line: arr-coc ask --policy FOLDER
arr = arr_coc.ArrCoc.from_pretrained(folder, model, processor)
print(arr.planner.policy.rounds, "rewards behind it")
arr.detach()
