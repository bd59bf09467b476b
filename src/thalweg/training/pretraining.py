"""Greedy layer-wise pretraining (section 8.7.4): block after block, each on what those below give, then fine-tuning.

A stage is a small network of its own: the block in hand and what is put on top of it for the time. It is trained as any
network is, and its block then put back.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from thalweg.core.errors import ProblemError
from thalweg.core.network import Batch, Network
from thalweg.training.autoencoding import Autoencoder, linear, masking

Blocks = Callable[[nn.Module], Sequence[nn.Module]]  # of a module, the blocks that it runs one after the other


def in_blocks(module: nn.Module) -> list[nn.Module]:
    """The blocks of an nn.Sequential: each a part with weights (of two dimensions or more) and all up to the next.

    What comes before the first weights is of the first block. Raises ProblemError for another module.

    >>> [len(block) for block in in_blocks(nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)))]
    [3, 1]
    """
    if not isinstance(module, nn.Sequential):
        raise ProblemError(
            f"the model is a {type(module).__name__}, whose blocks cannot be seen: give Problem(blocks=) a function "
            "that lists the blocks which it runs one after the other"
        )
    found: list[list[nn.Module]] = [[]]
    weighty = False
    for part in module:
        weighs = any(parameter.dim() > 1 for parameter in part.parameters())
        if weighs and weighty:
            found.append([])
        weighty |= weighs
        found[-1].append(part)
    return [nn.Sequential(*parts) for parts in found]


MASKED = 0.25  # of the inputs, in the recipe's "denoising" (Vincent et al. 2010 search 0.1 to 0.4)
PRETRAINING: dict[str, Autoencoder | None] = {
    "supervised": None,
    "unsupervised": Autoencoder(),
    "denoising": Autoencoder(masking(MASKED)),
}


@dataclass(frozen=True, eq=False)
class Stage:
    """One block's training: `network` is what is trained, on batches as it `sees` them."""

    number: int  # from 1
    of: int
    network: Network
    below: nn.Module  # copies of the blocks trained before, as they answer in use
    autoencoder: Autoencoder | None
    seed: int
    pairs: Sequence[tuple[nn.Module, nn.Module]]  # a part of `network`, and the part of the model that it is a copy of

    @torch.no_grad()
    def sees(self, batch: Batch, t: int) -> Batch:
        """The batch as the block sees it at step t: what those below answer, with the targets or with itself."""
        h = self.below(batch.inputs)
        if self.autoencoder is None:
            return Batch(h, batch.targets)
        return Batch(self.autoencoder.corrupt(h, t, self.seed), h)

    def batches(self, batches: Iterable[Batch], t: int = 0) -> Iterator[Batch]:
        """What `descend` takes: batches as the block sees them from step t on."""
        return (self.sees(batch, t + i) for i, batch in enumerate(batches))

    def keep(self) -> None:
        """Puts the block, as it is now, into the model."""
        for trained, original in self.pairs:
            original.load_state_dict(trained.state_dict())


def stages(
    network: Network,
    batch: Batch,
    kind: str | Autoencoder = "supervised",
    *,
    blocks: Blocks = in_blocks,
    seed: int = 0,
) -> Iterator[Stage]:
    """The stages of greedy pretraining, one for each block but the last; train each before the next is asked for.

    "supervised": the block and a new output layer learn the targets, on what the blocks below give, which stay as
    they are; the last of these stages has the model's own output layer (Bengio et al. 2007; figure 8.7).
    "unsupervised", "denoising" or an `Autoencoder`: the block and a decoder give back the block's inputs. Asking for
    the next stage keeps the block. Fine-tuning is `descend` on `network` afterwards, the model in its usual form.

    `batch` is any one, for its shapes; `seed` is for the new layers and what spoils inputs. Raises ProblemError for
    blocks that do not answer as the model does, for a model of one block, and for inputs that cannot be given back.

    >>> from thalweg import adam, descend
    >>> module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))
    >>> network, batch = Network(module, nn.functional.cross_entropy), Batch(torch.randn(8, 3), torch.arange(8) % 2)
    >>> for stage in stages(network, batch, "unsupervised"):
    ...     for step in descend(stage.network, adam, stage.batches([batch] * 30), lr=0.05):
    ...         pass
    ...     print(stage.number, stage.of, step.t)
    1 2 30
    2 2 30
    """
    for k in range(len(hidden(blocks(network.module)))):
        stage = staged(network, k, batch, kind, blocks=blocks, seed=seed)
        yield stage
        stage.keep()


def staged(
    network: Network,
    k: int,
    batch: Batch,
    kind: str | Autoencoder = "supervised",
    *,
    blocks: Blocks = in_blocks,
    seed: int = 0,
) -> Stage:
    """Stage k, from 0, of a network whose blocks below are trained: a function of these, the seed and k."""
    if isinstance(kind, str) and kind not in PRETRAINING:
        raise ProblemError(f"no pretraining is called '{kind}': there are {', '.join(PRETRAINING)}, or an Autoencoder")
    autoencoder = PRETRAINING[kind] if isinstance(kind, str) else kind
    parts = list(blocks(network.module))
    places = hidden(parts)
    block, *rest = copy.deepcopy(parts[places[k] :])
    below = copy.deepcopy(nn.Sequential(*parts[: places[k]])).eval()
    answers, final = _answers(network, batch, parts)
    inputs, outputs = answers[places[k] : places[k] + 2]
    pairs = [(block, parts[places[k]])]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed((seed * 0x9E3779B97F4A7C15 + k + 1) % 2**63)
        if autoencoder is not None:
            if not inputs.is_floating_point():
                raise ProblemError(
                    f"block {k + 1} takes {inputs.dtype}, which cannot be given back: pretrain supervised"
                )
            module = autoencoder.top(block, inputs, outputs)
        elif k + 1 < len(places):
            module = nn.Sequential(block, linear(outputs, final))
        else:
            module = nn.Sequential(block, *rest)
            pairs = list(zip((block, *rest), parts[places[k] :], strict=True))
    module = module.to(network.theta.device, network.theta.dtype)
    loss = network.loss if autoencoder is None else autoencoder.loss
    return Stage(k + 1, len(places), Network(module, loss), below, autoencoder, seed, pairs)


def hidden(parts: Sequence[nn.Module]) -> list[int]:
    """Which blocks have a stage: those that can be trained, but for the last, whose training is fine-tuning.

    >>> hidden([nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 2), nn.Linear(2, 1)])
    [0, 2]
    """
    found = [i for i, part in enumerate(parts[:-1]) if any(p.requires_grad for p in part.parameters())]
    if not found:
        raise ProblemError(f"of the model's {len(parts)} blocks none below the last can be trained: leave pretrain out")
    return found


@torch.no_grad()
def _answers(network: Network, batch: Batch, parts: Sequence[nn.Module]) -> tuple[list[Tensor], Tensor]:
    """What goes into each block and comes out of the last; it must be the model's answer."""
    answers = [batch.inputs]
    for k, part in enumerate(copy.deepcopy(list(parts))):
        try:
            answers.append(part.eval()(answers[-1]))
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            reason = (str(error).splitlines() or [""])[0]
            raise ProblemError(f"block {k + 1} does not take what block {k} gives: {reason}") from error
    final = network.outputs(batch.inputs)
    if final.shape != answers[-1].shape or not torch.allclose(final, answers[-1], rtol=1e-4, atol=1e-5, equal_nan=True):
        raise ProblemError("the blocks, one after the other, do not answer as the model does: list all that it runs")
    return answers, final
