"""Other families inside what people put around a model; the Qwen layout is in test_attach.py."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

import arr_coc
from arr_coc.config import ArrCocConfig
from tests import tiny, zoo
from tests.wrapping.conftest import Pattern
from tests.wrapping.matrix import BUDGETS, SIDE, Cell, labels_of

CONFIG = ArrCocConfig(budgets=BUDGETS, patch_side=SIDE)
# One family per way of handing features over: a list, a tensor, newlines that are parameters of the base, image sizes.
SOME = ("llava (CLIP)", "internvl", "llava_next", "mistral3")


@pytest.mark.parametrize("name", SOME)
def test_with_offloaded_weights(name):
    from accelerate import cpu_offload

    cell = Cell(zoo.build(name))
    inputs = cell.make()
    with cell.wrapped(needs=("glance",)) as arr:
        want, answer = cell.logits(inputs), cell.generate(inputs).sequences
        read = arr.planner.scenes[0].read_attention([-1])
    cpu_offload(cell.model, execution_device="cpu")
    assert all(weight.is_meta for weight in cell.model.parameters())
    with cell.wrapped(needs=("glance",)) as arr:
        assert torch.equal(cell.logits(inputs), want)
        assert torch.equal(cell.generate(inputs).sequences, answer)
        assert torch.equal(arr.planner.scenes[0].read_attention([-1]), read)


@pytest.mark.parametrize("name", [*SOME, "gemma3", "smolvlm"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(name, dtype):
    cell = Cell(zoo.build(name))
    cell.model.to(dtype)
    inputs = cell.make(0, 1)
    native = cell.logits(inputs)
    with cell.wrapped(BUDGETS[-1]):
        assert torch.equal(cell.logits(inputs), native)
    with cell.wrapped(realizer="auto") as arr:
        short = cell.logits(inputs)
        assert short.dtype == dtype and torch.isfinite(short).all() and arr.last[0].tokens < arr.last[0].full_tokens


class Int8(torch.nn.Module):
    """A linear layer as quantisers leave it behind: integers and scales, no floating ``weight``."""

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__()
        scale = linear.weight.detach().abs().amax(1, keepdim=True) / 127
        self.register_buffer("weight", (linear.weight.detach() / scale).round().to(torch.int8))
        self.register_buffer("scale", scale)
        self.bias = linear.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(x, self.weight.to(x.dtype) * self.scale, self.bias)


@pytest.mark.parametrize("name", [*SOME, "qwen3_vl"])
def test_with_weights_in_eight_bits(name):
    """Stands in for bitsandbytes, which needs a GPU: nothing here may read or write a weight."""
    cell = Cell(zoo.build(name))
    for module in list(cell.model.get_decoder().modules()):
        for key, child in list(module.named_children()):
            if isinstance(child, torch.nn.Linear):
                setattr(module, key, Int8(child))
    inputs = cell.make(0, 1)
    before, native = {k: v.clone() for k, v in cell.model.state_dict().items()}, cell.logits(inputs)
    with cell.wrapped(BUDGETS[-1]):
        assert torch.equal(cell.logits(inputs), native)
    with cell.wrapped(realizer="auto", needs=("glance",)) as arr:
        short = cell.logits(inputs)
        assert torch.isfinite(short).all() and arr.last[0].tokens < arr.last[0].full_tokens
        assert torch.isfinite(arr.planner.scenes[0].read_attention([-1])).all()
    assert all(torch.equal(value, before[key]) for key, value in cell.model.state_dict().items())


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")  # PEFT's own
@pytest.mark.parametrize("name", SOME)
def test_inside_peft(name):
    from peft import LoraConfig, get_peft_model

    cell = Cell(zoo.build(name))
    inputs = cell.make(0, 1)
    adapted = get_peft_model(cell.model, LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    adapted.eval()
    with arr_coc.wrap(adapted, tiny.tokenizer(), CONFIG, Pattern(2, 16)) as arr:
        answer = adapted.generate(**inputs, max_new_tokens=2, do_sample=False)
        assert torch.equal(answer[:, :-2], inputs["input_ids"]) and arr.last[0].tokens < arr.last[0].full_tokens
        with torch.no_grad():
            short = adapted(**inputs).logits
            with adapted.disable_adapter():
                assert (adapted(**inputs).logits - short).abs().max() > 1e-3


@pytest.mark.parametrize("name", [*SOME, "gemma3", "smolvlm", "lfm2_vl"])
def test_a_trainer_step(name, tmp_path):
    """At full budget it is that of the untouched model, to the bit; at less it trains on what is left."""
    from transformers import Trainer, TrainingArguments

    def trained(*pattern: int) -> tuple[float, dict[str, torch.Tensor]]:
        cell = Cell(zoo.build(name))
        batch = cell.make(0, 1, left=False)
        batch |= {"labels": labels_of(batch)}
        arguments = TrainingArguments(
            output_dir=str(tmp_path), max_steps=1, per_device_train_batch_size=1, learning_rate=1e-2, report_to=[],
            logging_steps=1, save_strategy="no", use_cpu=True, remove_unused_columns=False, disable_tqdm=True,
        )  # fmt: skip
        trainer = Trainer(cell.model, arguments, train_dataset=[0], data_collator=lambda _: dict(batch))
        if pattern:
            with arr_coc.wrap(cell.model, tiny.tokenizer(), CONFIG, Pattern(*pattern)):
                trainer.train()
        else:
            trainer.train()
        return trainer.state.log_history[0]["loss"], cell.model.state_dict()

    loss, weights = trained()
    again, same = trained(BUDGETS[-1])
    assert again == loss and all(torch.equal(same[key], weights[key]) for key in weights)
    less, other = trained(2, 4, 16)
    assert less != loss and any(not torch.equal(other[key], weights[key]) for key in weights)


@pytest.mark.parametrize("name", ["llava (CLIP)", "mistral3"])
def test_with_a_compiled_language_model(name):
    """Dynamo with its eager backend: graphs are traced and guarded as under inductor, without a compiler."""
    cell = Cell(zoo.build(name))
    inputs = cell.make(0, 1)
    with cell.wrapped():
        want = cell.logits(inputs)
    cell.model.get_decoder().compile(backend="eager")
    with cell.wrapped(needs=("glance",)) as arr:
        assert (cell.logits(inputs) - want).abs().max() < 2e-5
        assert arr.planner.scenes[0].read_attention([-1]).shape[0] == 1
    torch.compiler.reset()


def test_in_a_pipeline():
    """With the real processor of llava: the untouched pipeline call, with fewer tokens."""
    from transformers import CLIPImageProcessor, LlavaProcessor, pipeline

    cell = Cell(zoo.build("llava (CLIP)"))
    words = tiny.tokenizer()
    words.image_token, words.image_token_id = "<img>", tiny.IMAGE
    template = (
        "{% for m in messages %}{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for c in m['content'] %}"
        "{% if c['type'] == 'image' %}<img> {% else %}{{ c['text'] }}{% endif %}{% endfor %}"
        "{% endif %}{% endfor %}"
    )
    side = 2 * zoo.SIDE
    images = CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    processor = LlavaProcessor(
        images, words, patch_size=2, vision_feature_select_strategy="default", chat_template=template,
        image_token="<img>", num_additional_image_tokens=1,
    )  # fmt: skip
    pipe = pipeline("image-text-to-text", model=cell.model, processor=processor)
    photo = Image.new("RGB", (40, 40), (200, 30, 30))
    chat = [{"role": "user", "content": [{"type": "image", "image": photo}, {"type": "text", "text": "w40 w41 w42"}]}]
    options = {"max_new_tokens": 3, "return_full_text": False, "do_sample": False}
    native = pipe(text=chat, **options)
    with arr_coc.wrap(cell.model, processor, CONFIG, Pattern(16, needs=("glance", "pixels"))) as arr:
        assert pipe(text=chat, **options) == native
        (scene,) = arr.planner.scenes
        assert scene.question == "w40 w41 w42"
        assert torch.allclose(scene.pixels[0].mean((1, 2)), torch.tensor([200, 30, 30]) / 255, atol=1e-2)
        arr.planner = Pattern(2)
        assert len(pipe(text=chat, **options)[0]["generated_text"].split()) == 3
        assert arr.last[0].tokens == 8 and arr.last[0].full_tokens == 64
