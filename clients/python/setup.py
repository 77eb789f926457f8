# SPDX-License-Identifier: Apache-2.0
"""Generates the protobuf modules when the package is built; everything else is in pyproject.toml.

The protos are the repository's (../../proto). A source distribution carries a copy in proto/, so
that it builds away from the repository. A normal build writes the generated modules into the build
folder only; an editable install writes them into src/ablate/v1, where git ignores them.
"""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

HERE = Path(__file__).resolve().parent


def proto_root() -> Path:
    for candidate in (HERE / "proto", HERE.parent.parent / "proto"):
        if (candidate / "ablate" / "v1").is_dir():
            return candidate
    raise SystemExit("the protos are missing: neither proto/ nor ../../proto holds ablate/v1")


def generate(out: Path) -> list[str]:
    """Writes ablate/v1/*_pb2.py and .pyi below `out`; returns the paths."""
    import grpc_tools
    from grpc_tools import protoc

    protos = sorted((proto_root() / "ablate" / "v1").glob("*.proto"))
    well_known = Path(grpc_tools.__file__).parent / "_proto"
    arguments = ["protoc", f"-I{proto_root()}", f"-I{well_known}"]
    arguments += [f"--python_out={out}", f"--pyi_out={out}", *map(str, protos)]
    if protoc.main(arguments) != 0:
        raise SystemExit("protoc failed")
    folder = out / "ablate" / "v1"
    return [str(folder / f"{proto.stem}_pb2{ending}") for proto in protos for ending in (".py", ".pyi")]


class BuildPy(build_py):
    generated: list[str] = []

    def run(self) -> None:
        if getattr(self, "editable_mode", False):
            self.generated = generate(HERE / "src")
        super().run()
        if not getattr(self, "editable_mode", False):
            self.generated = generate(Path(self.build_lib))

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        return super().get_outputs(include_bytecode) + self.generated


class Sdist(sdist):
    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        super().make_release_tree(base_dir, files)
        for proto in (proto_root() / "ablate" / "v1").glob("*.proto"):
            target = Path(base_dir, "proto", "ablate", "v1", proto.name)
            target.parent.mkdir(parents=True, exist_ok=True)
            self.copy_file(str(proto), str(target))


setup(cmdclass={"build_py": BuildPy, "sdist": Sdist})
