# SPDX-License-Identifier: Apache-2.0
"""The peers, as a process that measures what it is told to.

Runs in the bench's virtual environment. Reads a JSON command a line from standard input and answers
each with a JSON line: {"min_s", "peak_rss_mb", ...}, or {"error"}. Timing is inside this process, so
neither start-up nor the transfer of results counts.

Two strengths of the same peer, chosen once with --linears:

  installed  as `pip` installs it. TransformerLens 2.15's per-head linears multiply by broadcasting
             and sum, through temporaries of [batch, pos, head, d_model, d_head].
  einsum     the same linears as contractions, as TransformerLens 1 and 3 have them. The fair peer.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np  # noqa: E402
import torch  # noqa: E402

from layout import Shape  # noqa: E402


def use_einsum() -> None:
    """Replaces the two broadcasts. The first is a function. The second is inline in attention's
    forward, `(z * w).sum(-2)` after two rearranges that only add axes of size 1; so those two
    rearranges are replaced by an operand that remembers what it was and contracts when multiplied."""
    import einops
    import transformer_lens.components.abstract_attention as attention

    def linear(x, w, b):
        return torch.einsum("bthd,hde->bthe", x, w) + b

    class Product:
        def __init__(self, z, w):
            self.z, self.w = z, w

        def sum(self, axis):
            assert axis == -2
            return torch.einsum("bthe,hed->bthd", self.z, self.w)

    class Operand:
        def __init__(self, tensor):
            self.tensor, self.device = tensor, tensor.device

        def to(self, device):
            return Operand(self.tensor.to(device))

        def __mul__(self, other):
            return Product(self.tensor, other.tensor)

    padded = {
        "head_index d_head d_model -> 1 1 head_index d_head d_model",
        "batch pos head_index d_head -> batch pos head_index d_head 1",
    }

    class Einops:
        def __getattr__(self, name):
            return getattr(einops, name)

        @staticmethod
        def rearrange(tensor, pattern, **sizes):
            if pattern in padded:
                return Operand(tensor)
            return einops.rearrange(tensor, pattern, **sizes)

    attention.complex_attn_linear = linear
    attention.einops = Einops()


def peak_reset() -> None:
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")


def peak_mb() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) // 1024
    raise RuntimeError("no VmHWM")


def timed(body, reps: int, warm: int) -> dict:
    for _ in range(warm):
        body()
    peak_reset()
    seconds = []
    for _ in range(reps):
        start = time.perf_counter()
        body()
        seconds.append(time.perf_counter() - start)
    return {"min_s": min(seconds), "peak_rss_mb": peak_mb()}


def read_ids(path: str) -> torch.Tensor:
    rows = [[int(word) for word in line.split()] for line in Path(path).read_text().splitlines()]
    return torch.tensor(rows)


def read_list(path: str) -> list[int]:
    return [int(line) for line in Path(path).read_text().split()]


def lens_model(folder: str, split: bool):
    """A HookedTransformer with the weights of a Hugging Face GPT-2 folder, as they are."""
    import transformer_lens
    from safetensors.torch import load_file

    config = json.loads((Path(folder) / "config.json").read_text())
    heads, width = config["n_head"], config["n_embd"]
    model = transformer_lens.HookedTransformer(
        transformer_lens.HookedTransformerConfig(
            n_layers=config["n_layer"], n_heads=heads, d_model=width, d_head=width // heads,
            d_mlp=4 * width, d_vocab=config["vocab_size"], n_ctx=config["n_positions"],
            act_fn="gelu_new", normalization_type="LN", eps=config["layer_norm_epsilon"],
            device="cpu",
        )
    )
    raw = load_file(Path(folder) / "model.safetensors")
    raw = {name.removeprefix("transformer."): tensor for name, tensor in raw.items()}
    state = {
        "embed.W_E": raw["wte.weight"],
        "pos_embed.W_pos": raw["wpe.weight"],
        "ln_final.w": raw["ln_f.weight"],
        "ln_final.b": raw["ln_f.bias"],
        "unembed.W_U": raw["wte.weight"].T,
        "unembed.b_U": torch.zeros(config["vocab_size"]),
    }
    for layer in range(config["n_layer"]):
        old, new = f"h.{layer}.", f"blocks.{layer}."
        for norm in ("1", "2"):
            state[f"{new}ln{norm}.w"] = raw[f"{old}ln_{norm}.weight"]
            state[f"{new}ln{norm}.b"] = raw[f"{old}ln_{norm}.bias"]
        weights = raw[f"{old}attn.c_attn.weight"].split(width, dim=1)  # Conv1D: [in, out]
        biases = raw[f"{old}attn.c_attn.bias"].split(width)
        for part, weight, bias in zip("QKV", weights, biases):
            state[f"{new}attn.W_{part}"] = weight.reshape(width, heads, -1).movedim(1, 0)
            state[f"{new}attn.b_{part}"] = bias.reshape(heads, -1)
        state[f"{new}attn.W_O"] = raw[f"{old}attn.c_proj.weight"].reshape(heads, -1, width)
        state[f"{new}attn.b_O"] = raw[f"{old}attn.c_proj.bias"]
        for ours, theirs in (("in", "c_fc"), ("out", "c_proj")):
            state[f"{new}mlp.W_{ours}"] = raw[f"{old}mlp.{theirs}.weight"]
            state[f"{new}mlp.b_{ours}"] = raw[f"{old}mlp.{theirs}.bias"]
    missing, extra = model.load_state_dict(state, strict=False)
    assert not extra and all(n.endswith(("mask", "IGNORE")) for n in missing), (missing, extra)
    model.eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    if split:
        model.set_use_attn_result(True)
        model.set_use_hook_mlp_in(True)
        model.set_use_split_qkv_input(True)
    return model


class Peers:
    def __init__(self, settings):
        self.settings = settings
        self.shape = Shape.of(settings.model)
        self.lens = None
        self.circuit = None

    # --- TransformerLens --------------------------------------------------------------------------

    def _lens(self):
        if self.lens is None:
            self.circuit = None
            self.lens = lens_model(self.settings.model, split=False)
        return self.lens

    def forward(self, command):
        model, tokens = self._lens(), read_ids(command["tokens"])
        with torch.inference_mode():
            result = timed(lambda: model(tokens), command["reps"], 1)
            np.asarray(model(tokens), dtype="<f4").tofile(command["out"])
        return result

    def cache(self, command):
        model, tokens = self._lens(), read_ids(command["tokens"])
        with torch.inference_mode():
            result = timed(lambda: model.run_with_cache(tokens), command["reps"], 1)
            np.asarray(model(tokens), dtype="<f4").tofile(command["out"])
        return result

    # --- AutoCircuit ------------------------------------------------------------------------------

    def _circuit(self):
        from auto_circuit.utils.graph_utils import patchable_model

        if self.circuit is None:
            self.lens = None
            self.circuit = patchable_model(
                lens_model(self.settings.model, split=True), factorized=True,
                slice_output="last_seq", seq_len=None, separate_qkv=True,
                device=torch.device("cpu"),
            )
            assert self.circuit.n_edges == self.shape.edge_count
        return self.circuit

    def _wrapper(self, name):
        return next(w for w in self._circuit().dest_wrappers if w.module_name == name)

    def _loader(self, command):
        from auto_circuit.data import PromptDataLoader, PromptDataset

        clean, corrupt = read_ids(command["tokens"]), read_ids(command["corrupt"])
        answers = read_ids(command["answers"])
        data = PromptDataset(clean, corrupt, list(answers[:, :1]), list(answers[:, 1:]))
        return PromptDataLoader(
            data, seq_len=None, diverge_idx=0, batch_size=len(clean), shuffle=False
        )

    def _mask_gradient(self, command, **options):
        from auto_circuit.prune_algos.mask_gradient import mask_gradient_prune_scores

        model, loader = self._circuit(), self._loader(command)
        scores = {}

        def body():
            # Gradients add up between calls if nobody clears them.
            for wrapper in model.dest_wrappers:
                wrapper.patch_mask.grad = None
            scores.update(
                mask_gradient_prune_scores(
                    model, loader, None, grad_function="logit", answer_function="avg_diff",
                    **options,
                )
            )

        result = timed(body, command["reps"], command.get("warm", 1))
        flat = [np.asarray(scores[name], dtype="<f4").ravel() for name, _, _ in self.shape.modules()]
        np.concatenate(flat).tofile(command["out"])
        return result

    def eap(self, command):
        return self._mask_gradient(command, mask_val=0.0)

    def ig(self, command):
        return self._mask_gradient(command, integrated_grad_samples=10)

    def sweep(self, command):
        from auto_circuit.prune import run_circuits
        from auto_circuit.types import PatchType

        model, loader = self._circuit(), self._loader(command)
        flat = torch.from_numpy(np.fromfile(command["mask"], dtype="<f4"))
        scores, start = {}, 0
        for name, heads, sources in self.shape.modules():
            mask = self._wrapper(name).patch_mask
            scores[name] = flat[start : start + heads * sources].reshape(mask.shape)
            start += heads * sources
        sizes = read_list(command["edges"])
        outputs = {}

        def body():
            outputs.update(run_circuits(model, loader, sizes, scores, PatchType.TREE_PATCH))

        result = timed(body, command["reps"], 0)
        # Keys are the actual sizes, in the order of those asked for.
        logits = torch.stack([next(iter(of_size.values())) for of_size in outputs.values()])
        np.asarray(logits, dtype="<f4").tofile(command["out"])
        return result

    def masked(self, command):
        from auto_circuit.utils.ablation_activations import src_ablations
        from auto_circuit.utils.graph_utils import patch_mode, set_all_masks

        model = self._circuit()
        clean, corrupt = read_ids(command["tokens"]), read_ids(command["corrupt"])
        flat = torch.from_numpy(np.fromfile(command["mask"], dtype="<f4"))
        by_name = {wrapper.module_name: wrapper for wrapper in model.dest_wrappers}
        ablated = src_ablations(model, corrupt)
        start = 0
        for name, heads, sources in self.shape.modules():
            mask = by_name[name].patch_mask
            mask.data = flat[start : start + heads * sources].reshape(mask.shape).clone()
            start += heads * sources
        with torch.inference_mode(), patch_mode(model, ablated):
            result = timed(lambda: model(clean), command["reps"], command.get("warm", 1))
            np.asarray(model(clean)[model.out_slice], dtype="<f4").tofile(command["out"])
        set_all_masks(model, 0.0)
        return result

    def exact(self, command):
        """Each edge is one masked forward, as run_circuits and ACDC do it. Seconds are an edge's."""
        from auto_circuit.utils.ablation_activations import src_ablations
        from auto_circuit.utils.graph_utils import patch_mode, set_all_masks

        model = self._circuit()
        clean, corrupt = read_ids(command["tokens"]), read_ids(command["corrupt"])
        answers = read_ids(command["answers"])
        by_name = {wrapper.module_name: wrapper for wrapper in model.dest_wrappers}
        ablated = src_ablations(model, corrupt)
        set_all_masks(model, 0.0)

        def loss():
            logits = model(clean)[model.out_slice]
            return -(logits.gather(1, answers[:, :1]) - logits.gather(1, answers[:, 1:])).mean()

        effects, seconds = [], []
        with torch.inference_mode(), patch_mode(model, ablated):
            base = loss()
            scale = model(clean)[model.out_slice].abs().max().item()
            peak_reset()
            for edge in read_list(command["edges"]):
                name, head, source = self.shape.locate(edge)
                mask = by_name[name].patch_mask
                where = (head, source) if mask.ndim == 2 else (source,)
                start = time.perf_counter()
                mask.data[where] = 1.0
                effects.append((loss() - base).item())
                mask.data[where] = 0.0
                seconds.append(time.perf_counter() - start)
        np.asarray(effects, dtype="<f4").tofile(command["out"])
        # An effect is a small difference of losses, which round like the logits they are made of.
        return {"min_s": min(seconds), "peak_rss_mb": peak_mb(), "scale": scale}

    def acdc(self, command):
        """The edges asked for, in that order, at tau 0.01. Seconds are the whole run's, less those of
        a run without edges; the answer is a 1 for each edge that was removed."""
        from auto_circuit.prune_algos.ACDC import acdc_prune_scores

        model, loader = self._circuit(), self._loader(command)
        place = {}
        for edge in model.edges:
            place[edge.dest.module_name, edge.dest.head_idx or 0, edge.src.src_idx] = edge
        edges = [place[self.shape.locate(edge)] for edge in read_list(command["edges"])]
        everything, scores = model.edges, {}

        def run(some):
            model.edges = some  # sorted by layer, stably, before they are tried
            scores.update(acdc_prune_scores(model, loader, None, tao_exps=[-2], tao_bases=[1]))

        setup = timed(lambda: run([]), 1, 1)["min_s"] if command.get("less_setup") else 0
        result = timed(lambda: run(edges), command["reps"], 0)
        result["min_s"] -= setup
        model.edges = everything
        removed = [float(np.isfinite(scores[e.dest.module_name][e.patch_idx].item())) for e in edges]
        np.asarray(removed, dtype="<f4").tofile(command["out"])
        return result

    def probing(self, command):
        """Seconds are a step's: three epochs of the one batch less one epoch, the fastest of each. The
        answer is the scores after two steps with sigmoid masks, which draw nothing."""
        from types import SimpleNamespace

        from auto_circuit.prune_algos.subnetwork_probing import subnetwork_probing_prune_scores

        if not hasattr(torch.optim, "adam"):  # gone from recent torch; AutoCircuit 1.0.1 wants it
            torch.optim.adam = SimpleNamespace(Adam=torch.optim.Adam)
        model, loader = self._circuit(), self._loader(command)

        def run(epochs, mask_fn):
            return subnetwork_probing_prune_scores(
                model, loader, None, learning_rate=0.1, epochs=epochs, mask_fn=mask_fn
            )

        one = timed(lambda: run(1, "hard_concrete"), command["reps"], 1)
        three = timed(lambda: run(3, "hard_concrete"), command["reps"], 0)
        three["min_s"] = (three["min_s"] - one["min_s"]) / 2
        scores = run(2, "sigmoid")
        flat = [
            scores[name].detach().numpy().astype("<f4").ravel() for name, _, _ in self.shape.modules()
        ]
        np.concatenate(flat).tofile(command["out"])
        return three

    # --- The independent reference on a grouped-query model ----------------------------------------

    def reference_eap(self, command):
        spec = importlib.util.spec_from_file_location("ablate_reference", command["reference"])
        reference = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(reference)
        model = reference.Model(command["model"])
        clean, corrupt = read_ids(command["tokens"]), read_ids(command["corrupt"])
        answers = read_ids(command["answers"])
        loss = reference.make_loss(answers[:, :1], answers[:, 1:])
        scores = []

        def body():
            ablated = model.ablation("resample", clean, corrupt)
            scores[:] = [model.eap(clean, ablated, loss)]

        result = timed(body, command["reps"], 1)
        np.asarray(scores[0], dtype="<f4").tofile(command["out"])
        return result


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--linears", choices=["einsum", "installed"], required=True)
    settings = parser.parse_args()
    torch.set_num_threads(settings.threads)
    # Answers go where standard output was; what libraries print does not get in between.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    if settings.linears == "einsum":
        use_einsum()
    peers = Peers(settings)
    for line in sys.stdin:
        command = json.loads(line)
        try:
            answer = getattr(peers, command["op"])(command)
        except Exception as error:  # a peer that cannot run is a finding, not a crash of the bench
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
