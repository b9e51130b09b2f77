"""A LoRA's tensors put on one transformer: what is of low rank beside the weights, a difference added to them.

Every tensor is accounted for, used or not. Knows nothing of files, hubs or pipelines.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from shelllcc.guidance.errors import ModelError
from shelllcc.guidance.wan.model.factors import axis_of, decomposed, made_of
from shelllcc.guidance.wan.model.names import FACTORS, part_of, refused_as, spellings, stranger

if TYPE_CHECKING:
    from diffusers import WanTransformer3DModel

SECOND = "transformer_2."
FOREIGN = "patch_embedding"  # image-to-video models have more channels there: its difference is for them alone


@dataclass(frozen=True)
class Weights:
    """The tensors of a LoRA file by their names there, and what the trainer noted of them, as PEFT names it."""

    tensors: Mapping[str, Tensor]
    about: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def has_second(self) -> bool:
        return any(key.startswith(SECOND) for key in self.tensors)

    def of(self, *, second: bool) -> Weights:
        """The share of one transformer of two."""
        mine = {k.removeprefix(SECOND): v for k, v in self.tensors.items() if k.startswith(SECOND) == second}
        about = {k.removeprefix(SECOND): v for k, v in self.about.items() if k.startswith(SECOND) == second}
        return Weights(mine, about)

    def scale(self, layer: str, rank: int, alpha: Tensor | None) -> float:
        """What factors of this rank, 0 of whole ones, are multiplied by: alpha / rank; one where nobody says it."""
        about = {key.removeprefix("transformer."): value for key, value in self.about.items()}
        said = about.get("lora_alpha", about.get("alpha")) if alpha is None else alpha.flatten()[0].item()
        if alpha is None:
            for pattern, value in (about.get("alpha_pattern") or {}).items():
                said = value if re.match(rf"(.*\.)?({pattern})$", layer) else said
        rank = rank or about.get("r") or 0
        if said is None or not rank:
            return 1.0
        return float(said) / (math.sqrt(rank) if about.get("use_rslora") else rank)


@dataclass
class Account:
    """What became of a LoRA's tensors on one transformer: the layers that changed, and what was not used, by why."""

    weight: float
    products: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    added: dict[str, set[str]] = field(default_factory=dict)  # layers whose weights are others, by how
    unused: dict[str, list[str]] = field(default_factory=dict)

    @property
    def layers(self) -> int:
        return len(self.products.keys() | set().union(*self.added.values()))

    def counted(self, where: str) -> str:
        """How many layers changed, and how."""
        added = "".join(f", {len(layers)} of them {how}" for how, layers in self.added.items())
        return f"{self.layers} layer{'s'[: self.layers > 1]} of the transformer{where} at {self.weight:g}{added}"

    def add(self, how: str, layer: str) -> None:
        self.added.setdefault(how, set()).add(layer)

    def leave(self, why: str, *tensors: str) -> None:
        self.unused.setdefault(why, []).extend(tensors)

    def said(self) -> str:
        """What was not applied, in words; empty where all was."""
        told = [f"{len(n)} tensor{'s'[: len(n) > 1]} {why} (first {n[0]})" for why, n in self.unused.items()]
        return f"not applied: {', '.join(told)}" if told else ""


