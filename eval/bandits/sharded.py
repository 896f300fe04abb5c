"""A neural bandit too large for one process: its parameters and their optimiser are sharded (FSDP2).

    accelerate launch --config_file configs/accelerate-cpu.yaml -m eval.bandits.sharded --out runs/large

The values of all arms are one network of the context, fitted to logged rewards of single arms. Every process takes its
rows of each batch and holds its part of every weight matrix, of its gradient and of Adam's two moments; a layer is put
together only while it is used. Launched by accelerate; sharded by torch's ``fully_shard``, since accelerate's own FSDP
plugin refuses processes without a GPU. Zhao et al. 2023 (PyTorch FSDP).
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from safetensors.torch import load_file
from safetensors.torch import save as serialise
from torch import Tensor, nn

from allocator.storage import replace_file
from arr_coc.commands.terminal import clear_errors
from arr_coc.learning.workers import Workers

WEIGHTS, CONFIG, RECORD = "model.safetensors", "config.json", "training.json"


@dataclass(frozen=True, kw_only=True)
class BanditConfig:
    """Size of the bandit and of its training.

    Parameters
    ----------
    dim, arms, width
        Features of a context, arms, hidden units.
    steps, batch
        Training steps, and logged rounds of each, over all processes.
    rate
        Adam's learning rate.
    seed
        Of the weights and of the simulated log.
    """

    dim: int = 10_000
    arms: int = 1_000
    width: int = 256
    steps: int = 20
    batch: int = 64
    rate: float = 1e-3
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("dim", "arms", "width", "steps", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if not 0 < self.rate < 1:
            raise ValueError(f"rate={self.rate} must lie in (0, 1)")


class ArmValues(nn.Module):
    """Context [B, d] -> expected reward of every arm [B, K]."""

    def __init__(self, config: BanditConfig) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(config.seed)
        self.hidden, self.head = nn.Linear(config.dim, config.width), nn.Linear(config.width, config.arms)
        with torch.no_grad():
            for layer in (self.hidden, self.head):
                layer.weight.normal_(0.0, layer.in_features**-0.5, generator=generator)
                layer.bias.zero_()

    def forward(self, contexts: Tensor) -> Tensor:
        """Values of all arms."""
        values: Tensor = self.head(torch.relu(self.hidden(contexts)))
        return values


def logged_batch(config: BanditConfig, step: int) -> tuple[Tensor, Tensor, Tensor]:
    """A batch of a simulated log: contexts [B, d], arms [B] chosen uniformly, rewards [B] = tanh(x'w_arm) + noise."""
    generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step + 1)
    contexts = torch.randn(config.batch, config.dim, generator=generator)
    arms = torch.randint(config.arms, (config.batch,), generator=generator)
    angles = arms[:, None] * torch.arange(1, 9)[None] * 0.37  # eight features matter, each arm in its own way
    means = torch.tanh((contexts[:, :8] * torch.cos(angles)).sum(1))
    return contexts, arms, means + 0.1 * torch.randn(config.batch, generator=generator)


def train(config: BanditConfig, workers: Workers, out: Path | None = None) -> dict[str, Any]:
    """Train, sharded over the processes.

    Parameters
    ----------
    config
        See `BanditConfig`; the batch must divide by the number of processes.
    workers
        The processes.
    out
        Folder for the consolidated weights (safetensors), the configuration and the record.

    Returns
    -------
    dict
        ``losses`` of every step over the whole batch; ``bytes`` of parameters and optimiser held by each process.

    Raises
    ------
    ValueError
        If the batch does not divide.
    """
    if config.batch % workers.size:
        raise ValueError(f"batch={config.batch} does not divide by {workers.size} processes")
    model = ArmValues(config).to(workers.device)
    if workers.size > 1:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh(workers.device.type, (workers.size,))
        for layer in (model.hidden, model.head, model):
            fully_shard(layer, mesh=mesh)
    optimiser = torch.optim.Adam(model.parameters(), config.rate)
    losses = []
    for step in range(config.steps):
        mine = [part[workers.rank :: workers.size].to(workers.device) for part in logged_batch(config, step)]
        contexts, arms, rewards = mine
        loss = nn.functional.mse_loss(model(contexts).gather(1, arms[:, None])[:, 0], rewards)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(torch.stack(workers.gather_tensor(loss.detach())).mean()))
    held = _held(model, optimiser)
    record = {"config": asdict(config), "processes": workers.size, "losses": losses, "bytes": workers.gather(held)}
    if out is not None:
        weights = _whole(model, workers)
        if workers.first:
            out.mkdir(parents=True, exist_ok=True)
            replace_file(out / WEIGHTS, serialise(weights))
            replace_file(out / CONFIG, json.dumps(asdict(config), indent=1) + "\n")
            replace_file(out / RECORD, json.dumps(record, indent=1) + "\n")
        workers.wait()
    return record


def load(folder: str | os.PathLike[str]) -> ArmValues:
    """The trained bandit in one process, however many trained it.

    Raises
    ------
    ValueError
        If the folder holds none, or it is damaged.
    """
    path = Path(folder)
    try:
        model = ArmValues(BanditConfig(**json.loads((path / CONFIG).read_text(encoding="utf-8"))))
        model.load_state_dict(load_file(path / WEIGHTS))
    except Exception as error:  # missing, torn and foreign files surface as many types
        raise ValueError(f"{path} holds no trained bandit: {str(error).splitlines()[0]}") from error
    return model.eval()


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def _held(model: nn.Module, optimiser: torch.optim.Optimizer) -> int:
    """Bytes of parameters and optimiser state that this process holds."""
    tensors = [*model.parameters(), *(t for state in optimiser.state.values() for t in state.values())]
    return sum(_local(t).numel() * t.element_size() for t in tensors if isinstance(t, Tensor))


def _whole(model: nn.Module, workers: Workers) -> dict[str, Tensor]:
    if workers.size == 1:
        return {name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()}
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    options = StateDictOptions(full_state_dict=True, cpu_offload=True)  # on the first process; empty on the others
    whole: dict[str, Any] = dict(get_model_state_dict(model, options=options))
    return {name: tensor.contiguous() for name, tensor in whole.items()}


@clear_errors
def main(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the trained bandit.")],
    dim: Annotated[int, typer.Option(min=1, help="Features of a context.")] = 10_000,
    arms: Annotated[int, typer.Option(min=1)] = 1_000,
    width: Annotated[int, typer.Option(min=1, help="Hidden units.")] = 256,
    steps: Annotated[int, typer.Option(min=1)] = 20,
    batch: Annotated[int, typer.Option(min=1, help="Logged rounds of a step, over all processes.")] = 64,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Train a large neural bandit on a simulated log, its memory shared by all processes of `accelerate launch`."""
    workers = Workers.start()
    record = train(BanditConfig(dim=dim, arms=arms, width=width, steps=steps, batch=batch, seed=seed), workers, out)
    if workers.first:
        sizes = ", ".join(f"{held / 2**20:.1f} MiB" for held in record["bytes"])
        typer.echo(f"loss {record['losses'][0]:.4f} -> {record['losses'][-1]:.4f}; held by each process: {sizes}")
    workers.stop()


if __name__ == "__main__":
    typer.run(main)
