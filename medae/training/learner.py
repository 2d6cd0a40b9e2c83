"""The part of a training that computes: network, objective, optimisers, moving average, and one step of them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from medae.errors import TrainingError
from medae.objectives.base import Loss, Objective, Trained
from medae.preprocessing.batch import Batch
from medae.seeding import Draw
from medae.training import groups
from medae.training.config import FitConfig
from medae.training.ema import Ema
from medae.training.finetuning import TuningConfig
from medae.training.precision import MixedPrecision, resolve_precision
from medae.training.stillness import Stillness

LAYOUTS = {4: torch.channels_last, 5: torch.channels_last_3d}


class Learner:
    """Holds every tensor of a training. The model and the objective are moved to the accelerator's device."""

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        config: FitConfig,
        accelerator: Accelerator,
        tuning: TuningConfig | None,
    ) -> None:
        self.config, self.accelerator, self.tuning = config, accelerator, tuning
        self.model, self.objective = model.to(accelerator.device), objective.to(accelerator.device)
        self.dtype = resolve_precision(config.precision, accelerator.device)
        if config.channels_last:
            set_layout(model, channels_last=True)
        depths = {} if tuning is None else groups.depths(model)
        self._encoder = Stillness(model, depths)
        self.groups = groups.named_groups(model, objective)
        depths = {f"network.{name}": depth for name, depth in depths.items()}
        self.optimisers = {
            group: groups.build_optimiser(parameters, depths if group == groups.MODEL else {}, config)
            for group, parameters in self.groups.items()
        }
        self.ema = None if config.ema is None else Ema(model, config.ema)
        self.scaler = torch.amp.GradScaler(accelerator.device.type, enabled=self.dtype == torch.float16)
        wrapped = partial(MixedPrecision, dtype=self.dtype, device=accelerator.device)
        objective.attach(Trained(self.model, None if self.ema is None else self.ema.model, wrapped))
        mixed: nn.Module = wrapped(model)
        self.network = accelerator.prepare_model(torch.compile(mixed) if config.compile else mixed)
        self.train()

    @property
    def kept(self) -> nn.Module:
        """The model to validate and to keep: the moving average if there is one."""
        return self.model if self.ema is None else self.ema.model

    def train(self) -> None:
        """Put the network and the objective into training mode."""
        self.network.train()
        self.objective.train()
        self._encoder.forget()

    def share(self, depth: int, step: int) -> float:
        """What the rate of weights of this depth in the encoder is multiplied by in a step."""
        return 1.0 if self.tuning is None else self.tuning.factor(depth, step, self.config.steps)

    def step(self, batch: Batch, draw: Draw, rate: float) -> dict[str, Tensor]:
        """Optimise every group once, at learning rate ``rate``, after all gradients have been computed.

        Returns scalars on the device: ``loss``, ``loss/<term>`` and ``gradient_norm`` (before clipping; not under
        fp16, where an overflow is part of the method); those of a group other than the model's end in ``@<group>``.
        """
        if self.config.channels_last:
            batch = batch.laid_out(LAYOUTS[batch.image.ndim])
        self._encoder.apply(lambda depth: self.share(depth, draw.step) == 0)
        losses = self.objective(self.network, batch, draw)
        totals = self._totals(losses)
        row = {f"loss{_suffix(group)}": total.detach() for group, total in totals.items()}
        for loss in losses:
            row |= {f"loss/{name}{_suffix(loss.parameters)}": term.detach() for name, term in loss.terms.items()}
        for place, (group, total) in enumerate(totals.items(), start=1):
            inputs = [p for p in self.groups[group].values() if p.requires_grad]
            self.scaler.scale(total).backward(inputs=inputs, retain_graph=place < len(totals))
        self._share_gradients()
        for group in totals:
            norm = self._optimise(group, rate, draw.step)
            if not self.scaler.is_enabled():
                row[f"gradient_norm{_suffix(group)}"] = norm
        self.scaler.update()
        if self.ema is not None:
            self.ema.update(self.model, draw.step)
        return row

    def _totals(self, losses: list[Loss]) -> dict[str, Tensor]:
        """The sum of the losses of each group."""
        totals: dict[str, Tensor] = {}
        for loss in losses:
            if not self.groups.get(loss.parameters):
                raise TrainingError(
                    f"A loss wants to train the parameter group '{loss.parameters}', which has no trainable parameter.",
                    where=type(self.objective).__name__,
                    remedy=f"Known groups: {', '.join(name for name, found in self.groups.items() if found) or 'none'}.",
                )
            known = totals.get(loss.parameters)
            totals[loss.parameters] = loss.total if known is None else known + loss.total
        return totals

    def _share_gradients(self) -> None:
        """Average the gradients of the objective's own parameters over the processes; DDP does it for the network's."""
        if self.accelerator.num_processes > 1:
            for parameter in self.objective.parameters():
                if parameter.grad is not None:
                    parameter.grad = self.accelerator.reduce(parameter.grad, reduction="mean")

    def _optimise(self, group: str, rate: float, step: int) -> Tensor:
        """Clip and apply the gradients of a group. Returns their norm before clipping."""
        optimiser, parameters = self.optimisers[group], list(self.groups[group].values())
        groups.set_rate(optimiser, lambda depth: rate * self.share(depth, step) if group == groups.MODEL else rate)
        self.scaler.unscale_(optimiser)
        norm = get_total_norm([p.grad for p in parameters if p.grad is not None])
        if self.config.clip is not None:
            clip_grads_with_norm_(parameters, self.config.clip, norm)
        self.scaler.step(optimiser)
        optimiser.zero_grad()
        return norm.detach()

    def scaler_facts(self) -> dict[str, float]:
        """The state of the fp16 loss scaler, empty in other precisions; JSON."""
        facts: dict[str, float] = self.scaler.state_dict()
        return facts

    def tensors(self) -> dict[str, Tensor]:
        """Everything that a checkpoint needs, by name."""
        found = {f"model/{name}": value for name, value in self.model.state_dict().items()}
        found |= {f"objective/{name}": value for name, value in self.objective.state_dict().items()}
        if self.ema is not None:
            found |= {f"ema/{name}": value for name, value in self.ema.model.state_dict().items()}
        for group, optimiser in self.optimisers.items():
            state = groups.optimiser_tensors(optimiser, self.groups[group])
            found |= {f"optimiser {group}/{name}": value for name, value in state.items()}
        return found

    def load(self, tensors: Mapping[str, Tensor], scaler: Mapping[str, float]) -> None:
        """Put back what ``tensors`` and ``scaler_facts`` gave.

        Raises TrainingError if the model or the objective is another one.
        """
        if self.scaler.is_enabled() and scaler:
            self.scaler.load_state_dict(dict(scaler))
        parts: dict[str, dict[str, Tensor]] = {}
        for full_name, value in tensors.items():
            part, _, name = full_name.partition("/")
            parts.setdefault(part, {})[name] = value
        try:
            self.model.load_state_dict(parts.get("model", {}))
            self.objective.load_state_dict(parts.get("objective", {}))
            if self.ema is not None:
                self.ema.model.load_state_dict(parts.get("ema", {}))
            for group, optimiser in self.optimisers.items():
                groups.load_optimiser(optimiser, self.groups[group], parts.get(f"optimiser {group}", {}))
        except (RuntimeError, KeyError) as error:
            raise TrainingError(
                f"The checkpoint belongs to another network or objective: {error}",
                where="resume",
                remedy="Resume with the old configuration, or start anew in another folder.",
            ) from error

    def restore(self) -> None:
        """Give the model its own ways back: memory layout, trainable parameters; in evaluation mode."""
        set_layout(self.model, channels_last=False)
        self._encoder.apply(lambda depth: False)
        self.model.eval()


def set_layout(module: nn.Module, channels_last: bool) -> None:
    """Put the convolution weights of a module into the channels-last memory layout, or all into the default one."""
    for parameter in module.parameters():
        layout = LAYOUTS.get(parameter.ndim, torch.contiguous_format) if channels_last else torch.contiguous_format
        parameter.data = parameter.data.contiguous(memory_format=layout)


def _suffix(group: str) -> str:
    return "" if group == groups.MODEL else f"@{group}"
