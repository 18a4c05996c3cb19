"""The half of a weight update that runs inside vLLM's worker processes.

vLLM mixes `WeightLoader` into its worker class (`worker_extension_cls`) and calls its methods by name on every worker
(`collective_rpc`). Loading goes through vLLM's own layer-wise reload, which undoes and redoes whatever the kernels did to the
weights after loading (on CPU they are pre-packed) and keeps the storage that captured graphs point to.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import torch
from vllm.config import set_current_vllm_config
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

from rayrl.errors import WeightSyncError
from rayrl.sync.plan import unpack, verify
from rayrl.types import WeightManifest


class WeightLoader:
    """Mixed into vLLM's worker: ``self`` is the worker. Names start with ``rayrl_``: vLLM refuses any that it already has."""

    vllm_config: Any
    model_runner: Any

    def rayrl_load(self, manifest: WeightManifest, buckets: Sequence[np.ndarray]) -> None:
        """Verifies and loads. Raises `WeightSyncError`; before anything is touched if the bytes are not those announced."""
        verify(manifest, buckets)
        model, config = self.model_runner.get_model(), self.vllm_config.model_config
        with set_current_vllm_config(self.vllm_config), torch.no_grad():
            initialize_layerwise_reload(model)
            loaded = model.load_weights(unpack(manifest, buckets))
            finalize_layerwise_reload(model, config)
            _repack_tied(model)
        torch.accelerator.synchronize()  # copies to a GPU may still be under way; vLLM makes this a no-op on CPU
        missing = {name for name, _ in model.named_parameters()} - loaded if loaded and config.quantization is None else set()
        if missing:
            raise WeightSyncError(
                f"weight update {manifest.version} left {len(missing)} of vLLM's parameters untouched: {sorted(missing)[:3]}",
                "vLLM names this model's weights differently from the checkpoint; use rollout.engine=torch for it",
            )

    def rayrl_load_file(self, manifest: bytes, path: str) -> None:
        """The same with a pickled manifest and the buckets one after the other in a file that all workers map."""
        announced: WeightManifest = pickle.loads(manifest)
        data = np.memmap(path, dtype=np.uint8, mode="r")
        bounds = pairwise(accumulate(announced.bucket_nbytes, initial=0))
        self.rayrl_load(announced, [data[start:end] for start, end in bounds])

    def rayrl_repack_tied(self) -> None:
        """After an update that came through vLLM's own transfer engine."""
        _repack_tied(self.model_runner.get_model())

    def rayrl_seed(self, seed: int) -> None:
        """Seeds the generators that requests without a seed of their own draw from."""
        torch.manual_seed(seed)

    def rayrl_free_bytes(self) -> int:
        """Free memory of this worker's GPU in bytes."""
        return int(torch.cuda.mem_get_info()[0])


def _repack_tied(model: torch.nn.Module) -> None:
    """Redoes the kernels' packing of modules that share another module's weight (a tied output head).

    The layer-wise reload processes a shared weight for the module that it was loaded through. On CPU the head multiplies with
    a packed copy of its own, which would silently stay that of the previous version.
    """
    owners: dict[int, torch.nn.Module] = {}
    for module in model.modules():
        weight, method = getattr(module, "weight", None), getattr(module, "quant_method", None)
        if not isinstance(weight, torch.Tensor) or method is None or weight.numel() == 0:
            continue
        if owners.setdefault(id(weight), module) is not module:
            method.process_weights_after_loading(module)
