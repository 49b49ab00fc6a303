"""The process that reads a legacy file; only `convert.py` starts it.

`python -m resources.weights.convert_child LIMITS SOURCE TARGET CONVERSION` sets its own limits before it
opens anything, prints one line and exits with 3 when the file is refused.
"""

from __future__ import annotations

import io
import json
import pickle
import resource
import sys
from pathlib import Path
from typing import Any

from resources.weights.entries import Conversion

REFUSED = 3

ADMITTED = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "scalar"),
    ("_codecs", "encode"),
}
"""All that a pickle of numpy arrays needs; every other name is refused before it is looked up."""


class Refused(Exception):
    """The file is not what may be converted."""


def main(limits: str, source_path: str, target_path: str, conversion: str) -> int:
    """Limit this process, then convert."""
    set_limits(**json.loads(limits))
    return convert_file(Path(source_path), Path(target_path), Conversion.model_validate_json(conversion))


def set_limits(memory: int, cpu: int, file: int) -> None:
    """Bytes of address space, seconds of CPU, bytes of a written file; no core dumps."""
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu))
    resource.setrlimit(resource.RLIMIT_FSIZE, (file, file))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def convert_file(source: Path, target: Path, how: Conversion) -> int:
    """Convert a file; returns the exit code, and prints why when it is refused."""
    try:
        if how.kind == "face_model":
            _convert_face_model(source, target)
        else:
            _convert_state_dict(source, target, how)
    except Refused as error:
        print(error)
        return REFUSED
    except MemoryError:
        print("it needs more memory than the converter may have")
        return REFUSED
    return 0


def _convert_state_dict(source: Path, target: Path, how: Conversion) -> None:
    import torch
    from safetensors.torch import save_file

    try:
        content = torch.load(source, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        name = _unsafe_name(str(error))
        raise Refused(
            f"it holds {name}, which only running its code can read, so it is no plain state dict"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        what = str(error).strip().splitlines()
        raise Refused(
            f"it is damaged or no torch file ({what[0] if what else 'it ends too soon'})"
        ) from error
    for key in how.inside:
        if not isinstance(content, dict) or key not in content:
            there = ", ".join(map(str, list(content)[:5])) if isinstance(content, dict) else type(content)
            raise Refused(f"it has no entry {key!r}; it has {there}")
        content = content[key]
    if not isinstance(content, dict):
        raise Refused(f"it holds a {type(content).__name__} where a state dict should be")
    tensors: dict[str, torch.Tensor] = {}
    for name, value in content.items():
        if not isinstance(value, torch.Tensor):
            continue
        short = str(name)
        for prefix in how.strip:
            short = short.removeprefix(prefix)
        if short.startswith(how.keep):
            tensors[short] = value.detach().clone().contiguous()
    if not tensors:
        raise Refused("it holds no tensor" + (f" whose name begins with {how.keep!r}" if how.keep else ""))
    save_file(tensors, target)


def _unsafe_name(message: str) -> str:
    """The class that torch's restricted unpickler would not load, from its message."""
    marker = "GLOBAL "
    if marker in message:
        return message.split(marker, 1)[1].split()[0]
    return "objects other than tensors"


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ADMITTED:
            raise Refused(f"it holds {module}.{name}; only numpy arrays are read from it")
        return super().find_class(module, name)


def _convert_face_model(source: Path, target: Path) -> None:
    """3DDFA-V3's face_model.npy: an array file around a pickled dict of arrays and of lists of arrays."""
    import numpy as np
    from safetensors.numpy import save_file

    data = source.read_bytes()
    body = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(body)
        read_header = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
        shape, _, dtype = read_header[version[0]](body)
    except (ValueError, KeyError) as error:
        raise Refused(f"it is no .npy file ({error})") from error
    if shape != () or dtype != np.dtype(object):
        raise Refused(f"it holds an array {shape} of {dtype} where one pickled dict should be")
    try:
        content = _ArraysOnly(body).load()
    except (pickle.UnpicklingError, EOFError, ValueError, IndexError, TypeError, AttributeError) as error:
        raise Refused(f"it is cut short or damaged ({error})") from error
    if isinstance(content, np.ndarray) and content.shape == ():
        content = content.item()
    if not isinstance(content, dict):
        raise Refused(f"it holds a {type(content).__name__} where a dict should be")
    arrays: dict[str, np.ndarray] = {}
    for name, value in content.items():
        if isinstance(value, np.ndarray) and value.dtype != object:
            arrays[str(name)] = np.ascontiguousarray(value)
        elif isinstance(value, list | tuple | np.ndarray):
            for place, item in enumerate(value):
                arrays[f"{name}.{place}"] = np.ascontiguousarray(np.asarray(item))
    if any(array.dtype == object for array in arrays.values()):
        raise Refused("it holds arrays of Python objects")
    save_file(arrays, target)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