class Layers:
    """The layers of a transformer, before any LoRA is put on it; `dtype` is that in which adapters compute."""

    def __init__(self, transformer: WanTransformer3DModel, dtype: torch.dtype) -> None:
        self.transformer, self.dtype = transformer, dtype
        self.modules = {n: m for n, m in transformer.named_modules() if getattr(m, "weight", None) is not None}
        self.lone = {n: p for n, p in transformer.named_parameters() if not n.endswith((".weight", ".bias"))}
        self.known = spellings([*self.modules, *self.lone])
        self.adapters = dict[str, float]()

    def add(self, weights: Weights, name: str, weight: float, source: str) -> Account:
        """Put the tensors of a LoRA on, its products as the adapter `name` (see `settle`). Raises as `account`."""
        account = self.account(weights, weight, source)
        if account.products:
            self._put(name, account)
        return account

    def account(self, weights: Weights, weight: float, source: str) -> Account:
        """Add the differences of a LoRA, and have its products ready; on the meta device shapes alone suffice.

        Raises ModelError for one that cannot be applied exactly.
        """
        if kind := refused_as(weights.tensors):
            raise ModelError(
                f"the LoRA {source} is {kind}, which is not applied here; "
                "merge it into the model with its trainer's tool and give the result as --transformer"
            )
        account = Account(weight)
        with torch.no_grad():
            for layer, parts in self._parts(weights, account, source).items():
                self._change(layer, parts, weights, account, source)
        return account

    def settle(self) -> None:
        """Give all adapters their weights."""
        if self.adapters:
            self.transformer.set_adapters(list(self.adapters), list(self.adapters.values()))

    def _parts(self, weights: Weights, account: Account, source: str) -> dict[str, dict[str, str]]:
        """Of each layer that there is, the names of the tensors for it by their role."""
        found: dict[str, dict[str, str]] = {}
        for tensor in weights.tensors:
            part = part_of(tensor, self.known)
            if part is None:
                account.leave(stranger(tensor, len(self.transformer.blocks)), tensor)
            elif (other := found.setdefault(part.layer, {}).setdefault(part.role, tensor)) != tensor:
                raise ModelError(
                    f"the LoRA {source} holds both {other} and {tensor} for one layer; give a file with one of them"
                )
        return found

    def _change(self, layer: str, parts: Mapping[str, str], weights: Weights, account: Account, source: str) -> None:
        """Apply what a LoRA has for one layer."""
        given = {role: weights.tensors[name].float() for role, name in parts.items()}
        module = self.modules.get(layer)
        weight = self.lone[layer] if module is None else module.weight
        shape = (module.out_features, module.in_features) if isinstance(module, nn.Linear) else tuple(weight.shape)
        difference = pair = None
        made = made_of(given, lambda rank: weights.scale(layer, rank, given.get("alpha")))
        if made is None:
            if halves := [parts[role] for role in (*FACTORS, "dora") if role in parts]:
                account.leave("that lack their other half", *halves)
        elif not self._fits(made.shape, made.of(shape), layer, parts[made.first], account, source):
            others = [role for role in (*FACTORS, "dora") if role in parts and role != made.first]
            account.leave(_shaped(shape), *(parts[role] for role in others))
        elif "dora" in given:
            axis = axis_of(given["dora"], shape)
            if axis is None:
                raise self._of_another(layer, tuple(given["dora"].shape), shape, parts["dora"], source)
            whole = made.whole().reshape(shape)
            difference = decomposed(_numbers(module, weight), whole, given["dora"], axis)
            account.add("as DoRA", layer)
        elif made.kind == "LoRA" and isinstance(module, nn.Linear):
            pair = made.pair
        else:
            difference = made.whole().reshape(shape)
            account.add("by differences" if made.kind == "LoRA" else f"as {made.kind}", layer)
        if "diff" in given and self._fits(tuple(given["diff"].shape), shape, layer, parts["diff"], account, source):
            difference = given["diff"] if difference is None else difference + given["diff"].to(difference.device)
            account.add("by differences", layer)
        if difference is not None and not _plain(weight):  # quantized: beside it, as a product of full rank
            pair, difference = _joined(pair, difference), None
        if pair is not None:
            kind = weight.dtype if _plain(weight) else self.dtype
            account.products[layer] = (pair[0].to(kind), pair[1].to(kind))
        if difference is not None:
            _add(weight, account.weight * difference)
        self._shift(layer, parts, given, made.scale if made else 1.0, account)

    def _shift(
        self, layer: str, parts: Mapping[str, str], given: Mapping[str, Tensor], scale: float, account: Account
    ) -> None:
        """Apply what a LoRA has for the bias of a layer."""
        bias = getattr(self.modules.get(layer), "bias", None)
        for role, factor in (("diff_b", 1.0), ("up_bias", scale)):
            if role not in given:
                continue
            if bias is None or bias.shape != given[role].shape or not _plain(bias):
                account.leave("for a bias that the model lacks", parts[role])
            else:
                _add(bias, account.weight * factor * given[role])
                account.add("by differences", layer)

    def _fits(
        self, made: tuple[int, ...], shape: tuple[int, ...], layer: str, tensor: str, account: Account, source: str
    ) -> bool:
        """Whether a change has its layer's shape. Raises ModelError where the LoRA is for another size of model."""
        if made == shape:
            return True
        if layer != FOREIGN:
            raise self._of_another(layer, made, shape, tensor, source)
        account.leave(_shaped(shape), tensor)
        return False

    def _of_another(
        self, layer: str, made: tuple[int, ...], shape: tuple[int, ...], tensor: str, source: str
    ) -> ModelError:
        return ModelError(
            f"the LoRA {source} is for another Wan: {tensor} is for {list(made)}, {layer} here is {list(shape)}; "
            "give it with the --model that it was made for"
        )

    def _put(self, name: str, account: Account) -> None:
        """Load the products beside the weights."""
        state = {}
        for layer, (down, up) in account.products.items():
            state[f"{layer}.lora_A.weight"], state[f"{layer}.lora_B.weight"] = down.contiguous(), up.contiguous()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Already found a `peft_config`", UserWarning)  # several are meant
            self.transformer.load_lora_adapter(state, prefix=None, adapter_name=name, low_cpu_mem_usage=True)
        self.adapters[name] = account.weight


def _shaped(shape: tuple[int, ...]) -> str:
    return f"for another model's {FOREIGN}, which is {list(shape)} here"


def _plain(weight: Tensor) -> bool:
    """Whether a weight is numbers that may be added to, and not quantized."""
    return type(weight.data) is Tensor and weight.dtype in (torch.float32, torch.bfloat16, torch.float16)


def _numbers(module: nn.Module | None, weight: Tensor) -> Tensor:
    """The weight of a layer in float32, of a quantized one as it computes with it."""
    if getattr(weight, "quant_type", None) is not None:
        from diffusers.quantizers.gguf.utils import dequantize_gguf_tensor

        weight = dequantize_gguf_tensor(weight).as_subclass(Tensor)
    elif module is not None and not _plain(weight):
        from peft.utils.integrations import dequantize_module_weight

        weight = dequantize_module_weight(module)
    return weight.detach().float()


def _add(weight: Tensor, change: Tensor) -> None:
    weight.data = (weight.data.float() + change.to(weight.device)).to(weight.dtype)


def _joined(pair: tuple[Tensor, Tensor] | None, difference: Tensor) -> tuple[Tensor, Tensor]:
    """A product, and a difference (out in) as one of full rank, as one product."""
    rows, columns = difference.shape
    down, up = (difference, torch.eye(rows)) if rows < columns else (torch.eye(columns), difference)
    return (down, up) if pair is None else (torch.cat([pair[0], down]), torch.cat([pair[1], up], dim=1))
